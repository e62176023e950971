//! Encodes segments.

use std::{fmt, time::Instant};

use proto_wire::hde::{HEAD_BYTES, LiteralCodec, MAX_OPS, MAX_SEGMENT_BYTES, Op, head_bytes, write_head};

use crate::{
    cost::Costs,
    described::Described,
    literals::Literals,
    meter::Meter,
    version::{Basis, Version},
    zeros::all_zero,
};

/// By how much an encoded segment may be longer than the segment.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES;
/// The longest encoded segment.
pub const MAX_ENCODED_BYTES: usize = MAX_SEGMENT_BYTES as usize + OVERHEAD_BYTES;

/// Without a basis, stretches of zeros are looked for in units of this size: small enough for the holes of images, large
/// enough that their operations cost nothing.
const ZERO_UNIT_BYTES: usize = 64 << 10;
/// A stretch shorter than this is a literal: its operations (18 bytes) would cost more than they save.
const MIN_STRETCH_BYTES: usize = 64;

/// What carries most of a segment; the `codec` of metrics and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Zeros only.
    Zero,
    /// References only, or references and zeros.
    Reference,
    /// Literals as they are.
    Raw,
    /// Literals by zstd.
    Zstd,
    /// Literals by lz4.
    Lz4,
    /// Literals by snappy.
    Snappy,
}

impl Codec {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Zero, Self::Reference, Self::Raw, Self::Zstd, Self::Lz4, Self::Snappy];

    /// Its name in metrics and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Reference => "reference",
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
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
    /// Bytes that are zeros.
    pub zero_bytes: u64,
    /// Bytes that are literals, before compression.
    pub literal_bytes: u64,
    /// Where the receiver can make all of it of what it holds.
    pub whole: Option<Whole>,
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

/// A segment is at most [`MAX_SEGMENT_BYTES`].
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

/// Encodes segments, one after another; keeps its contexts and buffers (about 8 MiB after the first long segment).
pub struct Encoder {
    literals: Literals,
    ops: Vec<Op>,
    gathered: Vec<u8>,
    described: Described,
    meter: Option<Meter>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder that nothing measures.
    #[must_use]
    pub fn new() -> Self {
        let (ops, gathered, described) = (Vec::new(), Vec::new(), Described::default());
        Self { literals: Literals::new(), ops, gathered, described, meter: None }
    }

    /// The same, measured.
    #[must_use]
    pub fn metered(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Appends the encoded segment to `out`: at most [`OVERHEAD_BYTES`] more than the segment has. `number` counts the
    /// segments of the version from 0.
    ///
    /// # Errors
    /// Only for a segment that is too long.
    pub fn encode(
        &mut self,
        version: &Version,
        number: u64,
        segment: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Encoding, SegmentTooLong> {
        let started = self.meter.as_ref().map(Meter::now);
        let encoding = self.make(version, number, segment)?.append(segment, out);
        self.record(&encoding, started);
        Ok(encoding)
    }

    /// The same for a segment that stands in `room` after [`OVERHEAD_BYTES`] of any contents: where it travels as it is, the room
    /// is what is sent, without a copy of it, and nothing is appended to `out`.
    ///
    /// # Errors
    /// For a segment that is too long.
    pub fn encode_in_room(
        &mut self,
        version: &Version,
        number: u64,
        room: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(Encoding, Stands), SegmentTooLong> {
        let started = self.meter.as_ref().map(Meter::now);
        let (head, segment) = room.split_at_mut_checked(OVERHEAD_BYTES).ok_or(SegmentTooLong(0))?;
        let made = self.make(version, number, segment)?;
        let (encoding, stands) = if made.literals.is_none() {
            let mut written = Vec::with_capacity(OVERHEAD_BYTES);
            let encoding = made.head(segment.len(), &mut written);
            head.copy_from_slice(&written);
            (encoding, Stands::InRoom)
        } else {
            (made.append(segment, out), Stands::Appended)
        };
        self.record(&encoding, started);
        Ok((encoding, stands))
    }

    fn make(&mut self, version: &Version, number: u64, segment: &[u8]) -> Result<Made<'_>, SegmentTooLong> {
        let length = u32::try_from(segment.len()).ok().filter(|length| *length <= MAX_SEGMENT_BYTES);
        let length = length.ok_or(SegmentTooLong(segment.len()))?;
        let options = version.options();
        self.ops.clear();
        if options.enabled {
            self.plan(version, number, segment);
        }
        let encoding = counts(&self.ops, segment.len());
        let mut gathered = None;
        if !self.ops.is_empty() {
            gather(&self.ops, segment, &mut self.gathered);
            gathered = Some(self.gathered.as_slice());
        }
        let bytes = gathered.unwrap_or(segment);
        let costs = Costs::new(options, None);
        let effort = costs.plain(self.literals.probe(bytes)).effort;
        let packed = self.literals.compress(bytes, &[], effort);
        let (codec, literals) = match packed {
            Some((codec, packed)) => (codec, Some(packed)),
            None => (LiteralCodec::Raw, gathered),
        };
        Ok(Made { encoding, codec, length, ops: &self.ops, literals })
    }

    fn record(&self, encoding: &Encoding, started: Option<Instant>) {
        if let (Some(meter), Some(started)) = (&self.meter, started) {
            meter.record(encoding, started);
        }
    }

    /// Divides the segment into zeros, references and literals; leaves no operations where all of it is literal.
    fn plan(&mut self, version: &Version, number: u64, segment: &[u8]) {
        let runs = match version.basis() {
            Basis::Signature(index) if version.options().references => {
                self.described.runs(version, index, number, segment)
            }
            Basis::Signature(_) | Basis::Nothing | Basis::Baseline(_) => &[],
        };
        let mut at = 0;
        for run in runs {
            // What is left is literal, or zero.
            if self.ops.len() + 4 > MAX_OPS {
                break;
            }
            rest(&mut self.ops, &segment[at..run.start]);
            let length = u32::try_from(run.length).expect("a part of a segment, whose length is a u32");
            push_merged(&mut self.ops, Op::Copy { length, offset: run.offset });
            at = run.start + run.length;
        }
        rest(&mut self.ops, &segment[at..]);
        if let [Op::Literal { .. }] = self.ops[..] {
            self.ops.clear();
        }
    }
}

/// Divides what is no reference.
fn rest(ops: &mut Vec<Op>, bytes: &[u8]) {
    for unit in bytes.chunks(ZERO_UNIT_BYTES) {
        let length = u32::try_from(unit.len()).expect("a part of a segment, whose length is a u32");
        let zero = unit.len() >= MIN_STRETCH_BYTES && ops.len() + 2 < MAX_OPS && all_zero(unit);
        push_merged(ops, if zero { Op::Zero { length } } else { Op::Literal { length } });
    }
}

/// A segment before it is written.
struct Made<'a> {
    encoding: Encoding,
    codec: LiteralCodec,
    length: u32,
    ops: &'a [Op],
    /// None: the segment as it is.
    literals: Option<&'a [u8]>,
}

impl Made<'_> {
    fn append(self, segment: &[u8], out: &mut Vec<u8>) -> Encoding {
        let literals = self.literals.unwrap_or(segment);
        out.reserve(head_bytes(self.ops) + literals.len());
        let encoding = self.head(literals.len(), out);
        out.extend_from_slice(literals);
        encoding
    }

