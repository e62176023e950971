//! Encodes segments.

use std::{fmt, io, sync::Arc, time::Instant};

use proto_wire::hde::{
    Flags, HEAD_BYTES, HISTORY_PREFIX_BYTES, Head, Kind, LiteralCodec, MAX_SEGMENT_BYTES, Op, Source, put_varint,
};

use crate::{
    baseline::Baseline,
    cost::Effort,
    delta::{DeltaUse, DeltaWriter},
    described::Described,
    literals::Literals,
    matcher::{Field, Matcher},
    meter::Meter,
    plan::Plan,
    prefix::Limits,
    read_at::ReadAt,
    sampling::sample,
    signature::Run,
    version::{Basis, Version},
    zeros::all_zero,
};

/// By how much an encoded segment may be longer than the segment.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES;
/// The longest encoded segment.
pub const MAX_ENCODED_BYTES: usize = MAX_SEGMENT_BYTES as usize + OVERHEAD_BYTES;

/// A segment that has more literals than this at its old place is searched for elsewhere; below, no index is needed.
const IN_PLACE_LITERALS: usize = 16 << 10;
/// Beside chunks of a signature, zeros are looked for in units of this size …
const ZERO_UNIT_BYTES: usize = 4 << 10;
/// … and a shorter one is a literal.
const MIN_ZEROS: usize = 64;
/// Shorter literals bring no anchors into the history.
const MIN_REMEMBERED_BYTES: usize = 256;

/// What carries most of a segment; the `codec` of metrics and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Zeros only.
    Zero,
    /// References only, or references and zeros.
    Reference,
    /// References, and what changed beside them.
    Delta,
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
    pub const ALL: [Self; 7] =
        [Self::Zero, Self::Reference, Self::Delta, Self::Raw, Self::Zstd, Self::Lz4, Self::Snappy];

    /// Its name in metrics and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Reference => "reference",
            Self::Delta => "delta",
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

/// Encodes segments, one after another; keeps its contexts and buffers (at most 25 MB).
#[derive(Default)]
pub struct Encoder {
    literals: Literals,
    matcher: Matcher,
    /// The version that the matcher has read of.
    version: Option<u64>,
    writer: DeltaWriter,
    described: Described,
    prefix: Vec<u8>,
    /// Head and body of the present segment.
    container: Vec<u8>,
    meter: Option<Meter>,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder that nothing measures.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, measured.
    #[must_use]
    pub fn metered(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Appends the encoded segment to `out`: at most [`OVERHEAD_BYTES`] more than the segment has. `number` counts the
    /// segments of the version from 0; each is encoded once.
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
        let (encoding, raw) = self.make(version, number, segment)?;
        if let Some(head) = raw {
            out.reserve(OVERHEAD_BYTES + segment.len());
            out.extend_from_slice(&head.bytes());
            out.extend_from_slice(segment);
        } else {
            out.extend_from_slice(&self.container);
        }
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
        let (place, segment) = room.split_at_mut_checked(OVERHEAD_BYTES).ok_or(SegmentTooLong(0))?;
        let (encoding, raw) = self.make(version, number, segment)?;
        let stands = if let Some(head) = raw {
            place.copy_from_slice(&head.bytes());
            Stands::InRoom
        } else {
            out.extend_from_slice(&self.container);
            Stands::Appended
        };
        self.record(&encoding, started);
        Ok((encoding, stands))
    }

    /// Fills the container, or gives the head of a segment that travels as it is.
    fn make(
        &mut self,
        version: &Version,
        number: u64,
        segment: &[u8],
    ) -> Result<(Encoding, Option<Head>), SegmentTooLong> {
        let length = u32::try_from(segment.len()).ok().filter(|length| *length <= MAX_SEGMENT_BYTES);
        let length = length.ok_or(SegmentTooLong(segment.len()))?;
        if self.version != Some(version.id()) {
            self.matcher.forget();
            self.version = Some(version.id());
        }
        self.container.clear();
        let raw = Head { kind: Kind::Plain(LiteralCodec::Raw), flags: Flags::default(), segment_bytes: length };
        let mut work = Work { encoder: self, version, number, segment, limit: 0 };
        work.limit = version.history().map_or(0, |history| history.wait(number));
        let kind = if version.options().enabled {
            // What cannot be read is not referred to.
            work.plan().unwrap_or_else(|_unreadable| work.nothing());
            work.choose(length)
        } else {
            work.nothing();
            None
        };
        work.remember();
        let mut encoding = counts(&self.matcher.plan, segment.len());
        let raw = kind.is_none().then_some(raw);
        encoding.codec = codec(&encoding, kind.unwrap_or(Kind::Plain(LiteralCodec::Raw)));
        encoding.output_bytes = wide(if raw.is_some() { HEAD_BYTES + segment.len() } else { self.container.len() });
        Ok((encoding, raw))
    }

