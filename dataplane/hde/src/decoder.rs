//! Decodes segments, whatever the bytes are.

use std::{fmt, io};

use proto_wire::hde::{
    ContainerError, HISTORY_PREFIX_BYTES, Head, Kind, LiteralCodec, MAX_PREFIX_BYTES, Op, Ops, Source, Stream, Streams,
    take_varint,
};

use crate::{
    literals::Unpacker,
    prefix::{Gatherer, Limits},
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

/// Literals up to this long are decompressed right behind their prefix, where zstd is quicker; longer ones into the segment's own room.
const SHORT_LITERALS: usize = 1 << 20;

/// Decodes segments, one after another. It keeps what it decompressed: at most 6 MB of operations, a segment of changes, and a
/// prefix of two segments and what stands behind it; so it stays below 20 MB whatever it is given, and mostly far below.
#[derive(Default)]
pub struct Decoder {
    unpacker: Unpacker,
    typed: Typed,
    ops: Vec<Op>,
    changes: Vec<u8>,
    /// A prefix, and literals behind it; or what numbers are changes of.
    beside: Vec<u8>,
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
        is_of(&Head::parse(encoded)?.0, expected_len)?;
        let before = out.len();
        out.resize(before + expected_len, 0);
        let result = self.decode_into(encoded, sources, &mut out[before..]);
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    /// The same into room that is as long as the segment, whatever stands in it; what does on error is not said.
    ///
    /// # Errors
    /// On bytes that are not an encoding of so many bytes, and where `sources` fail.
    pub fn decode_into(
        &mut self,
        encoded: &[u8],
        sources: &mut dyn Sources,
        room: &mut [u8],
    ) -> Result<Decoded, DecodeError> {
        let (head, body) = Head::parse(encoded)?;
        is_of(&head, room.len())?;
        match head.kind {
            Kind::Plain(codec) => self.plain(&head, codec, body, sources, room),
            Kind::Delta => self.delta(&head, body, sources, room),
            Kind::Typed => self.numbers(&head, body, sources, room),
        }
    }

    fn plain(
        &mut self,
        head: &Head,
        codec: LiteralCodec,
        mut body: &[u8],
        sources: &mut dyn Sources,
        room: &mut [u8],
    ) -> Result<Decoded, DecodeError> {
        let mut decoded = Decoded::default();
        let mut prefix: &[u8] = &[];
        if head.flags.basis {
            let length = take_varint(&mut body).ok_or(ContainerError::CutOff)?;
            let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_PREFIX_BYTES);
            let held = grown(&mut self.beside, fits.ok_or(ContainerError::TooLarge)?);
            sources.basis(0, held).map_err(DecodeError::Source)?;
            (prefix, decoded.basis_bytes) = (held, length.min(head.segment_bytes.into()));
        } else if head.flags.history {
            let end = take_varint(&mut body).ok_or(ContainerError::CutOff)?;
            let length = end.min(HISTORY_PREFIX_BYTES);
            let held = grown(&mut self.beside, usize::try_from(length).unwrap_or(0));
            sources.history(end - length, held).map_err(DecodeError::Source)?;
            (prefix, decoded.history_bytes) = (held, length);
        }
        self.unpacker.unpack(codec, body, prefix, room).map_err(|_damaged| DecodeError::Literals)?;
        Ok(decoded)
    }

    fn numbers(
        &mut self,
        head: &Head,
        mut body: &[u8],
        sources: &mut dyn Sources,
        room: &mut [u8],
    ) -> Result<Decoded, DecodeError> {
        let offset = take_varint(&mut body).ok_or(ContainerError::CutOff)?;
        let base = grown(&mut self.beside, if head.flags.basis { room.len() } else { 0 });
        if head.flags.basis {
            sources.basis(offset, base).map_err(DecodeError::Source)?;
        }
        self.typed.decode(body, base, room).map_err(|_damaged| DecodeError::Literals)?;
        Ok(Decoded { basis_bytes: u64::from(head.segment_bytes), history_bytes: 0 })
    }

    fn delta(
        &mut self,
        head: &Head,
        mut body: &[u8],
        sources: &mut dyn Sources,
        room: &mut [u8],
    ) -> Result<Decoded, DecodeError> {
        let limits = head.flags.prefix.then(|| take_limits(&mut body)).transpose()?;
        let streams = Streams::parse(body, head.segment_bytes)?;
        self.ops.clear();
        let mut ops = Ops::new(streams.ops, head.segment_bytes);
        while let Some(op) = ops.next_op()? {
            self.ops.push(op);
        }
        self.beside.clear();
        if let Some(limits) = limits {
            let mut gatherer = Gatherer::new(limits, &mut self.beside);
            let mut read = |source, at, room: &mut [u8]| read(sources, source, at, room);
            self.ops.iter().try_for_each(|op| gatherer.push(*op, &mut read)).map_err(DecodeError::Source)?;
            gatherer.finish(&mut read).map_err(DecodeError::Source)?;
        }
        let changes = unpack(&mut self.unpacker, &streams.changes, &mut self.changes)?;
        let (length, prefix) = (streams.literals.decoded_bytes, self.beside.len());
        let literals = if streams.literals.codec == LiteralCodec::Raw {
            Literals::Aside(streams.literals.bytes)
        } else if prefix > 0 && length <= SHORT_LITERALS {
            self.beside.resize(prefix + length, 0);
            let (prefix, behind) = self.beside.split_at_mut(prefix);
            unpack_into(&mut self.unpacker, &streams.literals, prefix, behind)?;
            Literals::Aside(behind)
        } else {
            // The last bytes of the room are written last.
            let at = room.len() - length;
            unpack_into(&mut self.unpacker, &streams.literals, &self.beside, &mut room[at..])?;
            Literals::At(at)
        };
        build(&self.ops, Rest { changes, literals, differences: head.flags.differences }, sources, room)
    }
}

