//! The file form: encoded segments one after another, each with a digest, and the digest of the whole at the end.
//!
//! ```text
//! head    8 bytes "DWCPHDE" and 2; u32 LE bytes of a segment; u64 LE bytes of the file, or 2^64-1 where that was not known;
//!         u64 LE bytes of the baseline; 32 bytes its BLAKE3 (zeros where there is none)
//! records varint length × 4 + kind, then
//!           kind 0  a segment: its container of that length, then 16 bytes: of the BLAKE3 of what it decodes to
//!           kind 1  a run: that many whole segments that are the baseline's bytes from a place on: varint, the place
//!           kind 2  a run of that many whole segments of zeros
//!         varint 3  the end
//! tail    u64 LE bytes of the file; 32 bytes its BLAKE3 root; 16 bytes: of the BLAKE3 of all bytes before these, head and records
//!         included, so that no bit of it changes unseen
//! ```
//!
//! A file of one segment has a short form: a head of 8 bytes "DWCPHDE" and 130; varint bytes of the baseline; where there is one 8 bytes
//! of its BLAKE3; the container; 16 bytes of the BLAKE3 of all bytes before these and of what the container decodes to.

use super::varint::{put_varint, take_varint};

/// The shortest segment of a file of several: shorter ones would cost too much in digests.
pub const MIN_FILE_SEGMENT_BYTES: u32 = 64 << 10;
/// Bytes of the head.
pub const FILE_HEAD_BYTES: usize = 60;
/// Bytes of the tail.
pub const FILE_TAIL_BYTES: usize = 40;
/// Bytes of the digest of all that stands before it, behind the tail.
pub const FILE_CHECK_BYTES: usize = 16;
/// The longest a record is without its container.
pub const MAX_RECORD_HEAD_BYTES: usize = 20;
/// Bytes of a segment's digest.
pub const RECORD_DIGEST_BYTES: usize = 16;

/// Bytes that both forms begin with.
pub const FILE_MAGIC_BYTES: usize = 8;
/// Bytes of a baseline's digest in the short form.
pub const SHORT_BASELINE_BYTES: usize = 8;
/// The longest head of the short form.
pub const MAX_SHORT_HEAD_BYTES: usize = FILE_MAGIC_BYTES + 10 + SHORT_BASELINE_BYTES;

const MAGIC: [u8; FILE_MAGIC_BYTES] = *b"DWCPHDE\x02";
const SHORT_MAGIC: [u8; FILE_MAGIC_BYTES] = *b"DWCPHDE\x82";

/// The head of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHead {
    /// Bytes of each segment but the last.
    pub segment_bytes: u32,
    /// Bytes of the file, where that was known at the start.
    pub size: Option<u64>,
    /// Bytes of the baseline; 0 for none.
    pub baseline_bytes: u64,
    /// Its BLAKE3; zeros for none.
    pub baseline: [u8; 32],
}

impl FileHead {
    /// As it is written.
    #[must_use]
    pub fn bytes(&self) -> [u8; FILE_HEAD_BYTES] {
        let mut bytes = [0; FILE_HEAD_BYTES];
        let parts: [&[u8]; 5] = [
            &MAGIC,
            &self.segment_bytes.to_le_bytes(),
            &self.size.unwrap_or(u64::MAX).to_le_bytes(),
            &self.baseline_bytes.to_le_bytes(),
            &self.baseline,
        ];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        bytes
    }

    /// The head; none for other bytes.
    #[must_use]
    pub fn parse(bytes: &[u8; FILE_HEAD_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (segment, rest) = rest.split_first_chunk::<4>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (baseline_bytes, rest) = rest.split_first_chunk::<8>()?;
        let size = u64::from_le_bytes(*size);
        let segment_bytes = u32::from_le_bytes(*segment);
        let lengths = MIN_FILE_SEGMENT_BYTES..=super::MAX_SEGMENT_BYTES;
        let sound = *magic == MAGIC && segment_bytes.is_power_of_two() && lengths.contains(&segment_bytes);
        sound.then_some(Self {
            segment_bytes,
            size: (size != u64::MAX).then_some(size),
            baseline_bytes: u64::from_le_bytes(*baseline_bytes),
            baseline: rest.try_into().ok()?,
        })
    }
}

/// The head of a file of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortHead {
    /// Bytes of the baseline; 0 for none.
    pub baseline_bytes: u64,
    /// The first of its BLAKE3; zeros for none.
    pub baseline: [u8; SHORT_BASELINE_BYTES],
}

impl ShortHead {
    /// Whether a file that begins so has the short form.
    #[must_use]
    pub fn is_of(magic: &[u8; FILE_MAGIC_BYTES]) -> bool {
        *magic == SHORT_MAGIC
    }

    /// Appends it.
    pub fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&SHORT_MAGIC);
        put_varint(self.baseline_bytes, out);
        if self.baseline_bytes > 0 {
            out.extend_from_slice(&self.baseline);
        }
    }

    /// Takes it from the front; none where there is none.
    pub fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<FILE_MAGIC_BYTES>()?;
        let mut rest = Some(rest).filter(|_| Self::is_of(magic))?;
        let baseline_bytes = take_varint(&mut rest)?;
        let mut baseline = [0; SHORT_BASELINE_BYTES];
        if baseline_bytes > 0 {
            let (digest, after) = rest.split_first_chunk::<SHORT_BASELINE_BYTES>()?;
            (baseline, rest) = (*digest, after);
        }
        *bytes = rest;
        Some(Self { baseline_bytes, baseline })
    }
}

/// What a record is, without its container and digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A container of so many bytes and a digest follow.
    Segment {
        /// Of the container.
        bytes: u64,
    },
    /// Whole segments that stand in the baseline.
    Run {
        /// How many.
        segments: u64,
        /// Where in the baseline.
        offset: u64,
    },
    /// Whole segments of zeros.
    Zeros {
        /// How many.
        segments: u64,
    },
    /// No more segments: the tail follows.
    End,
}

impl Record {
    /// Appends it.
    pub fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Segment { bytes } => put_varint(bytes << 2, out),
            Self::Run { segments, offset } => {
                put_varint(segments << 2 | 1, out);
                put_varint(offset, out);
            }
            Self::Zeros { segments } => put_varint(segments << 2 | 2, out),
            Self::End => put_varint(3, out),
        }
    }

    /// Takes it from the front; none where there is none.
    pub fn take(bytes: &mut &[u8]) -> Option<Self> {
        let both = take_varint(bytes)?;
        Some(match both & 3 {
            0 => Self::Segment { bytes: both >> 2 },
            1 => Self::Run { segments: both >> 2, offset: take_varint(bytes)? },
            2 => Self::Zeros { segments: both >> 2 },
            _ if both == 3 => Self::End,
            _ => return None,
        })
    }
}

/// The tail of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileTail {
    /// Bytes of the file.
    pub size: u64,
    /// Its BLAKE3.
    pub root: [u8; 32],
}

impl FileTail {
    /// As it is written.
    #[must_use]
    pub fn bytes(&self) -> [u8; FILE_TAIL_BYTES] {
        let mut bytes = [0; FILE_TAIL_BYTES];
        bytes[..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..].copy_from_slice(&self.root);
        bytes
    }

    /// The tail.
    #[must_use]
    pub fn parse(bytes: &[u8; FILE_TAIL_BYTES]) -> Self {
        let (size, root) = bytes.split_first_chunk::<8>().map_or(([0; 8], [].as_slice()), |(a, b)| (*a, b));
        Self { size: u64::from_le_bytes(size), root: root.try_into().unwrap_or([0; 32]) }
    }
}
