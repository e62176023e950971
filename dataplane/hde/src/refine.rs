//! Looks again, closely, at what the search for anchors left: the holes between long copies.
//!
//! What stands in a hole is mostly what stands between the same neighbours in the source, with edits; there it is looked for at every place,
//! by short matches. A match near where the last one ended costs little, so it is preferred to a longer one from far away: the
//! same words often stand in many places, and the anchors know only the first.

use std::io;

use proto_wire::hde::{Op, Source};

use crate::{compare::common_prefix, plan::Plan, prefix::Read};

/// How closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fineness {
    /// So many bytes of the source on each side of a hole are looked through as well.
    pub(crate) margin: u64,
    /// A longer hole is left as it is …
    pub(crate) most: usize,
    /// … and so is one in which the search had found nothing, where it is longer than this.
    pub(crate) most_literal: usize,
    /// So many places with the same hash are compared.
    pub(crate) depth: usize,
    /// The shortest match.
    pub(crate) shortest: usize,
}

impl Fineness {
    /// What pays by default: in a longer hole of literals alone, short matches take from zstd as much as they save.
    pub(crate) const QUICK: Self = Self { margin: 256, most: 4 << 10, most_literal: 64, depth: 4, shortest: 10 };
    /// For the strongest levels.
    pub(crate) const THOROUGH: Self =
        Self { margin: 4 << 10, most: 64 << 10, most_literal: 64 << 10, depth: 64, shortest: 20 };
}

/// A copy of so many bytes is no accident.
const LONG: u32 = 512;
/// A shorter one is kept where it goes on so near to the last one.
const NEAR: u64 = 4 << 10;
/// Shorter holes are left as they are.
const MIN_HOLE: usize = 8;
/// Neighbours so far apart, beyond the length of the hole, have nothing between them that belongs together.
const APART: u64 = 16 << 10;
/// Bytes that are hashed.
const HASHED: usize = 6;
/// Bits that a literal byte costs, with what stands around it known to zstd.
const LITERAL_BITS: i64 = 2;
/// Bits of an operation.
const OP_BITS: i64 = 10;
/// Bits of one from far away.
const FAR_BITS: i64 = 34;
/// What is left of a copy that was known is kept from here on.
const MIN_REST: usize = 24;
const NONE: u32 = u32::MAX;

/// Looks through holes; keeps its memory.
#[derive(Debug, Default)]
pub(crate) struct Refiner {
    /// Bytes of a source between what surrounds the hole, and a margin on each side.
    near: Vec<u8>,
    heads: Vec<u32>,
    chain: Vec<u32>,
    made: Plan,
}

/// A place in a source.
type Spot = (Source, u64);

/// What surrounds a hole.
#[derive(Clone, Copy, Debug)]
struct Hole<'a> {
    /// Of the segment: the hole, and nothing behind it.
    new: &'a [u8],
    begin: usize,
    /// What the search had found in it.
    ops: &'a [Op],
    /// Where the copy before it ended, and the one behind it begins.
    before: Option<Spot>,
    behind: Option<Spot>,
}

impl Hole<'_> {
    /// Whether the search had found nothing in it.
    fn is_literal(&self) -> bool {
        matches!(self.ops, [Op::Literal { .. }])
    }

    /// The source and the places in it between which the hole was, where its neighbours stand together.
    fn neighbours(&self, margin: u64) -> Option<(Source, u64, u64)> {
        let ((source, from), (same, to)) = (self.before?, self.behind?);
        let length = wide(self.new.len() - self.begin);
        let together = source == same && to + margin >= from && to.saturating_sub(from) <= length + APART;
        together.then_some((source, from, to))
    }
}

/// A match in `near`.
#[derive(Clone, Copy, Debug)]
struct Found {
    at: usize,
    length: usize,
    spot: Spot,
    gain: i64,
}

