//! Puts together what a receiver says of a file, in one frame or several.

use std::sync::Arc;

use dataplane_hde::{Signature, SignatureIndex};
use proto_wire::{frames::WantedFile, manifest::Entry};

use super::{basis_memory::BasisMemory, file::Wish, state::Sending};
use crate::stop::Stop;

/// What may be said of an old version: so much of it as the new one has, four times.
const BASIS_FACTOR: u64 = 4;
/// A chunk of an old version takes at most this part of its bytes in a signature …
const SIGNATURE_SHARE: u64 = 8;
/// … and a signature at least so many.
const SIGNATURE_LEAST: u64 = 1024;

/// What the receiver says of an old version.
#[derive(Debug, Default)]
pub(super) enum Offer {
    /// Nothing, or there is no memory for it: all of the file travels.
    #[default]
    Nothing,
    /// That there is one, and no more.
    Undescribed,
    /// Its chunks.
    Signature(Arc<SignatureIndex>, BasisMemory),
    /// Its digest.
    Baseline([u8; 32]),
}

/// What was said of a file so far.
#[derive(Debug)]
pub(super) struct Gathering {
    file: u64,
    held: Vec<(u64, [u8; 32])>,
    said: Said,
    made: bool,
    elsewhere: bool,
}

#[derive(Debug)]
enum Said {
    Nothing,
    /// There is an old version, but not described, or without memory for it.
    Ignored,
    Signature {
        of_bytes: u64,
        bytes: Vec<u8>,
        memory: BasisMemory,
    },
    Baseline([u8; 32]),
}

impl Gathering {
    /// Adds a part; `entry` is the file's.
    pub(super) fn add(before: Option<Self>, part: WantedFile, entry: &Entry, sending: &Sending) -> Result<Self, Stop> {
        let bad = |why: &str| Stop::violation(format!("what the receiver says of file {} {why}", part.file));
        let mut all = before.unwrap_or(Self {
            file: part.file,
            held: Vec::new(),
            said: Said::Nothing,
            made: false,
            elsewhere: false,
        });
        if all.file != part.file {
            return Err(bad("is mixed with another file"));
        }
        all.held.extend_from_slice(&part.held);
        let segments = sending.division().of(entry.size());
        // What a receiver may say is bounded by the file that it is said of.
        if u64::try_from(all.held.len()).unwrap_or(u64::MAX) > segments.count() {
            return Err(bad("is more than it needs to"));
        }
        all.made |= part.made;
        all.elsewhere |= part.elsewhere;
        // It is like what the sketch says.
        if all.elsewhere && entry.versions.sketch.is_none() {
            return Err(bad("contradicts itself"));
        }
        let says = (part.basis_bytes > 0, !part.signature.is_empty(), part.baseline);
        match says {
            (false, false, None) => {}
            (false, false, Some(digest)) if matches!(all.said, Said::Nothing) => all.said = Said::Baseline(digest),
            (true, false, None) if matches!(all.said, Said::Nothing) => all.said = Said::Ignored,
            (true, true, None) => all.signature(&part, entry, sending).map_err(bad)?,
            _ => return Err(bad("contradicts itself")),
        }
        if all.made && (entry.versions.root.is_none() || !all.held.is_empty() || !matches!(all.said, Said::Nothing)) {
            return Err(bad("contradicts itself"));
        }
        Ok(all)
    }

    fn signature(&mut self, part: &WantedFile, entry: &Entry, sending: &Sending) -> Result<(), &'static str> {
        if part.basis_bytes > entry.size().saturating_mul(BASIS_FACTOR) {
            return Err("is more than it needs to");
        }
        if matches!(self.said, Said::Nothing) {
            let memory = BasisMemory::none(&sending.shared);
            self.said = Said::Signature { of_bytes: part.basis_bytes, bytes: Vec::new(), memory };
        }
        match &mut self.said {
            Said::Signature { of_bytes, bytes, memory } => {
                if *of_bytes != part.basis_bytes {
                    return Err("contradicts itself");
                }
                let most = SIGNATURE_LEAST + part.basis_bytes / SIGNATURE_SHARE;
                if u64::try_from(bytes.len() + part.signature.len()).unwrap_or(u64::MAX) > most {
                    return Err("is more than it needs to");
                }
                if memory.grow(&sending.shared, part.signature.len()) {
                    bytes.extend_from_slice(&part.signature);
                } else {
                    sending.fell_back("memory");
                    self.said = Said::Ignored;
                }
                Ok(())
            }
            Said::Ignored => Ok(()),
            Said::Nothing | Said::Baseline(_) => Err("contradicts itself"),
        }
    }

    /// The digest of the whole file that the receiver has, where it said that.
    pub(super) fn baseline(&self) -> Option<[u8; 32]> {
        match &self.said {
            Said::Baseline(digest) => Some(*digest),
            Said::Nothing | Said::Ignored | Said::Signature { .. } => None,
        }
    }

    /// Whether the receiver has an old version.
    pub(super) fn replaces(&self) -> bool {
        !matches!(self.said, Said::Nothing)
    }

    /// Whether the receiver makes the file itself.
    pub(super) fn is_made(&self) -> bool {
        self.made
    }

    pub(super) fn finish(self, entry: Entry) -> Result<Wish, Stop> {
        let offer = match self.said {
            Said::Nothing => Offer::Nothing,
            Said::Ignored => Offer::Undescribed,
            Said::Baseline(digest) => Offer::Baseline(digest),
            Said::Signature { bytes, memory, .. } => {
                let signature = Signature::from_bytes(bytes).map_err(|error| Stop::violation(error.to_string()))?;
                Offer::Signature(Arc::new(SignatureIndex::new(&signature)), memory)
            }
        };
        Ok(Wish { file: self.file, entry, held: self.held, offer, elsewhere: self.elsewhere })
    }
}
