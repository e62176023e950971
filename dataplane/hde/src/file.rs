//! Whole files as a sequence of encoded segments (`proto_wire::hde::FileHead`), for people who want to see or use HDE by itself.

mod decode;
mod encode;
mod records;
mod short;

use std::{io, sync::Arc};

pub use decode::{FileOutput, WriteAt, decode_file};
pub use encode::{Against, encode_file};
use proto_wire::hde::MAX_SEGMENT_BYTES;

use crate::{decoder::DecodeError, encoding::Encoding, meter::Meter, options::Options};

/// Why a file cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file to read from failed.
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    /// The baseline failed.
    #[error("cannot read the baseline")]
    Baseline(#[source] io::Error),
    /// The file to write to failed.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The input was not made by `encode_file`.
    #[error("the input is no HDE file, or is cut off")]
    NotEncoded,
    /// Its bytes are not those that were written.
    #[error("the input is damaged: it was changed since it was encoded")]
    Damaged,
    /// It was encoded against a baseline.
    #[error("the input was encoded against a baseline; give it as well")]
    BaselineNeeded,
    /// It was encoded against another baseline.
    #[error("the input was encoded against another baseline")]
    OtherBaseline,
    /// A segment is damaged.
    #[error("segment {number} is damaged")]
    Segment {
        /// Counted from 0.
        number: u64,
        /// How.
        #[source]
        source: DecodeError,
    },
    /// A segment decodes to other bytes.
    #[error("segment {0} is not what was encoded")]
    SegmentDigest(u64),
    /// The whole is not what was encoded.
    #[error("the decoded file is not the one that was encoded")]
    Digest,
    /// The output would be longer than allowed.
    #[error("the decoded file is longer than {0} bytes")]
    TooLong(u64),
}

/// How to encode a file.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// How to encode its segments.
    pub options: Options,
    /// Bytes of a segment: a power of two from 64 KiB to [`MAX_SEGMENT_BYTES`].
    pub segment_bytes: u32,
    /// Threads that encode; what they make does not depend on them.
    pub threads: usize,
    /// What the path carries, in bytes a second for each thread, where that is known.
    pub link: Option<u64>,
    /// What counts.
    pub meter: Option<Meter>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { options: Options::default(), segment_bytes: MAX_SEGMENT_BYTES, threads: 1, link: None, meter: None }
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSummary {
    /// Segments.
    pub segments: u64,
    /// Bytes of the file itself.
    pub original_bytes: u64,
    /// Bytes of its encoded form, all included.
    pub encoded_bytes: u64,
    /// Bytes that are of the baseline, or of earlier segments.
    pub referenced_bytes: u64,
}

/// Hears of each segment: its number, and how it was encoded.
pub type Explain<'a> = &'a mut dyn FnMut(u64, &Encoding);

/// A thread that panicked is an error of whoever waits for it.
fn panicked<T>(_panic: T) -> FileError {
    FileError::Input(io::Error::other("a thread ended early"))
}

type Bytes = Arc<dyn crate::read_at::ReadAt>;