impl Refiner {
    /// Makes the plan of `new` finer. `ends` are those of basis and history.
    pub(crate) fn refine(
        &mut self,
        plan: &mut Plan,
        new: &[u8],
        fineness: Fineness,
        ends: [u64; 2],
        read: &mut Read<'_>,
    ) -> io::Result<()> {
        self.made.clear();
        let (ops, replaced) = (std::mem::take(&mut plan.ops), std::mem::take(&mut plan.replaced));
        let (mut position, mut number, mut rest) = (0, 0, &replaced[..]);
        let mut before = None;
        let mut outcome = Ok(());
        while let Some(op) = ops.get(number) {
            if is_good(*op, before) {
                rest = self.keep(*op, rest);
                before = behind(*op).or(before);
                (position, number) = (position + length(*op), number + 1);
                continue;
            }
            let mut last = number;
            let mut bytes = 0;
            while let Some(op) = ops.get(last).filter(|op| !is_good(**op, before)) {
                (bytes, last) = (bytes + length(*op), last + 1);
            }
            let hole = Hole {
                new: &new[..position + bytes],
                begin: position,
                ops: &ops[number..last],
                before,
                behind: ops.get(last).and_then(|op| begin(*op)),
            };
            let most = if hole.is_literal() { fineness.most_literal } else { fineness.most };
            let is_worth_it = (MIN_HOLE..=most).contains(&bytes) && outcome.is_ok();
            if is_worth_it && hole.neighbours(fineness.margin).is_some() {
                outcome = self.look_through(&hole, fineness, ends, read);
            } else {
                hole.ops.iter().for_each(|op| rest = self.keep(*op, rest));
            }
            // A good one stands behind the hole, seen from where the copy before ended.
            (position, number) = (position + bytes, last);
        }
        std::mem::swap(plan, &mut self.made);
        outcome
    }

