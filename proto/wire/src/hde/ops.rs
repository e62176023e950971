//! The operations of a delta, as one stream of a range coder.
//!
//! An operation is its kind, where its bytes stand, and its length, each by models that depend on the operations before. Places are told
//! by what they are near to: where the last copy would go on, else one of the last four places where a run of copies ended.

use super::{
    ContainerError,
    number::Number,
    range::{Bit, Coder, RangeDecoder, RangeEncoder},
};

/// Where copies come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Zeros.
    Zeros,
    /// What the receiver holds of before.
    Basis,
    /// Earlier segments of the same object.
    History,
}

/// A stretch of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The next bytes of the literals.
    Literal {
        /// How many.
        length: u32,
    },
    /// The next changed bytes, beside those of the source.
    Changed {
        /// How many.
        length: u32,
        /// Where the others stand.
        source: Source,
        /// From here on; 0 for zeros.
        offset: u64,
    },
    /// Bytes of a source.
    Copy {
        /// How many.
        length: u32,
        /// Where they stand.
        source: Source,
        /// From here on; 0 for zeros.
        offset: u64,
    },
}

impl Op {
    /// How many bytes of the segment it makes.
    #[must_use]
    pub const fn length(self) -> u32 {
        match self {
            Self::Literal { length } | Self::Changed { length, .. } | Self::Copy { length, .. } => length,
        }
    }
}

/// The most operations of a segment: 6 MB in memory. What would need more is not worth a delta.
pub const MAX_OPS: usize = 1 << 18;
/// Sources are shorter than this.
const MAX_OFFSET: u64 = 1 << 60;
/// A place that is so far from all that are remembered is told from the end of the last copy of its source.
const FAR: u64 = 1 << 12;
/// Ends of runs that are remembered.
const ENDS: usize = 4;

/// What an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Copy,
    Literal,
    Changed,
    Zeros,
}

const KINDS: usize = 4;

/// How a place is told.
const AFRESH_BASIS: usize = ENDS;
const AFRESH_HISTORY: usize = ENDS + 1;
const ZEROS: usize = ENDS + 2;

/// The models of all parts of operations.
#[derive(Clone, Debug)]
struct Models {
    /// By the two kinds before.
    is_copy: [[Bit; KINDS]; KINDS],
    is_changed: [[Bit; KINDS]; KINDS],
    /// By whether it is a copy, and the kind before.
    goes_on: [[Bit; KINDS]; 2],
    /// By the kind before.
    choice: [[Bit; 8]; KINDS],
    /// From the last end by how many bytes were passed since; from another end; afresh.
    skip: [Number; NEAR + 2],
    /// The same, but for what was passed.
    is_back: [Bit; 3],
    literal: [Number; 2],
    /// By the sizes of the last one, and of the last copy.
    changed: [[Number; SIZES]; SIZES],
    /// By how often the prediction was right, and what it is of.
    predicted: [[Bit; SURE + 1]; KINDS],
    /// By the kind before, and the size of the last copy.
    copy: [[Number; SIZES]; KINDS],
}

/// So many bytes, and more, that were passed are one class.
const NEAR: usize = 8;
/// Lengths that are remembered by what stood before them.
const PREDICTIONS: usize = 1 << 12;
/// How often a prediction was right, at most.
const SURE: usize = 7;

/// The length that came last after the same lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prediction {
    /// 0 for none.
    length: u32,
    right: u8,
}

/// Classes of sizes.
const SIZES: usize = 4;

impl Models {
    const NEW: Self = Self {
        is_copy: [[Bit::NEW; KINDS]; KINDS],
        is_changed: [[Bit::NEW; KINDS]; KINDS],
        goes_on: [[Bit::NEW; KINDS]; 2],
        choice: [[Bit::NEW; 8]; KINDS],
        skip: [Number::NEW; NEAR + 2],
        is_back: [Bit::NEW; 3],
        literal: [Number::NEW; 2],
        changed: [const { [Number::NEW; SIZES] }; SIZES],
        predicted: [[Bit::NEW; SURE + 1]; KINDS],
        copy: [const { [Number::NEW; SIZES] }; KINDS],
    };
}

/// A place behind something that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    source: Source,
    offset: u64,
}

/// What writer and reader know of the operations before.
#[derive(Clone, Debug)]
struct Before {
    kinds: [Kind; 2],
    /// The last one first.
    ends: [End; ENDS],
    /// In basis and history.
    last: [u64; 2],
    /// Bytes since the last end: literals and zeros.
    passed: u64,
    changed_size: usize,
    copy_size: usize,
    /// Of the last three operations.
    lengths: [u32; 3],
}

impl Before {
    const NEW: Self = Self {
        kinds: [Kind::Copy; 2],
        ends: [End { source: Source::Basis, offset: 0 }; ENDS],
        last: [0; 2],
        passed: 0,
        changed_size: 0,
        copy_size: 0,
        lengths: [0; 3],
    };

