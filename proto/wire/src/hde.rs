//! The container of one segment as HDE encodes it: a head, operations, literals. Pure: it knows where things stand, not how
//! literals are compressed.
//!
//! ```text
//! 0      version, 1
//! 1      codec of the literals: 0 raw, 1 zstd, 2 lz4, 3 snappy
//! 2..4   number of operations, u16 LE; 0 means one literal over the whole segment
//! 4..8   length of the segment, u32 LE, at most MAX_SEGMENT_BYTES
//!        operations, in the segment's order, one after another, lengths u32 LE and never 0:
//!          0 literal  length
//!          1 zero     length
//!          2 copy     length, offset in the basis u64 LE
//!        literals, all of them as one stream of the codec, to the end
//! ```
//!
//! [`Container::parse`] takes any bytes and promises for what it returns: lengths of the operations add up to the segment's
//! length, no operation is empty, no offset overflows, all within the bounds below.

/// Bytes of the head.
pub const HEAD_BYTES: usize = 8;
/// The longest segment (D19).
pub const MAX_SEGMENT_BYTES: u32 = 4 << 20;
/// The most operations: blocks of 1 KiB, the smallest there are, in the longest segment.
pub const MAX_OPS: usize = 4096;

/// A segment may refer to earlier segments of the same object that are at least so many before it: so many are encoded and
/// decoded at once without waiting for one another.
pub const LAG: u64 = 8;

const VERSION: u8 = 1;
const LITERAL: u8 = 0;
const ZERO: u8 = 1;
const COPY: u8 = 2;

/// How the literals are compressed.
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

/// A stretch of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The next bytes of the literals.
    Literal {
        /// How many.
        length: u32,
    },
    /// Zero bytes.
    Zero {
        /// How many.
        length: u32,
    },
    /// Bytes that the receiver holds.
    Copy {
        /// How many.
        length: u32,
        /// Where in the basis.
        offset: u64,
    },
}

impl Op {
    /// How many bytes of the segment it makes.
    #[must_use]
    pub const fn length(self) -> u32 {
        match self {
            Self::Literal { length } | Self::Zero { length } | Self::Copy { length, .. } => length,
        }
    }

    const fn encoded_bytes(self) -> usize {
        match self {
            Self::Literal { .. } | Self::Zero { .. } => 5,
            Self::Copy { .. } => 13,
        }
    }
}

/// Why bytes are no container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// It ends too early.
    #[error("the encoded segment is cut off")]
    CutOff,
    /// Another version.
    #[error("the encoded segment has version {0}, known is 1")]
    Version(u8),
    /// A codec or an operation that is not known.
    #[error("the encoded segment names codec or operation {0}, which is not known")]
    Unknown(u8),
    /// More, or longer, than the bounds allow.
    #[error("the encoded segment is beyond its bounds")]
    TooLarge,
    /// Operations that are empty, overflow or do not add up to the segment.
    #[error("the operations of the encoded segment do not add up")]
    Inconsistent,
}

/// A parsed container.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    codec: LiteralCodec,
    segment_bytes: u32,
    literal_bytes: u32,
    ops: &'a [u8],
    literals: &'a [u8],
}

impl<'a> Container<'a> {
    /// Parses and checks.
    ///
    /// # Errors
    /// On whatever breaks the form described above.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ContainerError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(ContainerError::CutOff)?;
        let [version, codec, ops_low, ops_high, l0, l1, l2, l3] = *head;
        if version != VERSION {
            return Err(ContainerError::Version(version));
        }
        let codec = LiteralCodec::of(codec).ok_or(ContainerError::Unknown(codec))?;
        let count = usize::from(u16::from_le_bytes([ops_low, ops_high]));
        let segment_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        if segment_bytes > MAX_SEGMENT_BYTES || count > MAX_OPS {
            return Err(ContainerError::TooLarge);
        }
        let mut after = rest;
        let mut total = 0_u64;
        let mut literal_bytes = 0_u64;
        for _ in 0..count {
            let op = next_op(&mut after)?;
            let length = u64::from(op.length());
            total += length;
            match op {
                Op::Literal { .. } => literal_bytes += length,
                Op::Zero { .. } => {}
                Op::Copy { offset, .. } if offset.checked_add(length).is_none() => {
                    return Err(ContainerError::Inconsistent);
                }
                Op::Copy { .. } => {}
            }
            if length == 0 {
                return Err(ContainerError::Inconsistent);
            }
        }
        if count == 0 {
            literal_bytes = u64::from(segment_bytes);
        } else if total != u64::from(segment_bytes) {
            return Err(ContainerError::Inconsistent);
        }
        let ops = &rest[..rest.len() - after.len()];
        let literal_bytes = u32::try_from(literal_bytes).map_err(|_over| ContainerError::TooLarge)?;
        Ok(Self { codec, segment_bytes, literal_bytes, ops, literals: after })
    }

    /// How the literals are compressed.
    #[must_use]
    pub const fn codec(&self) -> LiteralCodec {
        self.codec
    }

    /// The length of the decoded segment; at most [`MAX_SEGMENT_BYTES`].
    #[must_use]
    pub const fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// The length of the decoded literals; at most that of the segment.
    #[must_use]
    pub const fn literal_bytes(&self) -> u32 {
        self.literal_bytes
    }

    /// The compressed literals.
    #[must_use]
    pub const fn literals(&self) -> &'a [u8] {
        self.literals
    }

    /// The operations, in order; a segment of one literal may have none.
    pub fn ops(&self) -> impl Iterator<Item = Op> + 'a {
        let mut rest = self.ops;
        std::iter::from_fn(move || next_op(&mut rest).ok())
    }
}