    fn record(&self, encoding: &Encoding, started: Option<Instant>) {
        if let (Some(meter), Some(started)) = (&self.meter, started) {
            meter.record(encoding, started);
        }
    }
}

/// One segment in work.
struct Work<'a> {
    encoder: &'a mut Encoder,
    version: &'a Version,
    number: u64,
    segment: &'a [u8],
    /// The end of the history that may be referred to.
    limit: u64,
}

impl<'a> Work<'a> {
    fn start(&self) -> u64 {
        self.number.saturating_mul(self.version.segment_bytes().into())
    }

    fn nothing(&mut self) {
        self.encoder.matcher.plan.clear();
        self.encoder.matcher.plan.literal(self.segment.len());
    }

    /// Divides the segment into what stands elsewhere and what does not.
    fn plan(&mut self) -> io::Result<()> {
        let references = self.version.options().references;
        match self.version.basis() {
            Basis::Signature(index) if references => {
                let runs = self.encoder.described.runs(self.version, index, self.number, self.segment);
                by_signature(&mut self.encoder.matcher.plan, self.segment, runs);
                Ok(())
            }
            Basis::Baseline(baseline) if references => self.by_baseline(baseline),
            Basis::Nothing | Basis::Signature(_) | Basis::Baseline(_) => {
                let field = self.field(None, None);
                self.encoder.matcher.run(self.segment, self.start(), &field).map(|_| ())
            }
        }
    }

    fn field<'f>(&self, baseline: Option<&'f Baseline>, index: Option<&'f crate::AnchorIndex>) -> Field<'f>
    where
        'a: 'f,
    {
        Field {
            basis: baseline.map(|baseline| baseline.bytes().as_ref()),
            index,
            history: self.version.history(),
            limit: self.limit,
            most_literals: usize::MAX,
        }
    }

    /// First at its old place, so that a baseline that is only changed in place needs no index.
    fn by_baseline(&mut self, baseline: &'a Arc<Baseline>) -> io::Result<()> {
        let field = self.field(Some(baseline), None);
        let in_place = Field { most_literals: IN_PLACE_LITERALS, history: None, limit: 0, ..field };
        if self.encoder.matcher.run(self.segment, self.start(), &in_place)? {
            return Ok(());
        }
        let index = baseline.built()?;
        let field = Field { index: Some(index), ..field };
        self.encoder.matcher.run(self.segment, self.start(), &field).map(|_| ())
    }

    /// Writes the smallest form that is worth trying; none where the segment as it is is that.
    fn choose(&mut self, length: u32) -> Option<Kind> {
        let mut best = None;
        if !self.encoder.matcher.plan.is_literal()
            && let Ok(Some(flags)) = self.delta()
        {
            best = Some(Kind::Delta);
            self.head(Kind::Delta, flags, length);
        }
        let literal_bytes = self.encoder.matcher.plan.literal_bytes;
        // Matches that leave most of a segment literal may only have torn apart what compresses better as a whole.
        let most = best.map_or(self.segment.len() + HEAD_BYTES, |_| self.encoder.container.len());
        let torn = literal_bytes > self.segment.len() / 2 && most > self.segment.len() / 64;
        if (best.is_none() || torn)
            && let Some((kind, flags)) = self.plain(most)
        {
            self.head(kind, flags, length);
            self.nothing();
            best = Some(kind);
        }
        best.filter(|_| self.encoder.container.len() < self.segment.len() + HEAD_BYTES)
    }

    /// Puts the head before the body that stands in the container after room for it.
    fn head(&mut self, kind: Kind, flags: Flags, segment_bytes: u32) {
        let head = Head { kind, flags, segment_bytes }.bytes();
        self.encoder.container[..HEAD_BYTES].copy_from_slice(&head);
    }