    /// How a place is told, and how far it is from there.
    fn tell(&self, end: End) -> (usize, i64) {
        let distance = |from: u64| signed(end.offset) - signed(from);
        let near = self.ends.iter().enumerate().filter(|(_, known)| known.source == end.source);
        let near = near.map(|(number, known)| (number, distance(known.offset)));
        let near = near.filter(|(_, by)| by.unsigned_abs() < FAR).min_by_key(|(_, by)| by.unsigned_abs());
        near.unwrap_or(match end.source {
            Source::Basis => (AFRESH_BASIS, distance(self.last[0])),
            Source::History => (AFRESH_HISTORY, distance(self.last[1])),
            Source::Zeros => (ZEROS, 0),
        })
    }

    /// The end that a choice means; none for zeros.
    fn told(&mut self, choice: usize) -> Result<Option<End>, ContainerError> {
        match choice {
            AFRESH_BASIS => Ok(Some(End { source: Source::Basis, offset: self.last[0] })),
            AFRESH_HISTORY => Ok(Some(End { source: Source::History, offset: self.last[1] })),
            ZEROS => Ok(None),
            _ => self.ends.get(choice).copied().map(Some).ok_or(ContainerError::Inconsistent),
        }
    }

    /// Makes the end that was told the last one.
    fn turn(&mut self, choice: usize) {
        let places = choice.min(ENDS - 1);
        self.ends[..=places].rotate_right(1);
    }

    /// The place of what is predicted for an operation of this kind.
    fn slot(&self, kind: Kind) -> usize {
        let [last, earlier, first] = self.lengths.map(u64::from);
        let both = (last << 32 | earlier << 2 | kind as u64).wrapping_add(first.wrapping_mul(0xd6e8_feb8_6659_fd93));
        usize::try_from(both.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52).unwrap_or(0)
    }

    fn note_length(&mut self, length: u32) {
        self.lengths = [length, self.lengths[0], self.lengths[1]];
    }

    fn note(&mut self, kind: Kind) {
        self.kinds = [kind, self.kinds[0]];
    }
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// The class of a size.
fn size(length: u32) -> usize {
    usize::try_from(length.max(1).ilog2() / 2).unwrap_or(0).min(SIZES - 1)
}

impl Prediction {
    /// Writes a length less one, or reads it; gives the length.
    fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        hits: &mut [Bit; SURE + 1],
        model: &mut Number,
        less_one: u64,
    ) -> Result<u32, ContainerError> {
        let right = usize::from(self.right);
        if right > 0 && coder.bit(&mut hits[right], less_one.checked_add(1) == Some(u64::from(self.length))) {
            self.right = u8::try_from((right + 1).min(SURE)).unwrap_or(0);
            return Ok(self.length);
        }
        let length = length(model.code(coder, less_one))?;
        *self = Self { length, right: u8::from(length == self.length) };
        Ok(length)
    }
}

/// Writes or reads operations, one after another.
#[derive(Clone, Debug)]
struct Codec {
    models: Box<Models>,
    predictions: Box<[Prediction; PREDICTIONS]>,
    before: Before,
}

const UNKNOWN: Prediction = Prediction { length: 0, right: 0 };

impl Default for Codec {
    fn default() -> Self {
        Self { models: Box::new(Models::NEW), predictions: Box::new([UNKNOWN; PREDICTIONS]), before: Before::NEW }
    }
}

impl Codec {
    fn clear(&mut self) {
        *self.models = Models::NEW;
        self.predictions.fill(UNKNOWN);
        self.before = Before::NEW;
    }

    /// Writes `op`, or gives what is read; its length is not checked yet.
    fn op<C: Coder>(&mut self, coder: &mut C, op: Op) -> Result<Op, ContainerError> {
        let (models, before) = (&mut *self.models, &mut self.before);
        let [last, earlier] = before.kinds.map(|kind| kind as usize);
        let is_copy = coder.bit(&mut models.is_copy[last][earlier], matches!(op, Op::Copy { .. }));
        let is_changed = !is_copy && coder.bit(&mut models.is_changed[last][earlier], matches!(op, Op::Changed { .. }));
        let wanted = u64::from(op.length().saturating_sub(1));
        if !is_copy && !is_changed {
            let slot = self.predictions.get_mut(before.slot(Kind::Literal)).ok_or(ContainerError::Inconsistent)?;
            let model = &mut models.literal[usize::from(before.kinds[0] == Kind::Changed)];
            let length = slot.code(coder, &mut models.predicted[Kind::Literal as usize], model, wanted)?;
            before.note_length(length);
            before.note(Kind::Literal);
            before.passed += u64::from(length);
            return Ok(Op::Literal { length });
        }
        let end = Self::place(models, before, coder, is_copy, op)?;
        let model = match is_copy {
            true => &mut models.copy[last][before.copy_size],
            false => &mut models.changed[before.changed_size][before.copy_size],
        };
        let kind = if is_copy { Kind::Copy } else { Kind::Changed };
        let slot = self.predictions.get_mut(before.slot(kind)).ok_or(ContainerError::Inconsistent)?;
        let length = slot.code(coder, &mut models.predicted[kind as usize], model, wanted)?;
        before.note_length(length);
        let Some(End { source, offset }) = end else {
            before.note(Kind::Zeros);
            before.passed += u64::from(length);
            return Ok(match is_copy {
                true => Op::Copy { length, source: Source::Zeros, offset: 0 },
                false => Op::Changed { length, source: Source::Zeros, offset: 0 },
            });
        };
        let after = offset.checked_add(length.into()).filter(|after| *after <= MAX_OFFSET);
        let after = after.ok_or(ContainerError::Inconsistent)?;
        before.ends[0] = End { source, offset: after };
        before.last[usize::from(source == Source::History)] = after;
        before.passed = 0;
        if is_copy {
            before.note(Kind::Copy);
            before.copy_size = size(length);
            Ok(Op::Copy { length, source, offset })
        } else {
            before.note(Kind::Changed);
            before.changed_size = size(length);
            Ok(Op::Changed { length, source, offset })
        }
    }