    /// Takes an operation as it was; what is left of what was replaced.
    fn keep<'r>(&mut self, op: Op, replaced: &'r [u8]) -> &'r [u8] {
        match op {
            Op::Literal { .. } => self.made.literal(length(op)),
            Op::Copy { source, offset, .. } => self.made.copy(length(op), source, offset),
            Op::Changed { source, offset, .. } => {
                let (these, others) = replaced.split_at(length(op));
                self.made.changed(these, source, offset);
                return others;
            }
        }
        replaced
    }

    fn look_through(
        &mut self,
        hole: &Hole<'_>,
        fineness: Fineness,
        ends: [u64; 2],
        read: &mut Read<'_>,
    ) -> io::Result<()> {
        let gathered = self.gather(hole, fineness.margin, ends, read);
        if gathered.is_err() {
            self.near.clear();
        }
        self.index();
        let from = *gathered.as_ref().unwrap_or(&(Source::Zeros, 0));
        let (mut at, mut open) = (hole.begin, hole.begin);
        let mut known = Known { ops: hole.ops, at: hole.begin };
        let mut last = hole.before;
        while at < hole.new.len() {
            let found = self.find(hole, (at, at - open), from, last, fineness);
            let copy = known.copy_at(at);
            if let Some(found) = found.filter(|found| copy.is_none_or(|(_, length)| found.is_better_than(length))) {
                let back = self.backward(&hole.new[open..at], found);
                self.made.literal(at - back - open);
                let (source, offset) = found.spot;
                let (length, offset) = (found.length + back, offset - wide(back));
                self.made.copy(length, source, offset);
                at += found.length;
                (open, last) = (at, Some((source, offset + wide(length))));
            } else if let Some(((source, offset), length)) = copy.filter(|(_, length)| *length >= MIN_REST) {
                self.made.literal(at - open);
                self.made.copy(length, source, offset);
                at += length;
                open = at;
                if source != Source::Zeros {
                    last = Some((source, offset + wide(length)));
                }
            } else {
                at += 1;
            }
        }
        self.made.literal(at - open);
        gathered.map(|_from| ())
    }

    /// Reads what stands between a hole's neighbours; where that is from.
    fn gather(&mut self, hole: &Hole<'_>, margin: u64, ends: [u64; 2], read: &mut Read<'_>) -> io::Result<Spot> {
        self.near.clear();
        let Some((source, from, to)) = hole.neighbours(margin) else { return Ok((Source::Zeros, 0)) };
        let (first, last) = (from.min(to).saturating_sub(margin), from.max(to) + margin);
        let length = last.min(ends[usize::from(source == Source::History)]).saturating_sub(first);
        self.near.resize(usize::try_from(length).unwrap_or(0), 0);
        read(source, first, &mut self.near)?;
        Ok((source, first))
    }

    /// Notes each place by what stands there.
    fn index(&mut self) {
        let log = self.near.len().max(256).next_power_of_two().ilog2();
        self.heads.clear();
        self.heads.resize(1 << log, NONE);
        self.chain.clear();
        self.chain.resize(self.near.len(), NONE);
        for (place, window) in (0..).zip(self.near.windows(8)) {
            let head = &mut self.heads[bucket(window, log)];
            self.chain[narrow(place)] = std::mem::replace(head, place);
        }
    }

    /// The best match at `at`, where `literal` bytes before it are literal since `last`.
    fn find(
        &self,
        hole: &Hole<'_>,
        (at, literal): (usize, usize),
        (source, from): Spot,
        last: Option<Spot>,
        fineness: Fineness,
    ) -> Option<Found> {
        let new = &hole.new[at..];
        if new.len() < fineness.shortest || self.near.len() < 8 {
            return None;
        }
        let mut best: Option<Found> = None;
        let mut weigh = |at: usize| {
            let length = common_prefix(new, &self.near[at..]);
            let spot = (source, from + wide(at));
            // What brings to where the copy behind the hole goes on saves that one's move.
            let joins = length == new.len() && hole.behind == Some((source, spot.1 + wide(length)));
            let cost = if joins { 0 } else { cost(spot, literal, last) };
            let gain = i64::try_from(length).unwrap_or(0) * LITERAL_BITS - cost;
            if length >= fineness.shortest && gain > best.map_or(0, |best| best.gain) {
                best = Some(Found { at, length, spot, gain });
            }
        };
        // Where the last copy would go on, and where the copy behind the hole does, as it would be from here.
        let goes_on = last.map(|(of, end)| (of, end + wide(literal)));
        let joins = hole.behind.and_then(|(of, begin)| Some((of, begin.checked_sub(wide(new.len()))?)));
        for (_, offset) in [goes_on, joins].into_iter().flatten().filter(|(of, _)| *of == source) {
            let at = offset.checked_sub(from).and_then(|at| usize::try_from(at).ok());
            at.filter(|at| *at < self.near.len()).into_iter().for_each(&mut weigh);
        }
        let mut window = [0; 8];
        let length = new.len().min(8);
        window[..length].copy_from_slice(&new[..length]);
        let mut place = self.heads[bucket(&window, self.heads.len().ilog2())];
        for _ in 0..fineness.depth {
            let at = narrow(place);
            let Some(next) = self.chain.get(at) else { break };
            weigh(at);
            place = *next;
        }
        best
    }

    /// How many of the bytes before a match are those before its place.
    fn backward(&self, literals: &[u8], found: Found) -> usize {
        let near = &self.near[..found.at];
        literals.iter().rev().zip(near.iter().rev()).take_while(|(new, old)| new == old).count()
    }
}

impl Found {
    /// Whether it is worth more than a copy of so many bytes from elsewhere, after which one has to come back.
    fn is_better_than(&self, length: usize) -> bool {
        let elsewhere = i64::try_from(length).unwrap_or(i64::MAX).saturating_mul(LITERAL_BITS);
        self.gain >= elsewhere - 2 * FAR_BITS
    }
}

/// The copies that the search had found in a hole, from place to place.
struct Known<'a> {
    ops: &'a [Op],
    /// Where the first of them begins.
    at: usize,
}

impl Known<'_> {
    /// What is left at `at` of a copy; `at` never goes back.
    fn copy_at(&mut self, at: usize) -> Option<(Spot, usize)> {
        while let Some((first, rest)) = self.ops.split_first() {
            let end = self.at + length(*first);
            if at < end {
                let within = wide(at - self.at);
                return match *first {
                    Op::Copy { source: Source::Zeros, .. } => Some(((Source::Zeros, 0), end - at)),
                    Op::Copy { source, offset, .. } => Some(((source, offset + within), end - at)),
                    Op::Literal { .. } | Op::Changed { .. } => None,
                };
            }
            (self.at, self.ops) = (end, rest);
        }
        None
    }
}

