//! Decodes segments, whatever the bytes are.

use std::{fmt, io};

use proto_wire::hde::{
    ContainerError, HISTORY_PREFIX_BYTES, Head, Kind, LiteralCodec, MAX_PREFIX_BYTES, Op, Ops, Source, Stream, Streams,
    take_varint,
};

use crate::{
    literals::Unpacker,
    prefix::{Limits, Pieces, gather},
    sources::Sources,
    typed::Typed,
};

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
    /// Bytes that were read from the basis; where all of it is a prefix, at most the segment's.
    pub basis_bytes: u64,
    /// Bytes that were read from earlier segments.
    pub history_bytes: u64,
}

/// Decodes segments, one after another. It keeps what it decompressed: at most 6 MB of operations, a segment of literals and
/// changes, and a prefix of two segments; so it stays below 20 MB whatever it is given.
#[derive(Default)]
pub struct Decoder {
    unpacker: Unpacker,
    typed: Typed,
    ops: Vec<Op>,
    changes: Vec<u8>,
    literals: Vec<u8>,
    prefix: Vec<u8>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        Self { unpacker: Unpacker::new(), ..Self::default() }
    }

    /// Appends the segment to `out`: exactly `expected_len` bytes, or on error nothing. What it refers to is read from `sources`.
    /// The result is not verified: that is the work of whoever knows the digest.
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
        let (head, body) = Head::parse(encoded)?;
        let found = size(head.segment_bytes);
        if found != expected_len {
            return Err(DecodeError::Length { expected: expected_len, found });
        }
        let before = out.len();
        let result = match head.kind {
            Kind::Plain(codec) => self.plain(&head, codec, body, sources, out),
            Kind::Delta => self.delta(&head, body, sources, out),
            Kind::Typed => self.numbers(&head, body, sources, out),
        };
        match result {
            Ok(decoded) if out.len() - before == expected_len => Ok(decoded),
            Ok(_) => {
                out.truncate(before);
                Err(DecodeError::Literals)
            }
            Err(error) => {
                out.truncate(before);
                Err(error)
            }
        }
    }

    fn plain(
        &mut self,
        head: &Head,
        codec: LiteralCodec,
        mut body: &[u8],
        sources: &mut dyn Sources,
        out: &mut Vec<u8>,
    ) -> Result<Decoded, DecodeError> {
        let mut decoded = Decoded::default();
        self.prefix.clear();
        if head.flags.basis {
            let length = take_varint(&mut body).ok_or(ContainerError::CutOff)?;
            let room = usize::try_from(length).ok().filter(|length| *length <= MAX_PREFIX_BYTES);
            self.prefix.resize(room.ok_or(ContainerError::TooLarge)?, 0);
            sources.basis(0, &mut self.prefix).map_err(DecodeError::Source)?;
            decoded.basis_bytes = length.min(head.segment_bytes.into());
        } else if head.flags.history {
            let end = take_varint(&mut body).ok_or(ContainerError::CutOff)?;
            let length = end.min(HISTORY_PREFIX_BYTES);
            let piece = [(Source::History, end - length, end)];
            gather(&piece, &mut self.prefix, &mut |_, at, room| sources.history(at, room))
                .map_err(DecodeError::Source)?;
            decoded.history_bytes = length;
        }
        let stream = Stream { codec, decoded_bytes: size(head.segment_bytes), bytes: body };
        if codec == LiteralCodec::Raw && body.len() != size(head.segment_bytes) {
            return Err(DecodeError::Literals);
        }
        let bytes = unpack(&mut self.unpacker, &stream, &self.prefix, &mut self.literals)?;
        out.extend_from_slice(bytes);
        Ok(decoded)
    }

    fn numbers(
        &mut self,
        head: &Head,
        mut body: &[u8],
        sources: &mut dyn Sources,
        out: &mut Vec<u8>,
    ) -> Result<Decoded, DecodeError> {
        let offset = take_varint(&mut body).ok_or(ContainerError::CutOff)?;
        let length = size(head.segment_bytes);
        self.prefix.clear();
        if head.flags.basis {
            self.prefix.resize(length, 0);
            sources.basis(offset, &mut self.prefix).map_err(DecodeError::Source)?;
        }
        let start = out.len();
        out.resize(start + length, 0);
        let made = self.typed.decode(body, &self.prefix, &mut out[start..]);
        made.map_err(|_damaged| DecodeError::Literals)?;
        Ok(Decoded { basis_bytes: u64::from(head.segment_bytes), history_bytes: 0 })
    }

    fn delta(
        &mut self,
        head: &Head,
        mut body: &[u8],
        sources: &mut dyn Sources,
        out: &mut Vec<u8>,
    ) -> Result<Decoded, DecodeError> {
        let limits = head.flags.prefix.then(|| take_limits(&mut body)).transpose()?;
        let streams = Streams::parse(body, head.segment_bytes)?;
        self.ops.clear();
        let mut ops = Ops::new(streams.ops, head.segment_bytes);
        while let Some(op) = ops.next_op()? {
            self.ops.push(op);
        }
        self.prefix.clear();
        if let Some(limits) = limits {
            let mut pieces = Pieces::new(limits);
            self.ops.iter().for_each(|op| pieces.push(*op));
            gather(&pieces.finish(), &mut self.prefix, &mut |source, at, room| read(sources, source, at, room))
                .map_err(DecodeError::Source)?;
        }
        let changes = unpack(&mut self.unpacker, &streams.changes, &[], &mut self.changes)?;
        let literals = unpack(&mut self.unpacker, &streams.literals, &self.prefix, &mut self.literals)?;
        let rest = Rest { changes, literals, differences: head.flags.differences };
        out.reserve(size(head.segment_bytes));
        build(&self.ops, rest, sources, out)
    }
}