    fn delta(&mut self) -> io::Result<Option<Flags>> {
        let Encoder { matcher, literals, writer, container, .. } = &mut *self.encoder;
        container.clear();
        container.resize(HEAD_BYTES, 0);
        let basis = match self.version.basis() {
            Basis::Baseline(baseline) => Some(baseline.bytes().as_ref()),
            Basis::Nothing | Basis::Signature(_) => None,
        };
        let history = self.version.history();
        let field = Field { basis, index: None, history, limit: self.limit, most_literals: 0 };
        let limits = Limits { basis: basis.map_or(0, ReadAt::size), history: self.limit };
        let limits = (limits != Limits::default()).then_some(limits);
        let how = DeltaUse { literals, costs: self.version.costs(), limits };
        let mut read = |source: Source, offset: u64, room: &mut [u8]| match field.source(source) {
            Some(source) => source.read_at(offset, room),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        writer.write(&matcher.plan, self.segment, how, &mut read, container)
    }

    /// The whole segment as one stream, where that makes less than `most`.
    fn plain(&mut self, most: usize) -> Option<(Kind, Flags)> {
        let Encoder { literals, prefix, container, .. } = &mut *self.encoder;
        let kept = literals.probe(self.segment);
        let effort = self.version.costs().plain(kept).effort;
        prefix.clear();
        let history = self.version.history().filter(|_| self.limit > 0 && matches!(effort, Effort::Zstd(_)));
        if let Some(history) = history {
            let length = self.limit.min(HISTORY_PREFIX_BYTES);
            prefix.resize(usize::try_from(length).ok()?, 0);
            history.source().read_at(self.limit - length, prefix).ok()?;
        }
        let (codec, packed) = literals.compress(self.segment, prefix, effort)?;
        let flags = Flags { history: !prefix.is_empty(), ..Flags::default() };
        if packed.len() + HEAD_BYTES + 10 >= most {
            return None;
        }
        container.clear();
        container.resize(HEAD_BYTES, 0);
        if flags.history {
            put_varint(self.limit, container);
        }
        container.extend_from_slice(packed);
        Some((Kind::Plain(codec), flags))
    }

    /// Lets later segments refer to what is new in this one.
    fn remember(&mut self) {
        let Some(history) = self.version.history() else { return };
        let (mut anchors, mut found, mut position) = (Vec::new(), Vec::new(), 0);
        for op in &self.encoder.matcher.plan.ops {
            let length = usize::try_from(op.length()).unwrap_or(0);
            if let (Op::Literal { .. }, true) = (op, length >= MIN_REMEMBERED_BYTES) {
                found.clear();
                sample(&self.segment[position..position + length], usize::MAX, history.rate(), &mut found);
                let first = self.start() + wide(position);
                anchors.extend(found.iter().map(|(place, hash)| (first + u64::from(*place), *hash)));
            }
            position += length;
        }
        history.add(self.number, anchors);
    }
}

/// Chunks that the receiver says it holds; zeros between them.
fn by_signature(plan: &mut Plan, segment: &[u8], runs: &[Run]) {
    plan.clear();
    let mut at = 0;
    for run in runs {
        unless_zero(plan, &segment[at..run.start]);
        plan.copy(run.length, Source::Basis, run.offset);
        at = run.start + run.length;
    }
    unless_zero(plan, &segment[at..]);
}

fn unless_zero(plan: &mut Plan, bytes: &[u8]) {
    for unit in bytes.chunks(ZERO_UNIT_BYTES) {
        if unit.len() >= MIN_ZEROS && all_zero(unit) {
            plan.copy(unit.len(), Source::Zeros, 0);
        } else {
            plan.literal(unit.len());
        }
    }
}

fn codec(encoding: &Encoding, kind: Kind) -> Codec {
    let referenced = encoding.referenced_bytes > 0;
    match kind {
        Kind::Plain(codec) => Codec::of(codec),
        Kind::Delta | Kind::Typed if encoding.literal_bytes > 0 || encoding.changed_bytes > 0 => Codec::Delta,
        Kind::Delta | Kind::Typed => {
            if referenced {
                Codec::Reference
            } else {
                Codec::Zero
            }
        }
    }
}

fn counts(plan: &Plan, length: usize) -> Encoding {
    let mut encoding = Encoding {
        codec: Codec::Zero,
        input_bytes: wide(length),
        output_bytes: 0,
        ops: u32::try_from(plan.ops.len()).unwrap_or(u32::MAX),
        referenced_bytes: 0,
        changed_bytes: 0,
        history_bytes: 0,
        zero_bytes: 0,
        literal_bytes: 0,
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

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