/// Bits that say where a copy is from.
fn cost((source, offset): Spot, literal: usize, last: Option<Spot>) -> i64 {
    let Some((_, last)) = last.filter(|(same, _)| *same == source) else { return FAR_BITS };
    let goes_on = last + wide(literal);
    let distance = offset.abs_diff(last);
    if offset == goes_on {
        OP_BITS
    } else if distance < NEAR {
        OP_BITS + 3 + i64::from((distance + 1).ilog2())
    } else {
        FAR_BITS
    }
}

/// Whether an operation is none of a hole.
fn is_good(op: Op, before: Option<Spot>) -> bool {
    match op {
        Op::Changed { .. } => true,
        Op::Literal { .. } => false,
        Op::Copy { length, source: Source::Zeros, .. } => length >= LONG / 8,
        Op::Copy { length, source, offset } => {
            length >= LONG || before.is_some_and(|(same, end)| same == source && end.abs_diff(offset) < NEAR)
        }
    }
}

fn begin(op: Op) -> Option<Spot> {
    match op {
        Op::Literal { .. } => None,
        Op::Changed { source, offset, .. } | Op::Copy { source, offset, .. } => {
            (source != Source::Zeros).then_some((source, offset))
        }
    }
}

fn behind(op: Op) -> Option<Spot> {
    begin(op).map(|(source, offset)| (source, offset + u64::from(op.length())))
}

/// The bucket of the first [`HASHED`] of eight bytes.
fn bucket(window: &[u8], log: u32) -> usize {
    let word = window.first_chunk::<8>().map_or(0, |window| u64::from_le_bytes(*window));
    let hash = (word << (64 - 8 * HASHED)).wrapping_mul(0x9e37_79b1_85eb_ca87);
    usize::try_from(hash >> (64 - log)).unwrap_or(0)
}

fn length(op: Op) -> usize {
    usize::try_from(op.length()).unwrap_or(0)
}

fn narrow(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that share most of their words; a few have another number.
    fn rows(edited: bool) -> Vec<u8> {
        let row = |number: u32| {
            let state = number.wrapping_mul(2_654_435_761);
            let value = if edited && number % 20 == 7 { state % 977 } else { state % 991 };
            format!("{state:08x},the maintainers of these packages <list@example.org>,amd64,{value}\n")
        };
        (0..2000).flat_map(|number| row(number).into_bytes()).collect()
    }

    #[test]
    fn what_stands_near_is_preferred_to_the_same_from_far_away() {
        let (old, new) = (rows(false), rows(true));
        let mut plan = Plan::default();
        // As anchors find it: every edited row's words where they stand first.
        let (words, row) = (9, 60);
        let mut at = 0;
        let mut from = 0;
        for (number, (new, old)) in
            new.split_inclusive(|byte| *byte == b'\n').zip(old.split_inclusive(|byte| *byte == b'\n')).enumerate()
        {
            if new == old {
                plan.copy(new.len(), Source::Basis, from);
            } else {
                plan.literal(words);
                plan.copy(row - words, Source::Basis, 9);
                plan.literal(new.len() - row);
            }
            assert!(number < 2000);
            (at, from) = (at + new.len(), from + wide(old.len()));
        }
        assert_eq!(at, new.len());
        let before = plan.ops.len();
        let mut read = |source: Source, offset: u64, room: &mut [u8]| {
            assert_eq!(source, Source::Basis);
            let offset = usize::try_from(offset).unwrap();
            room.copy_from_slice(&old[offset..offset + room.len()]);
            Ok(())
        };
        for fineness in [Fineness::QUICK, Fineness::THOROUGH] {
            Refiner::default().refine(&mut plan, &new, fineness, [wide(old.len()), 0], &mut read).unwrap();
        }
        let mut position = 0;
        for op in &plan.ops {
            if let Op::Copy { offset, .. } = op {
                assert!(offset.abs_diff(position) < 4000, "{op:?} at {position}");
                let from = usize::try_from(*offset).unwrap();
                let at = usize::try_from(position).unwrap();
                assert_eq!(new[at..at + length(*op)], old[from..from + length(*op)]);
            }
            position += u64::from(op.length());
        }
        assert_eq!(position, wide(new.len()));
        assert!(plan.ops.len() < before && plan.literal_bytes < 800, "{} {}", plan.ops.len(), plan.literal_bytes);
    }
}