fn is_of(head: &Head, expected: usize) -> Result<(), DecodeError> {
    let found = size(head.segment_bytes);
    if found == expected { Ok(()) } else { Err(DecodeError::Length { expected, found }) }
}

fn take_limits(body: &mut &[u8]) -> Result<Limits, ContainerError> {
    let basis = take_varint(body).ok_or(ContainerError::CutOff)?;
    let history = take_varint(body).ok_or(ContainerError::CutOff)?;
    Ok(Limits { basis, history })
}

/// The first `length` bytes of a buffer that never becomes shorter, so that it is cleared only once.
pub(crate) fn grown(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.capacity() < length {
        // The system's zeros: they need not be cleared.
        drop(std::mem::take(buffer));
        *buffer = vec![0; length];
    } else if buffer.len() < length {
        buffer.resize(length, 0);
    }
    &mut buffer[..length]
}

/// A stream as it was; a raw one is not copied.
fn unpack<'a>(unpacker: &mut Unpacker, stream: &Stream<'a>, room: &'a mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
    if stream.codec == LiteralCodec::Raw {
        return Ok(stream.bytes);
    }
    let room = grown(room, stream.decoded_bytes);
    unpack_into(unpacker, stream, &[], room)?;
    Ok(room)
}

fn unpack_into(
    unpacker: &mut Unpacker,
    stream: &Stream<'_>,
    prefix: &[u8],
    room: &mut [u8],
) -> Result<(), DecodeError> {
    unpacker.unpack(stream.codec, stream.bytes, prefix, room).map_err(|_damaged| DecodeError::Literals)
}

/// What the operations still take.
struct Rest<'a> {
    changes: &'a [u8],
    literals: Literals<'a>,
    differences: bool,
}

/// Literals that are still to come.
enum Literals<'a> {
    Aside(&'a [u8]),
    /// From this place of the segment's room to its end. Of operations that add up, none overwrites what is still to come.
    At(usize),
}

impl Literals<'_> {
    /// Puts the next ones at a place of the room.
    fn put(&mut self, room: &mut [u8], start: usize, length: usize) -> Result<(), DecodeError> {
        match self {
            Self::Aside(literals) => {
                let (stretch, after) = literals.split_at_checked(length).ok_or(DecodeError::Literals)?;
                room[start..start + length].copy_from_slice(stretch);
                *literals = after;
            }
            Self::At(at) if room.len() - *at >= length => {
                room.copy_within(*at..*at + length, start);
                *at += length;
            }
            Self::At(_) => return Err(DecodeError::Literals),
        }
        Ok(())
    }

    const fn is_empty(&self, room: &[u8]) -> bool {
        match self {
            Self::Aside(literals) => literals.is_empty(),
            Self::At(at) => *at == room.len(),
        }
    }
}

/// Fills the room: the operations make exactly as much.
fn build(ops: &[Op], mut rest: Rest<'_>, sources: &mut dyn Sources, room: &mut [u8]) -> Result<Decoded, DecodeError> {
    let (mut decoded, mut start) = (Decoded::default(), 0);
    for op in ops {
        let length = size(op.length());
        let stretch = start..start + length;
        match *op {
            Op::Literal { .. } => rest.literals.put(room, start, length)?,
            Op::Changed { source, offset, .. } => {
                let (changes, after) = rest.changes.split_at_checked(length).ok_or(DecodeError::Literals)?;
                rest.changes = after;
                let stretch = &mut room[stretch];
                if rest.differences {
                    read(sources, source, offset, stretch).map_err(DecodeError::Source)?;
                    stretch.iter_mut().zip(changes).for_each(|(old, by)| *old = old.wrapping_add(*by));
                } else {
                    stretch.copy_from_slice(changes);
                }
            }
            Op::Copy { source, offset, .. } => {
                read(sources, source, offset, &mut room[stretch]).map_err(DecodeError::Source)?;
                match source {
                    Source::Zeros => {}
                    Source::Basis => decoded.basis_bytes += u64::from(op.length()),
                    Source::History => decoded.history_bytes += u64::from(op.length()),
                }
            }
        }
        start += length;
    }
    let ended = rest.changes.is_empty() && rest.literals.is_empty(room);
    if ended { Ok(decoded) } else { Err(DecodeError::Literals) }
}

fn read(sources: &mut dyn Sources, source: Source, offset: u64, room: &mut [u8]) -> io::Result<()> {
    match source {
        Source::Zeros => room.fill(0),
        Source::Basis => return sources.basis(offset, room),
        Source::History => return sources.history(offset, room),
    }
    Ok(())
}

fn size(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