fn next_op(bytes: &mut &[u8]) -> Result<Op, ContainerError> {
    let (&kind, rest) = bytes.split_first().ok_or(ContainerError::CutOff)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(ContainerError::CutOff)?;
    let length = u32::from_le_bytes(*length);
    let (op, rest) = match kind {
        LITERAL => (Op::Literal { length }, rest),
        ZERO => (Op::Zero { length }, rest),
        COPY => {
            let (offset, rest) = rest.split_first_chunk::<8>().ok_or(ContainerError::CutOff)?;
            (Op::Copy { length, offset: u64::from_le_bytes(*offset) }, rest)
        }
        other => return Err(ContainerError::Unknown(other)),
    };
    *bytes = rest;
    Ok(op)
}

/// Appends head and operations; the literals are to follow.
///
/// # Errors
/// Where the operations are more than [`MAX_OPS`], or make more than [`MAX_SEGMENT_BYTES`].
pub fn write_head(
    codec: LiteralCodec,
    segment_bytes: u32,
    ops: &[Op],
    out: &mut Vec<u8>,
) -> Result<(), ContainerError> {
    let count = u16::try_from(ops.len()).map_err(|_over| ContainerError::TooLarge)?;
    if ops.len() > MAX_OPS || segment_bytes > MAX_SEGMENT_BYTES {
        return Err(ContainerError::TooLarge);
    }
    out.extend_from_slice(&[VERSION, codec.number()]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&segment_bytes.to_le_bytes());
    for op in ops {
        match *op {
            Op::Literal { length } => write_op(LITERAL, length, out),
            Op::Zero { length } => write_op(ZERO, length, out),
            Op::Copy { length, offset } => {
                write_op(COPY, length, out);
                out.extend_from_slice(&offset.to_le_bytes());
            }
        }
    }
    Ok(())
}

fn write_op(kind: u8, length: u32, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&length.to_le_bytes());
}

/// Bytes of head and operations.
#[must_use]
pub fn head_bytes(ops: &[Op]) -> usize {
    HEAD_BYTES + ops.iter().map(|op| op.encoded_bytes()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1..5000_u32).prop_map(|length| Op::Literal { length }),
            (1..5000_u32).prop_map(|length| Op::Zero { length }),
            (1..5000_u32, 0..u64::MAX / 2).prop_map(|(length, offset)| Op::Copy { length, offset }),
        ]
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(ops in prop::collection::vec(op(), 0..40), tail in prop::collection::vec(any::<u8>(), 0..40)) {
            let total = ops.iter().map(|op| op.length()).sum();
            let mut bytes = Vec::new();
            write_head(LiteralCodec::Lz4, total, &ops, &mut bytes).expect("within the bounds");
            prop_assert_eq!(bytes.len(), head_bytes(&ops));
            bytes.extend_from_slice(&tail);
            let read = Container::parse(&bytes).expect("our own bytes");
            prop_assert_eq!(read.ops().collect::<Vec<_>>(), ops);
            prop_assert_eq!(read.segment_bytes(), total);
            prop_assert_eq!(read.literals(), &tail[..]);
        }

        #[test]
        fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0..2_u8, ops in 0..9_u16) {
            let mut bytes = bytes;
            if bytes.len() > 4 {
                bytes[0] = first;
                bytes[2..4].copy_from_slice(&ops.to_le_bytes());
            }
            if let Ok(read) = Container::parse(&bytes) {
                prop_assert!(read.segment_bytes() <= MAX_SEGMENT_BYTES);
                prop_assert!(read.literal_bytes() <= read.segment_bytes());
            }
        }
    }

    #[test]
    fn refuses_operations_that_do_not_add_up() {
        let mut bytes = Vec::new();
        write_head(LiteralCodec::Raw, 7, &[Op::Zero { length: 6 }], &mut bytes).expect("within the bounds");
        assert_eq!(Container::parse(&bytes).err(), Some(ContainerError::Inconsistent));
    }
}