    /// Appends all but the literals.
    fn head(&self, literal_bytes: usize, out: &mut Vec<u8>) -> Encoding {
        let before = out.len();
        write_head(self.codec, self.length, self.ops, out)
            .expect("the plan keeps to the bounds: blocks of at least 1 KiB");
        let mut encoding = self.encoding;
        encoding.output_bytes = wide(out.len() - before + literal_bytes);
        if encoding.literal_bytes > 0 || encoding.input_bytes == 0 {
            encoding.codec = Codec::of(self.codec);
        }
        encoding
    }
}

fn push_merged(ops: &mut Vec<Op>, op: Op) {
    match (ops.last_mut(), op) {
        (Some(Op::Literal { length }), Op::Literal { length: more })
        | (Some(Op::Zero { length }), Op::Zero { length: more }) => *length += more,
        (Some(Op::Copy { length, offset }), Op::Copy { length: more, offset: next })
            if *offset + u64::from(*length) == next =>
        {
            *length += more;
        }
        (_, op) => ops.push(op),
    }
}

fn gather(ops: &[Op], segment: &[u8], gathered: &mut Vec<u8>) {
    gathered.clear();
    let mut rest = segment;
    for op in ops {
        let (stretch, after) = rest.split_at(usize::try_from(op.length()).unwrap_or(rest.len()));
        rest = after;
        if let Op::Literal { .. } = op {
            gathered.extend_from_slice(stretch);
        }
    }
}

fn counts(ops: &[Op], length: usize) -> Encoding {
    let mut encoding = Encoding {
        codec: Codec::Zero,
        input_bytes: wide(length),
        output_bytes: 0,
        ops: u32::try_from(ops.len()).unwrap_or(u32::MAX),
        referenced_bytes: 0,
        zero_bytes: 0,
        literal_bytes: 0,
        whole: match ops {
            [Op::Zero { .. }] => Some(Whole::Zeros),
            [Op::Copy { offset, .. }] => Some(Whole::Basis { offset: *offset }),
            _ => None,
        },
    };
    for op in ops {
        let bytes = match op {
            Op::Literal { .. } => &mut encoding.literal_bytes,
            Op::Zero { .. } => &mut encoding.zero_bytes,
            Op::Copy { .. } => &mut encoding.referenced_bytes,
        };
        *bytes += u64::from(op.length());
    }
    if ops.is_empty() {
        encoding.literal_bytes = encoding.input_bytes;
    }
    if encoding.referenced_bytes > 0 {
        encoding.codec = Codec::Reference;
    }
    encoding
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
