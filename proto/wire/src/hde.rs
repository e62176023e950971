//! The container of one segment as HDE encodes it, version 2: a head and a body. Pure: it knows where things stand, not how
//! streams are compressed. `docs/protocol/hde-container.md` describes it byte by byte, with examples that a test holds.
//!
//! [`Head::parse`], [`Streams::parse`] and [`Ops`] take any bytes: none panics, no operation that they give is beyond the
//! segment or overflows, and nothing is allocated.

mod file;
mod number;
mod ops;
mod range;
mod varint;

pub use file::{
    FILE_CHECK_BYTES, FILE_HEAD_BYTES, FILE_MAGIC_BYTES, FILE_TAIL_BYTES, FileHead, FileTail, MAX_RECORD_HEAD_BYTES,
    MAX_SHORT_HEAD_BYTES, MIN_FILE_SEGMENT_BYTES, RECORD_DIGEST_BYTES, Record, SHORT_BASELINE_BYTES, ShortHead,
};
pub use ops::{MAX_OPS, Op, OpWriter, Ops, Source};
pub use range::{Bit, Coder, RangeDecoder, RangeEncoder};
pub use varint::{put_varint, take_varint};

/// Bytes of the head.
pub const HEAD_BYTES: usize = 8;
/// The longest segment (D19).
pub const MAX_SEGMENT_BYTES: u32 = 4 << 20;
/// A segment may refer to earlier segments of the same object that are at least so many before it: so many are encoded and
/// decoded at once without waiting for one another.
pub const LAG: u64 = 8;
/// The most bytes of the basis that a segment's literals may lean on: two segments, so that a decoder stays below 20 MB.
pub const MAX_PREFIX_BYTES: usize = 8 << 20;
/// So many bytes of the basis on each side of a gap belong to the prefix.
pub const PREFIX_MARGIN_BYTES: u64 = 256;
/// A gap brings at most so many bytes of the basis from each of its ends into the prefix, besides the margins.
pub const PREFIX_REACH_BYTES: u64 = 64 << 10;
/// So many bytes of history are the prefix of a plain segment that uses history.
pub const HISTORY_PREFIX_BYTES: u64 = 1 << 20;

const VERSION: u8 = 2;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LiteralCodec {
    /// Not at all.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One lz4 block.
    Lz4,
    /// One snappy block.
    Snappy,
}

impl LiteralCodec {
    const fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Lz4 => 2,
            Self::Snappy => 3,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::Lz4),
            3 => Some(Self::Snappy),
            _ => None,
        }
    }
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// All of the segment as one stream.
    Plain(LiteralCodec),
    /// Operations and the bytes that they ask for.
    Delta,
    /// Fixed-width numbers against those at one place of the basis.
    Typed,
}

/// What a body leans on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Reads the basis.
    pub basis: bool,
    /// Reads earlier segments of the same object.
    pub history: bool,
    /// Bytes of changed stretches are differences from those of the source, not the new ones.
    pub differences: bool,
    /// Literals are compressed with bytes of the sources as prefix.
    pub prefix: bool,
}

impl Flags {
    fn byte(self) -> u8 {
        u8::from(self.basis)
            | u8::from(self.history) << 1
            | u8::from(self.differences) << 2
            | u8::from(self.prefix) << 3
    }

    fn of(byte: u8) -> Option<Self> {
        let bit = |number: u8| byte >> number & 1 == 1;
        (byte < 16).then(|| Self { basis: bit(0), history: bit(1), differences: bit(2), prefix: bit(3) })
    }
}

/// Why bytes are no container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// It ends too early.
    #[error("the encoded segment is cut off")]
    CutOff,
    /// Another version.
    #[error("the encoded segment has version {0}, known is 2")]
    Version(u8),
    /// A kind, codec or flag that is not known.
    #[error("the encoded segment names kind, codec or flag {0}, which is not known")]
    Unknown(u8),
    /// More, or longer, than the bounds allow.
    #[error("the encoded segment is beyond its bounds")]
    TooLarge,
    /// Operations that are empty, overflow or do not add up to the segment.
    #[error("the operations of the encoded segment do not add up")]
    Inconsistent,
}

/// The head of an encoded segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What follows.
    pub kind: Kind,
    /// What it leans on.
    pub flags: Flags,
    /// The length of the decoded segment, at most [`MAX_SEGMENT_BYTES`].
    pub segment_bytes: u32,
}

