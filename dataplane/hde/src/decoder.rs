//! Decodes segments, whatever the bytes are.

use std::{fmt, io};

use proto_wire::hde::{Container, ContainerError, LiteralCodec, Op};

use crate::literals::Unpacker;
use crate::sources::Sources;

/// Why a segment cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no container.
    #[error("not an encoded segment")]
    Container(#[from] ContainerError),
    /// The container makes another length than expected.
    #[error("the encoded segment makes {found} bytes instead of {expected}")]
    Length {
        /// By the manifest.
        expected: usize,
        /// By the container.
        found: usize,
    },
    /// The literals cannot be decompressed to the length that the operations ask for.
    #[error("the literals of the encoded segment are damaged")]
    Literals,
    /// The basis could not be read.
    #[error("what the segment refers to cannot be read")]
    Source(#[source] io::Error),
}

/// What a segment was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes that were read from the basis.
    pub basis_bytes: u64,
    /// Bytes that were read from earlier segments.
    pub history_bytes: u64,
}

/// Decodes segments, one after another; keeps its context and one buffer of at most a segment.
pub struct Decoder {
    unpacker: Unpacker,
    literals: Vec<u8>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        Self { unpacker: Unpacker::new(), literals: Vec::new() }
    }

    /// Appends the segment to `out`: exactly `expected_len` bytes, or on error nothing. What it
    /// refers to is read from `sources`. The result is not verified: that is the work of whoever knows the digest.
    ///
    /// # Errors
    /// On bytes that are not an encoding of `expected_len` bytes, and where `sources` fail.
    pub fn decode(
        &mut self,
        encoded: &[u8],
        expected_len: usize,
        sources: &mut dyn Sources,
        out: &mut Vec<u8>,
    ) -> Result<Decoded, DecodeError> {
        let container = Container::parse(encoded)?;
        let found = size(container.segment_bytes());
        if found != expected_len {
            return Err(DecodeError::Length { expected: expected_len, found });
        }
        let before = out.len();
        let result = self.decode_into(&container, sources, out);
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    fn decode_into(
        &mut self,
        container: &Container<'_>,
        sources: &mut dyn Sources,
        out: &mut Vec<u8>,
    ) -> Result<Decoded, DecodeError> {
        let mut decoded = Decoded::default();
        let mut literals = self.unpack(container)?;
        out.reserve(size(container.segment_bytes()));
        let mut ops = container.ops().peekable();
        if ops.peek().is_none() {
            out.extend_from_slice(literals);
        }
        for op in ops {
            let length = size(op.length());
            match op {
                Op::Literal { .. } => {
                    let (stretch, rest) = literals.split_at_checked(length).ok_or(DecodeError::Literals)?;
                    out.extend_from_slice(stretch);
                    literals = rest;
                }
                Op::Zero { .. } => out.resize(out.len() + length, 0),
                Op::Copy { offset, .. } => {
                    let start = out.len();
                    out.resize(start + length, 0);
                    sources.basis(offset, &mut out[start..]).map_err(DecodeError::Source)?;
                    decoded.basis_bytes += u64::from(op.length());
                }
            }
        }
        Ok(decoded)
    }

    /// The literals, exactly as many as the operations ask for.
    fn unpack<'a>(&'a mut self, container: &Container<'a>) -> Result<&'a [u8], DecodeError> {
        let length = size(container.literal_bytes());
        let packed = container.literals();
        if container.codec() == LiteralCodec::Raw {
            return if packed.len() == length { Ok(packed) } else { Err(DecodeError::Literals) };
        }
        if self.literals.len() < length {
            self.literals.resize(length, 0);
        }
        let room = &mut self.literals[..length];
        self.unpacker.unpack(container.codec(), packed, &[], room).map_err(|_damaged| DecodeError::Literals)?;
        Ok(room)
    }
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
