//! The operations of a delta as three columns of varints, so that like stands beside like and compresses.
//!
//! A record is a gap and a copy behind it; either may be empty, not both. The records cover the segment.
//!
//! * gaps: length × 2, plus 1 where the gap is *changed*: it goes on in the source of the copy before, some of its bytes are
//!   different. Otherwise it is literal. Where the gap reaches the end of the segment there is no copy.
//! * copies: length × 2, plus 1 where the copy begins elsewhere than its source goes on by itself; then
//! * moves: 0 for zeros; otherwise 1 (basis) or 2 (history) plus 4 × zigzag(change of the diagonal of that source). The
//!   diagonal is the place in the source minus the place in the segment; both sources begin with 0. Before the first move the
//!   source is the basis. A copy of length 0 with a move is allowed: it prepares a changed gap.

use super::{
    ContainerError,
    varint::{put_varint, take_varint},
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

/// What is between copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Bytes by themselves.
    Literal,
    /// Bytes that stand for those of the source at the same diagonal.
    Changed,
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
        /// From here on.
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

/// What writer and reader know of the records before.
#[derive(Clone, Copy, Debug)]
struct Place {
    position: u32,
    source: Source,
    basis: i64,
    history: i64,
}

impl Place {
    const START: Self = Self { position: 0, source: Source::Basis, basis: 0, history: 0 };

    const fn diagonal(&self) -> i64 {
        match self.source {
            Source::Zeros => 0,
            Source::Basis => self.basis,
            Source::History => self.history,
        }
    }

    /// Where the source goes on by itself; zeros stand nowhere.
    fn offset(&self, length: u32) -> Result<u64, ContainerError> {
        if self.source == Source::Zeros {
            return Ok(0);
        }
        let offset = self.diagonal().checked_add(self.position.into()).and_then(|at| u64::try_from(at).ok());
        offset
            .filter(|offset| offset.checked_add(length.into()).is_some_and(|end| end <= MAX_OFFSET))
            .ok_or(ContainerError::Inconsistent)
    }
}

/// Sources are shorter than this, so that the change of a diagonal and two bits fit a u64.
const MAX_OFFSET: u64 = 1 << 60;

/// Reads the operations of a segment.
#[derive(Clone, Debug)]
pub struct Columns<'a> {
    gaps: &'a [u8],
    copies: &'a [u8],
    moves: &'a [u8],
    place: Place,
    segment_bytes: u32,
    /// The copy of the present record is still to come.
    copy_next: bool,
}

