//! Dictionaries for small objects, and small objects by themselves.
//!
//! An object of a few KiB has no room to repeat itself: zstd needs something before it. That is its old version, where both ends have it
//! ([`Lean::Baseline`], all of it), else what objects of its [`Class`] have in common: a [`Dictionary`], trained of the sender's own objects,
//! known by the BLAKE3 digest of its bytes and shipped once. [`Classes`] decides when one is trained and shipped, and drops it when it does not pay.

mod class;
mod classes;
mod samples;
mod small;

use std::{fmt, sync::Arc};

pub use class::Class;
pub use classes::{Classes, MAX_CLASSES, Record, Verdict};
pub use small::{DamagedObject, Lean, MAX_SMALL_BYTES, MAX_TOGETHER_BYTES, SmallDecoder, SmallEncoder, small_level};

/// The longest dictionary: what zstd itself makes by default (110 KiB), and a little.
pub const MAX_DICTIONARY_BYTES: usize = proto_wire::frames::MAX_DICTIONARY_BYTES as usize;
/// The shortest that is worth a name.
const MIN_DICTIONARY_BYTES: usize = 1 << 10;
/// A dictionary is at most this part of what it is trained of.
const SAMPLES_TO_DICTIONARY: usize = 10;
/// Lengths that are tried besides the longest.
const LENGTHS: [usize; 3] = [2 << 10, 8 << 10, 32 << 10];
/// A shorter one may save less by one part of so many.
const NEARLY: u16 = 10;
/// One of so many samples is kept out of the training, to measure by.
const HELD_OUT: usize = 5;
/// A dictionary that saves less of 1000 bytes of samples is none.
const MIN_SAVED_PERMILLE: u16 = 30;

/// Bytes that are like the objects of a class. Clones are the same bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Dictionary {
    id: blake3::Hash,
    bytes: Arc<[u8]>,
}

/// Why bytes are not the dictionary that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DictionaryError {
    /// Longer than [`MAX_DICTIONARY_BYTES`].
    #[error("a dictionary of {0} bytes is too long")]
    TooLong(usize),
    /// Other bytes.
    #[error("the dictionary does not have the digest that it is known by")]
    OtherBytes,
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Dictionary")
            .field("id", &self.id.to_hex().as_str())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

impl Dictionary {
    /// A dictionary for objects like `samples`, and what it saves on others of them; None where they are too few or have too little in common.
    #[must_use]
    pub fn train(samples: &[Vec<u8>]) -> Option<Trained> {
        let kept_out = |at: usize| at % HELD_OUT == HELD_OUT - 1;
        let trained_of = |at: &usize| !kept_out(*at);
        let of: Vec<&[u8]> = (0..samples.len()).filter(trained_of).map(|at| samples[at].as_slice()).collect();
        let total: usize = of.iter().map(|sample| sample.len()).sum();
        let most = (total / SAMPLES_TO_DICTIONARY).min(MAX_DICTIONARY_BYTES);
        if most < MIN_DICTIONARY_BYTES {
            return None;
        }
        // The shortest that saves nearly as much as any: it is to be shipped.
        let lengths = LENGTHS.iter().copied().filter(|length| *length < most).chain([most]);
        let trained: Vec<_> = lengths.filter_map(|length| Self::of_length(&of, length, samples)).collect();
        let best = trained.iter().map(|trained| trained.saved_permille).max()?;
        trained.into_iter().find(|trained| trained.saved_permille >= best - best / NEARLY)
    }

    fn of_length(of: &[&[u8]], length: usize, samples: &[Vec<u8>]) -> Option<Trained> {
        let bytes = zstd::dict::from_samples(of, length).ok()?;
        let dictionary = Self { id: blake3::hash(&bytes), bytes: bytes.into() };
        let (mut coder, mut with, mut without) = (SmallEncoder::new(), 0, 0);
        for sample in samples.iter().skip(HELD_OUT - 1).step_by(HELD_OUT) {
            let mut length = |lean| coder.compress(sample, lean, DEFAULT_LEVEL).map_or(sample.len(), <[u8]>::len);
            with += length(Lean::Dictionary(&dictionary));
            without += length(Lean::Nothing);
        }
        let saved = without.saturating_sub(with) * 1000 / without.max(1);
        Some(Trained { dictionary, saved_permille: u16::try_from(saved).unwrap_or(1000) })
    }

    /// The bytes of a peer that are to be the dictionary `id`.
    ///
    /// # Errors
    /// Where they are too long or have another digest.
    pub fn from_bytes(bytes: &[u8], id: blake3::Hash) -> Result<Self, DictionaryError> {
        if bytes.len() > MAX_DICTIONARY_BYTES {
            return Err(DictionaryError::TooLong(bytes.len()));
        }
        if blake3::hash(bytes) == id { Ok(Self { id, bytes: bytes.into() }) } else { Err(DictionaryError::OtherBytes) }
    }

    /// What it is known by: the BLAKE3 digest of its bytes.
    #[must_use]
    pub const fn id(&self) -> blake3::Hash {
        self.id
    }

    /// What is shipped; at most [`MAX_DICTIONARY_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The level by which dictionaries are measured.
const DEFAULT_LEVEL: i8 = 3;

/// A new dictionary.
#[derive(Clone, Debug)]
pub struct Trained {
    /// It.
    pub dictionary: Dictionary,
    /// What it saves of the compressed length of objects that it was not trained of.
    pub saved_permille: u16,
}

impl Trained {
    /// The dictionary, where it saves anything to speak of.
    #[must_use]
    pub fn useful(self) -> Option<Dictionary> {
        (self.saved_permille >= MIN_SAVED_PERMILLE).then_some(self.dictionary)
    }
}

#[cfg(test)]
mod tests;
