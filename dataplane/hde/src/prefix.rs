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

/// Fills room with the bytes of a source from an offset on.
pub(crate) type Read<'a> = dyn FnMut(Source, u64, &mut [u8]) -> io::Result<()> + 'a;

/// Gathers a prefix while operations pass: of its pieces only the last is held, so there may be any number of them.
pub(crate) struct Gatherer<'a> {
    limits: Limits,
    into: &'a mut Vec<u8>,
    /// The piece that may still grow: source, from, to.
    last: Option<(Source, u64, u64)>,
    total: u64,
    before: Option<(Source, u64)>,
    gap: u32,
    gathered: Gathered,
}

/// What a prefix is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gathered {
    pub(crate) basis: bool,
    pub(crate) history: bool,
}

impl<'a> Gatherer<'a> {
    /// Gathers into a buffer that is cleared.
    pub(crate) fn new(limits: Limits, into: &'a mut Vec<u8>) -> Self {
        into.clear();
        Self { limits, into, last: None, total: 0, before: None, gap: 0, gathered: Gathered::default() }
    }

    pub(crate) fn push(&mut self, op: Op, read: &mut Read<'_>) -> io::Result<()> {
        match op {
            Op::Literal { length } => self.gap = length,
            Op::Changed { source: Source::Zeros, .. } | Op::Copy { source: Source::Zeros, .. } => {}
            Op::Changed { length, source, offset } | Op::Copy { length, source, offset } => {
                self.close(Some((source, offset)), read)?;
                self.before = Some((source, offset.saturating_add(length.into())));
            }
        }
        Ok(())
    }

    /// After the last operation.
    pub(crate) fn finish(mut self, read: &mut Read<'_>) -> io::Result<Gathered> {
        self.close(None, read)?;
        self.read_last(read)?;
        Ok(self.gathered)
    }

    fn close(&mut self, after: Option<(Source, u64)>, read: &mut Read<'_>) -> io::Result<()> {
        let gap = std::mem::take(&mut self.gap);
        if gap < MIN_GAP_BYTES {
            return Ok(());
        }
        let reach = u64::from(gap).min(PREFIX_REACH_BYTES) + PREFIX_MARGIN_BYTES;
        match (self.before, after) {
            (Some((source, end)), Some((same, begin)))
                if source == same && begin >= end && begin - end <= 2 * PREFIX_REACH_BYTES =>
            {
                let from = end.saturating_sub(PREFIX_MARGIN_BYTES);
                self.add(source, from, begin.saturating_add(PREFIX_MARGIN_BYTES), read)?;
            }
            (before, after) => {
                if let Some((source, end)) = before {
                    self.add(source, end.saturating_sub(PREFIX_MARGIN_BYTES), end.saturating_add(reach), read)?;
                }
                if let Some((source, begin)) = after {
                    let to = begin.saturating_add(PREFIX_MARGIN_BYTES);
                    self.add(source, begin.saturating_sub(reach), to, read)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, source: Source, from: u64, to: u64, read: &mut Read<'_>) -> io::Result<()> {
        let to = to.min(self.limits.of(source));
        let room = u64::try_from(MAX_PREFIX_BYTES).unwrap_or(0) - self.total;
        let last = self.last.as_mut().filter(|(of, begin, end)| *of == source && *begin <= from && from <= *end);
        if let Some((_, _, end)) = last {
            let more = to.saturating_sub(*end).min(room);
            *end += more;
            self.total += more;
        } else if from < to && room > 0 {
            self.read_last(read)?;
            let length = (to - from).min(room);
            self.last = Some((source, from, from + length));
            self.total += length;
        }
        Ok(())
    }

    fn read_last(&mut self, read: &mut Read<'_>) -> io::Result<()> {
        let Some((source, from, to)) = self.last.take() else { return Ok(()) };
        self.gathered.basis |= source == Source::Basis;
        self.gathered.history |= source == Source::History;
        let begin = self.into.len();
        let end = begin + usize::try_from(to - from).unwrap_or(0);
        if self.into.capacity() < end {
            // By doubling, but never to more than the longest.
            let capacity = (2 * end).min(MAX_PREFIX_BYTES).max(end);
            self.into.reserve_exact(capacity - begin);
        }
        self.into.resize(end, 0);
        read(source, from, &mut self.into[begin..])
    }
}
