//! Says what is held in the place of a wanted file: its digest, where the sender has announced that it knows that version, or its
//! chunks, so that the sender refers to them.

use std::{fs::File, io, os::unix::fs::FileExt};

use dataplane_hde::SignatureBuilder;
use proto_wire::{
    frames::{MAX_SIGNATURE_BYTES, WantedFile},
    manifest::{Entry, Versions},
    piece::SMALL_FILE_BYTES,
};
use rustix::fs::Stat;

use super::{
    compare::{Comparer, read_small_of_any_size},
    state::{Receiving, gone},
};
use crate::{
    confine::size,
    holes::is_hole,
    stop::Stop,
    versions::{FileStat, place},
};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;
/// What may be referred to of an old version: so much of it as the new one has, four times.
pub(super) const BASIS_FACTOR: u64 = 4;

/// What is held in the place of a file.
enum Old {
    /// The version that the sender has announced.
    Announced([u8; 32]),
    /// Chunks of so many of its bytes.
    Signature(u64, Vec<u8>),
    /// Nothing that helps, or nothing that would be worth its bytes.
    Undescribed,
}

impl Comparer {
    /// Asks for a file of which an old version is there.
    pub(super) fn say_with_old(&mut self, file: WantedFile, entry: &Entry, old: &Stat) -> Result<(), Stop> {
        let held = self.old(entry, old)?;
        if !matches!(held, Old::Undescribed) {
            self.receiving.files().offer(file.file);
        }
        match held {
            Old::Undescribed => self.say(WantedFile { basis_bytes: size(old).min(entry.size()), ..file }),
            Old::Announced(digest) => self.say(WantedFile { baseline: Some(digest), ..file }),
            Old::Signature(basis_bytes, signature) => {
                self.say_signature(WantedFile { basis_bytes, ..file }, &signature)
            }
        }
    }

    /// Says a signature, in as many frames as it takes.
    pub(super) fn say_signature(&mut self, mut file: WantedFile, signature: &[u8]) -> Result<(), Stop> {
        let (basis_bytes, elsewhere) = (file.basis_bytes, file.elsewhere);
        let mut parts = signature.chunks(MAX_SIGNATURE_BYTES).peekable();
        while let Some(part) = parts.next() {
            let more = parts.peek().is_some();
            let next = WantedFile { file: file.file, basis_bytes, elsewhere, ..WantedFile::default() };
            let first = std::mem::replace(&mut file, next);
            self.say(WantedFile { signature: part.to_vec(), more, ..first })?;
        }
        Ok(())
    }

    fn old(&self, entry: &Entry, old: &Stat) -> Result<Old, Stop> {
        let receiving = &self.receiving;
        let is_announced = |digest: &[u8; 32]| entry.versions.baseline == Versions::brief(digest);
        // A small one is read sooner than it is asked for what was noted of it.
        if entry.versions.baseline != 0 && entry.size() > SMALL_FILE_BYTES {
            let path = place(&receiving.destination, &entry.path);
            let held = receiving.shared.versions.held(&receiving.destination.root, &path, FileStat::from(old));
            if let Some(held) = held.filter(|held| is_announced(held.digest.as_bytes())) {
                return Ok(Old::Announced(*held.digest.as_bytes()));
            }
        }
        if entry.size() <= SMALL_FILE_BYTES {
            if entry.versions.baseline == 0 || size(old) > SMALL_FILE_BYTES {
                return Ok(Old::Undescribed);
            }
            let contents = self.open_parent().and_then(|parent| read_small_of_any_size(parent, entry.path.name()));
            let digest = contents.ok().map(|contents| *blake3::hash(&contents).as_bytes());
            return Ok(digest.filter(is_announced).map_or(Old::Undescribed, Old::Announced));
        }
        // A large file that is longer than may be referred to is not read for what it may be.
        let usable = size(old).min(entry.size().saturating_mul(BASIS_FACTOR));
        let Ok(file) = self.open_parent().and_then(|parent| parent.read(entry.path.name())) else {
            return Ok(Old::Undescribed);
        };
        let Some(Described { signature, root }) = describe(receiving, &file, usable)? else {
            return Ok(Old::Undescribed);
        };
        let whole = usable == size(old);
        Ok(if whole && is_announced(&root) { Old::Announced(root) } else { Old::Signature(usable, signature) })
    }
}

/// The beginning of a file.
pub(super) struct Described {
    pub(super) signature: Vec<u8>,
    root: [u8; 32],
}

/// The signature of the beginning of a file, and the digest of that; none where it cannot be read, or is empty.
pub(super) fn describe(receiving: &Receiving, file: &File, bytes: u64) -> Result<Option<Described>, Stop> {
    let (mut builder, mut offset) = (SignatureBuilder::new(bytes), 0_u64);
    let mut buffer = vec![0; READ_BYTES];
    while offset < bytes {
        if receiving.frames.is_closed() {
            return Err(gone());
        }
        let len = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(buffer.len());
        if read(file, offset, &mut buffer[..len]).is_err() {
            // It is changing, or unreadable: without a basis all of it travels.
            return Ok(None);
        }
        builder.push(&buffer[..len]);
        offset += u64::try_from(len).unwrap_or_default();
    }
    let (signature, root) = builder.finish();
    Ok((bytes > 0).then(|| Described { signature: signature.into_bytes(), root: *root.as_bytes() }))
}

fn read(file: &File, offset: u64, room: &mut [u8]) -> io::Result<()> {
    if is_hole(file, offset, room.len()) {
        room.fill(0);
        return Ok(());
    }
    file.read_exact_at(room, offset)
}
