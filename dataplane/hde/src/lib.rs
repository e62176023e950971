//! Hybrid delta encoding: makes one segment small, and whole again.
//!
//! An [`Encoder`] finds what of a segment stands in a [`Baseline`], also moved and changed in places, in chunks that only the receiver
//! holds ([`SignatureIndex`]) or in earlier segments; the rest is literal, by zstd, lz4 or as it is. What it writes is a container of
//! `proto_wire::hde`; it is never longer than the segment plus [`OVERHEAD_BYTES`]. A [`Decoder`] takes any bytes: it never
//! panics, and neither its memory nor its output passes the length that the caller expects. [`encode_file`] and
//! [`decode_file`] do the same for whole files. Pure but for the clock and the counters of a [`Meter`].

mod anchors;
mod baseline;
mod candidates;
mod compare;
mod cost;
mod decoder;
mod delta;
mod described;
mod dictionary;
mod encoder;
mod encoding;
mod file;
mod history;
mod literals;
mod matcher;
mod meter;
mod near;
mod options;
mod plan;
mod prefix;
mod read_at;
mod refine;
mod sampling;
mod signature;
mod sketch;
mod sources;
mod tree;
mod typed;
mod version;
mod views;
mod why;
mod work;
mod zeros;

pub use anchors::{AnchorIndex, Density};
pub use baseline::Baseline;
pub use cost::{Choice, Costs, Effort, Permille, Reason};
pub use decoder::{DecodeError, Decoded, Decoder};
pub use dictionary::{
    Class, Classes, DamagedObject, Dictionary, DictionaryError, Lean, MAX_CLASSES, MAX_DICTIONARY_BYTES,
    MAX_SMALL_BYTES, MAX_TOGETHER_BYTES, Record, SmallDecoder, SmallEncoder, Trained, Verdict, small_level,
};
pub use encoder::{Encoder, MAX_ENCODED_BYTES, OVERHEAD_BYTES};
pub use encoding::{Codec, Encoding, SegmentTooLong, Stands, Whole};
pub use file::{Against, Explain, FileError, FileOptions, FileOutput, FileSummary, WriteAt, decode_file, encode_file};
pub use meter::{CodecTotals, Meter, Stats};
pub use options::{Algorithm, Level, Options, UnknownAlgorithm};
pub use proto_wire::hde::{LAG, MAX_SEGMENT_BYTES};
pub use read_at::{FileAt, ReadAt};
pub use signature::{Chunker, Cut, Run, Signature, SignatureBuilder, SignatureError, SignatureIndex, average_log};
pub use sketch::{SKETCH_WINDOW_BYTES, SKETCH_WORDS, Sketch, sketch_has, sketch_windows, sketch_word};
pub use sources::{HeldSources, NoSources, Sources};
pub use typed::{DamagedNumbers, Layout, Typed};
pub use version::{Basis, HistoryUse, Version};
pub use why::{Decided, Form, Found, Weighed, Why};

#[cfg(test)]
mod tests;