    /// Where an operation's bytes stand; none for zeros.
    fn place<C: Coder>(
        models: &mut Models,
        before: &mut Before,
        coder: &mut C,
        is_copy: bool,
        op: Op,
    ) -> Result<Option<End>, ContainerError> {
        let wanted = match op {
            Op::Copy { source, offset, .. } | Op::Changed { source, offset, .. } => End { source, offset },
            Op::Literal { .. } => End { source: Source::Zeros, offset: 0 },
        };
        let last = before.kinds[0] as usize;
        let End { source, offset } = before.ends[0];
        let next = End { source, offset: offset.saturating_add(before.passed) };
        if coder.bit(&mut models.goes_on[usize::from(is_copy)][last], wanted == next) {
            return Ok(Some(next));
        }
        let (choice, by) = before.tell(wanted);
        let choice = coder.tree::<3, 8>(&mut models.choice[last], choice);
        let Some(End { source, offset }) = before.told(choice)? else { return Ok(None) };
        let class = choice.min(1) + usize::from(choice >= ENDS);
        let passed = usize::try_from(before.passed).unwrap_or(NEAR).min(NEAR - 1);
        let by_class = if class == 0 { passed } else { NEAR - 1 + class };
        let distance = models.skip[by_class].code(coder, by.unsigned_abs());
        let is_back = distance > 0 && coder.bit(&mut models.is_back[class], by < 0);
        let offset = if is_back { offset.checked_sub(distance) } else { offset.checked_add(distance) };
        let offset = offset.filter(|offset| *offset <= MAX_OFFSET).ok_or(ContainerError::Inconsistent)?;
        before.turn(choice);
        Ok(Some(End { source, offset }))
    }
}

fn length(less_one: u64) -> Result<u32, ContainerError> {
    u32::try_from(less_one).ok().and_then(|less_one| less_one.checked_add(1)).ok_or(ContainerError::Inconsistent)
}

/// Reads the operations of a segment.
#[derive(Debug)]
pub struct Ops<'a> {
    decoder: RangeDecoder<'a>,
    codec: Codec,
    left: u32,
    count: usize,
}

impl<'a> Ops<'a> {
    /// The operations in `bytes`, of a segment of `segment_bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], segment_bytes: u32) -> Self {
        Self { decoder: RangeDecoder::new(bytes), codec: Codec::default(), left: segment_bytes, count: 0 }
    }

    /// The next operation; none at the end of the segment. Those that are given add up to the segment, and are at most [`MAX_OPS`].
    ///
    /// # Errors
    /// On bytes that do not make the segment, or have something left at its end.
    pub fn next_op(&mut self) -> Result<Option<Op>, ContainerError> {
        if self.left == 0 {
            return if self.decoder.is_at_end() { Ok(None) } else { Err(ContainerError::Inconsistent) };
        }
        self.count += 1;
        if self.count > MAX_OPS {
            return Err(ContainerError::TooLarge);
        }
        let op = self.codec.op(&mut self.decoder, Op::Literal { length: 1 })?;
        if !self.decoder.is_fed() {
            return Err(ContainerError::CutOff);
        }
        self.left = self.left.checked_sub(op.length()).ok_or(ContainerError::Inconsistent)?;
        Ok(Some(op))
    }
}

/// Writes the operations of a segment.
#[derive(Clone, Debug, Default)]
pub struct OpWriter {
    encoder: RangeEncoder,
    codec: Codec,
}

impl OpWriter {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.encoder.clear();
        self.codec.clear();
    }

    /// The next operation, which is not empty. Offsets are below 2^60, what the operations make is at most a segment.
    pub fn push(&mut self, op: Op) {
        let written = self.codec.op(&mut self.encoder, op);
        debug_assert_eq!(written, Ok(op), "an operation of a segment");
    }

    /// All operations; nothing may follow but [`Self::clear`].
    pub fn finish(&mut self) -> &[u8] {
        self.encoder.finish()
    }
}
