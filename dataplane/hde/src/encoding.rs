//! How a segment was encoded.

use std::fmt;

use proto_wire::hde::{Kind, LiteralCodec, Op, Source};

use crate::{plan::Plan, why::Why};

/// What carries most of a segment; the `codec` of metrics and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Zeros only.
    Zero,
    /// References only, or references and zeros.
    Reference,
    /// References, and what changed beside them.
    Delta,
    /// Fixed-width numbers against those of the baseline.
    Typed,
    /// Literals as they are.
    Raw,
    /// Literals by zstd.
    Zstd,
    /// Literals by lz4.
    Lz4,
    /// Literals by snappy.
    Snappy,
    /// Small objects by zstd with a dictionary.
    Dictionary,
}

impl Codec {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Zero, Self::Reference, Self::Delta, Self::Raw, Self::Zstd, Self::Lz4, Self::Snappy];

    /// Its name in metrics and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Reference => "reference",
            Self::Delta => "delta",
            Self::Typed => "typed",
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
            Self::Dictionary => "dictionary",
        }
    }

    const fn of(literals: LiteralCodec) -> Self {
        match literals {
            LiteralCodec::Raw => Self::Raw,
            LiteralCodec::Zstd => Self::Zstd,
            LiteralCodec::Lz4 => Self::Lz4,
            LiteralCodec::Snappy => Self::Snappy,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// How a segment was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// What carries it.
    pub codec: Codec,
    /// Bytes of the segment.
    pub input_bytes: u64,
    /// Bytes that were appended to the output.
    pub output_bytes: u64,
    /// How many operations.
    pub ops: u32,
    /// Bytes that are references to what the receiver holds.
    pub referenced_bytes: u64,
    /// Bytes of those that are changed in places.
    pub changed_bytes: u64,
    /// Bytes that are of earlier segments.
    pub history_bytes: u64,
    /// Bytes that are zeros.
    pub zero_bytes: u64,
    /// Bytes that are literals, before compression.
    pub literal_bytes: u64,
    /// Where the receiver can make all of it of what it holds.
    pub whole: Option<Whole>,
    /// Why it is encoded like this.
    pub why: Why,
}

impl Encoding {
    /// Of small objects that lean on a dictionary, together.
    #[must_use]
    pub fn leaning(input: usize, output: usize) -> Self {
        let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        Self {
            codec: Codec::Dictionary,
            input_bytes: wide(input),
            output_bytes: wide(output),
            ops: 1,
            referenced_bytes: 0,
            changed_bytes: 0,
            history_bytes: 0,
            zero_bytes: 0,
            literal_bytes: wide(input),
            whole: None,
            why: Why::default(),
        }
    }
}

/// What all of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// Zeros.
    Zeros,
    /// Bytes of the basis.
    Basis {
        /// From here on.
        offset: u64,
    },
}

/// A segment is at most [`MAX_SEGMENT_BYTES`](crate::MAX_SEGMENT_BYTES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a segment of {0} bytes is longer than 4 MiB")]
pub struct SegmentTooLong(pub usize);

/// Where an encoded segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// Around the segment, which was not moved.
    InRoom,
    /// At the end of the output.
    Appended,
}

/// What carries a segment of this kind.
pub(crate) fn codec(encoding: &Encoding, kind: Kind) -> Codec {
    let referenced = encoding.referenced_bytes > 0;
    match kind {
        // All of an old version as its prefix.
        Kind::Plain(_) if referenced => Codec::Delta,
        Kind::Plain(codec) => Codec::of(codec),
        Kind::Typed => Codec::Typed,
        Kind::Delta if encoding.literal_bytes > 0 || encoding.changed_bytes > 0 => Codec::Delta,
        Kind::Delta => {
            if referenced {
                Codec::Reference
            } else {
                Codec::Zero
            }
        }
    }
}

/// What a plan makes of a segment of `length` bytes; what carries it is still to be said.
pub(crate) fn counts(plan: &Plan, length: usize) -> Encoding {
    let mut encoding = Encoding {
        codec: Codec::Zero,
        input_bytes: u64::try_from(length).unwrap_or(u64::MAX),
        output_bytes: 0,
        ops: u32::try_from(plan.ops.len()).unwrap_or(u32::MAX),
        referenced_bytes: 0,
        changed_bytes: 0,
        history_bytes: 0,
        zero_bytes: 0,
        literal_bytes: 0,
        why: Why::default(),
        whole: match plan.ops[..] {
            [Op::Copy { source: Source::Zeros, .. }] => Some(Whole::Zeros),
            [Op::Copy { source: Source::Basis, offset, .. }] => Some(Whole::Basis { offset }),
            _ => None,
        },
    };
    for op in &plan.ops {
        let bytes = u64::from(op.length());
        match op {
            Op::Literal { .. } => encoding.literal_bytes += bytes,
            Op::Changed { source, .. } | Op::Copy { source, .. } => match source {
                Source::Zeros => encoding.zero_bytes += bytes,
                Source::Basis => encoding.referenced_bytes += bytes,
                Source::History => {
                    encoding.referenced_bytes += bytes;
                    encoding.history_bytes += bytes;
                }
            },
        }
        if matches!(op, Op::Changed { .. }) {
            encoding.changed_bytes += bytes;
        }
    }
    encoding
}