fn take_limits(body: &mut &[u8]) -> Result<Limits, ContainerError> {
    let basis = take_varint(body).ok_or(ContainerError::CutOff)?;
    let history = take_varint(body).ok_or(ContainerError::CutOff)?;
    Ok(Limits { basis, history })
}

/// A stream as it was; a raw one is not copied.
fn unpack<'a>(
    unpacker: &mut Unpacker,
    stream: &Stream<'a>,
    prefix: &[u8],
    room: &'a mut Vec<u8>,
) -> Result<&'a [u8], DecodeError> {
    if stream.codec == LiteralCodec::Raw {
        return Ok(stream.bytes);
    }
    if room.len() < stream.decoded_bytes {
        room.resize(stream.decoded_bytes, 0);
    }
    let room = &mut room[..stream.decoded_bytes];
    unpacker.unpack(stream.codec, stream.bytes, prefix, room).map_err(|_damaged| DecodeError::Literals)?;
    Ok(room)
}

/// What the operations still take.
struct Rest<'a> {
    changes: &'a [u8],
    literals: &'a [u8],
    differences: bool,
}

fn build(ops: &[Op], mut rest: Rest<'_>, sources: &mut dyn Sources, out: &mut Vec<u8>) -> Result<Decoded, DecodeError> {
    let mut decoded = Decoded::default();
    for op in ops {
        let (length, start) = (size(op.length()), out.len());
        match op {
            Op::Literal { .. } => {
                let (stretch, after) = rest.literals.split_at_checked(length).ok_or(DecodeError::Literals)?;
                out.extend_from_slice(stretch);
                rest.literals = after;
            }
            &Op::Changed { source, offset, .. } => {
                let (stretch, after) = rest.changes.split_at_checked(length).ok_or(DecodeError::Literals)?;
                rest.changes = after;
                if rest.differences {
                    out.resize(start + length, 0);
                    read(sources, source, offset, &mut out[start..]).map_err(DecodeError::Source)?;
                    out[start..].iter_mut().zip(stretch).for_each(|(old, by)| *old = old.wrapping_add(*by));
                } else {
                    out.extend_from_slice(stretch);
                }
            }
            &Op::Copy { source, offset, .. } => {
                out.resize(start + length, 0);
                read(sources, source, offset, &mut out[start..]).map_err(DecodeError::Source)?;
                match source {
                    Source::Zeros => {}
                    Source::Basis => decoded.basis_bytes += u64::from(op.length()),
                    Source::History => decoded.history_bytes += u64::from(op.length()),
                }
            }
        }
    }
    if rest.changes.is_empty() && rest.literals.is_empty() { Ok(decoded) } else { Err(DecodeError::Literals) }
}

fn read(sources: &mut dyn Sources, source: Source, offset: u64, room: &mut [u8]) -> io::Result<()> {
    match source {
        // The room is made of zeros.
        Source::Zeros => Ok(()),
        Source::Basis => sources.basis(offset, room),
        Source::History => sources.history(offset, room),
    }
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