impl<'a> Columns<'a> {
    /// The operations in these columns, of a segment of `segment_bytes`.
    #[must_use]
    pub fn new([gaps, copies, moves]: [&'a [u8]; 3], segment_bytes: u32) -> Self {
        Self { gaps, copies, moves, place: Place::START, segment_bytes, copy_next: false }
    }

    /// The next operation; none at the end of the segment. Those that are given add up to the segment.
    ///
    /// # Errors
    /// On columns that do not make the segment, and at its end where something is left in them.
    pub fn next_op(&mut self) -> Result<Option<Op>, ContainerError> {
        loop {
            let left = self.segment_bytes - self.place.position;
            if left == 0 {
                let empty = self.gaps.is_empty() && self.copies.is_empty() && self.moves.is_empty();
                return if empty { Ok(None) } else { Err(ContainerError::Inconsistent) };
            }
            let op = if self.copy_next { self.copy(left)? } else { self.gap(left)? };
            self.copy_next = !self.copy_next;
            if op.length() > 0 {
                self.place.position += op.length();
                return Ok(Some(op));
            }
        }
    }

    fn gap(&mut self, left: u32) -> Result<Op, ContainerError> {
        let both = take_varint(&mut self.gaps).ok_or(ContainerError::CutOff)?;
        let length = fitting(both >> 1, left)?;
        if both & 1 == 0 {
            return Ok(Op::Literal { length });
        }
        Ok(Op::Changed { length, source: self.place.source, offset: self.place.offset(length)? })
    }

    fn copy(&mut self, left: u32) -> Result<Op, ContainerError> {
        let both = take_varint(&mut self.copies).ok_or(ContainerError::CutOff)?;
        let length = fitting(both >> 1, left)?;
        if both & 1 == 1 {
            let change = take_varint(&mut self.moves).ok_or(ContainerError::CutOff)?;
            let by = unzigzag(change >> 2);
            match change & 3 {
                0 if change == 0 => self.place.source = Source::Zeros,
                1 => {
                    self.place.source = Source::Basis;
                    self.place.basis = self.place.basis.checked_add(by).ok_or(ContainerError::Inconsistent)?;
                }
                2 => {
                    self.place.source = Source::History;
                    self.place.history = self.place.history.checked_add(by).ok_or(ContainerError::Inconsistent)?;
                }
                _ => return Err(ContainerError::Inconsistent),
            }
        }
        Ok(Op::Copy { length, source: self.place.source, offset: self.place.offset(length)? })
    }
}

fn fitting(length: u64, left: u32) -> Result<u32, ContainerError> {
    u32::try_from(length).ok().filter(|length| *length <= left).ok_or(ContainerError::Inconsistent)
}

/// Writes the operations of a segment.
#[derive(Clone, Debug)]
pub struct ColumnWriter {
    gaps: Vec<u8>,
    copies: Vec<u8>,
    moves: Vec<u8>,
    place: Place,
    /// A gap was written, its copy was not.
    copy_next: bool,
}

impl Default for ColumnWriter {
    fn default() -> Self {
        Self { gaps: Vec::new(), copies: Vec::new(), moves: Vec::new(), place: Place::START, copy_next: false }
    }
}

impl ColumnWriter {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.gaps.clear();
        self.copies.clear();
        self.moves.clear();
        (self.place, self.copy_next) = (Place::START, false);
    }

    /// The next operation. Offsets are below 2^60, what the operations make is at most a segment.
    pub fn push(&mut self, op: Op) {
        match op {
            Op::Literal { length } => self.gap(length, Gap::Literal),
            Op::Changed { length, source, offset } => {
                if self.is_elsewhere(source, offset) {
                    self.copy(0, source, offset);
                }
                self.gap(length, Gap::Changed);
            }
            Op::Copy { length, source, offset } => self.copy(length, source, offset),
        }
        self.place.position += op.length();
    }

    /// Gaps, copies and moves. After the last operation.
    #[must_use]
    pub fn columns(&self) -> [&[u8]; 3] {
        [&self.gaps, &self.copies, &self.moves]
    }

    fn gap(&mut self, length: u32, kind: Gap) {
        if self.copy_next {
            // Two gaps stand beside one another: an empty copy between them.
            put_varint(0, &mut self.copies);
        }
        put_varint(u64::from(length) << 1 | u64::from(kind == Gap::Changed), &mut self.gaps);
        self.copy_next = true;
    }

    fn is_elsewhere(&self, source: Source, offset: u64) -> bool {
        self.place.source != source || (source != Source::Zeros && self.change(source, offset) != 0)
    }

    fn change(&self, source: Source, offset: u64) -> i64 {
        let before = if source == Source::History { self.place.history } else { self.place.basis };
        diagonal(offset, self.place.position) - before
    }

    fn copy(&mut self, length: u32, source: Source, offset: u64) {
        if !self.copy_next {
            put_varint(0, &mut self.gaps);
        }
        let moved = self.is_elsewhere(source, offset);
        put_varint(u64::from(length) << 1 | u64::from(moved), &mut self.copies);
        if moved {
            let change = zigzag(self.change(source, offset)) << 2;
            match source {
                Source::Zeros => put_varint(0, &mut self.moves),
                Source::Basis => {
                    put_varint(change | 1, &mut self.moves);
                    self.place.basis = diagonal(offset, self.place.position);
                }
                Source::History => {
                    put_varint(change | 2, &mut self.moves);
                    self.place.history = diagonal(offset, self.place.position);
                }
            }
            self.place.source = source;
        }
        self.copy_next = false;
    }
}

fn diagonal(offset: u64, position: u32) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX).saturating_sub(position.into())
}

const fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}