impl Head {
    /// The head and what follows it.
    ///
    /// # Errors
    /// On whatever is none.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), ContainerError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(ContainerError::CutOff)?;
        let [version, kind, flags, codec, l0, l1, l2, l3] = *head;
        if version != VERSION {
            return Err(ContainerError::Version(version));
        }
        let literals = LiteralCodec::of(codec).ok_or(ContainerError::Unknown(codec))?;
        let kind = match kind {
            0 => Kind::Plain(literals),
            1 => Kind::Delta,
            2 => Kind::Typed,
            other => return Err(ContainerError::Unknown(other)),
        };
        if codec != 0 && !matches!(kind, Kind::Plain(_)) {
            return Err(ContainerError::Unknown(codec));
        }
        let flags = Flags::of(flags).ok_or(ContainerError::Unknown(flags))?;
        let segment_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        if segment_bytes > MAX_SEGMENT_BYTES {
            return Err(ContainerError::TooLarge);
        }
        Ok((Self { kind, flags, segment_bytes }, rest))
    }

    /// As it is written.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEAD_BYTES] {
        let (kind, codec) = match self.kind {
            Kind::Plain(codec) => (0, codec.number()),
            Kind::Delta => (1, 0),
            Kind::Typed => (2, 0),
        };
        let [l0, l1, l2, l3] = self.segment_bytes.to_le_bytes();
        [VERSION, kind, self.flags.byte(), codec, l0, l1, l2, l3]
    }
}

/// A stream of a delta, as it stands in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream<'a> {
    /// How it is compressed.
    pub codec: LiteralCodec,
    /// Its length when it is decompressed; at most that of the longest segment.
    pub decoded_bytes: usize,
    /// What it is compressed to.
    pub bytes: &'a [u8],
}

/// The streams of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams<'a> {
    /// What [`Ops`] reads.
    pub ops: &'a [u8],
    /// Bytes of changed stretches.
    pub changes: Stream<'a>,
    /// Literals; to the end of the container.
    pub literals: Stream<'a>,
}

impl<'a> Streams<'a> {
    /// The streams of a body.
    ///
    /// # Errors
    /// On lengths beyond the bounds, and on what is cut off.
    pub fn parse(mut body: &'a [u8], segment_bytes: u32) -> Result<Self, ContainerError> {
        let most = usize::try_from(segment_bytes).unwrap_or(usize::MAX);
        let length = take_varint(&mut body).and_then(|length| usize::try_from(length).ok());
        let (ops, mut body) = length.and_then(|length| body.split_at_checked(length)).ok_or(ContainerError::CutOff)?;
        let changes = take_stream(&mut body, most)?;
        let literals = take_stream(&mut body, most)?;
        if changes.decoded_bytes + literals.decoded_bytes > most {
            return Err(ContainerError::TooLarge);
        }
        if body.is_empty() { Ok(Self { ops, changes, literals }) } else { Err(ContainerError::Inconsistent) }
    }
}

fn take_stream<'a>(body: &mut &'a [u8], most: usize) -> Result<Stream<'a>, ContainerError> {
    let both = take_varint(body).ok_or(ContainerError::CutOff)?;
    let number = u8::try_from(both & 3).unwrap_or(0);
    let codec = LiteralCodec::of(number).ok_or(ContainerError::Unknown(number))?;
    let length = usize::try_from(both >> 2).map_err(|_over| ContainerError::TooLarge)?;
    let decoded = match codec {
        LiteralCodec::Raw => length,
        LiteralCodec::Zstd | LiteralCodec::Lz4 | LiteralCodec::Snappy => {
            let decoded = take_varint(body).ok_or(ContainerError::CutOff)?;
            usize::try_from(decoded).map_err(|_over| ContainerError::TooLarge)?
        }
    };
    if decoded > most || length > decoded {
        return Err(ContainerError::TooLarge);
    }
    let (bytes, rest) = body.split_at_checked(length).ok_or(ContainerError::CutOff)?;
    *body = rest;
    Ok(Stream { codec, decoded_bytes: decoded, bytes })
}

/// Appends the operations of a delta.
pub fn put_ops(ops: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::try_from(ops.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(ops);
}

/// Appends a stream of a delta. A compressed one is shorter than `decoded_bytes`.
pub fn put_stream(codec: LiteralCodec, decoded_bytes: usize, bytes: &[u8], out: &mut Vec<u8>) {
    let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    put_varint(wide(bytes.len()) << 2 | u64::from(codec.number()), out);
    if codec != LiteralCodec::Raw {
        put_varint(wide(decoded_bytes), out);
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
