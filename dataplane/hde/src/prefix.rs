//! Which bytes of the sources the literals of a delta lean on: those around the gaps. Known from the operations alone, so that
//! both ends gather the same.

use std::io;

use proto_wire::hde::{MAX_PREFIX_BYTES, Op, PREFIX_MARGIN_BYTES, PREFIX_REACH_BYTES, Source};

/// A gap shorter than this brings nothing: its bytes cost less than what stands around them.
const MIN_GAP_BYTES: u32 = 16;

/// The ends of the sources, beyond which nothing is gathered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) basis: u64,
    pub(crate) history: u64,
}

impl Limits {
    fn of(self, source: Source) -> u64 {
        match source {
            Source::Zeros => 0,
            Source::Basis => self.basis,
            Source::History => self.history,
        }
    }
}

/// Collects the pieces of a prefix while operations pass.
#[derive(Debug)]
pub(crate) struct Pieces {
    limits: Limits,
    pieces: Vec<(Source, u64, u64)>,
    total: u64,
    before: Option<(Source, u64)>,
    gap: u32,
}

impl Pieces {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, pieces: Vec::new(), total: 0, before: None, gap: 0 }
    }

    pub(crate) fn push(&mut self, op: Op) {
        match op {
            Op::Literal { length } => self.gap = length,
            Op::Changed { source: Source::Zeros, .. } | Op::Copy { source: Source::Zeros, .. } => {}
            Op::Changed { length, source, offset } | Op::Copy { length, source, offset } => {
                self.close(Some((source, offset)));
                self.before = Some((source, offset.saturating_add(length.into())));
            }
        }
    }

    /// The pieces: source, from, to.
    pub(crate) fn finish(mut self) -> Vec<(Source, u64, u64)> {
        self.close(None);
        self.pieces
    }

    fn close(&mut self, after: Option<(Source, u64)>) {
        let gap = std::mem::take(&mut self.gap);
        if gap < MIN_GAP_BYTES {
            return;
        }
        let reach = u64::from(gap).min(PREFIX_REACH_BYTES) + PREFIX_MARGIN_BYTES;
        match (self.before, after) {
            (Some((source, end)), Some((same, begin)))
                if source == same && begin >= end && begin - end <= 2 * PREFIX_REACH_BYTES =>
            {
                self.add(source, end.saturating_sub(PREFIX_MARGIN_BYTES), begin.saturating_add(PREFIX_MARGIN_BYTES));
            }
            (before, after) => {
                if let Some((source, end)) = before {
                    self.add(source, end.saturating_sub(PREFIX_MARGIN_BYTES), end.saturating_add(reach));
                }
                if let Some((source, begin)) = after {
                    let to = begin.saturating_add(PREFIX_MARGIN_BYTES);
                    self.add(source, begin.saturating_sub(reach), to);
                }
            }
        }
    }

    fn add(&mut self, source: Source, from: u64, to: u64) {
        let to = to.min(self.limits.of(source));
        let room = u64::try_from(MAX_PREFIX_BYTES).unwrap_or(0) - self.total;
        let last = self.pieces.last_mut().filter(|(of, begin, end)| *of == source && *begin <= from && from <= *end);
        if let Some((_, _, end)) = last {
            let more = to.saturating_sub(*end).min(room);
            *end += more;
            self.total += more;
        } else if from < to && room > 0 {
            let length = (to - from).min(room);
            self.pieces.push((source, from, from + length));
            self.total += length;
        }
    }
}

/// Fills room with the bytes of a source from an offset on.
pub(crate) type Read<'a> = dyn FnMut(Source, u64, &mut [u8]) -> io::Result<()> + 'a;

/// Reads the pieces, one after another.
pub(crate) fn gather(pieces: &[(Source, u64, u64)], into: &mut Vec<u8>, read: &mut Read<'_>) -> io::Result<()> {
    into.clear();
    for (source, from, to) in pieces {
        let begin = into.len();
        into.resize(begin + usize::try_from(to - from).unwrap_or(0), 0);
        read(*source, *from, &mut into[begin..])?;
    }
    Ok(())
}
