//! What of a gap stands near it in the sources: anchors as dense as they can be, of a few pages, made for one gap.

use crate::{
    matcher::Spot,
    sampling::{Rate, sample},
};

/// One of so many places is an anchor.
const RATE: Rate = Rate(4);
/// So many places of one window are looked at.
const MOST_SPOTS: usize = 4;
/// Where both ends of a gap are in one source and not further apart than so often the gap, all between them is looked at …
const TIMES: u64 = 4;
/// … which is at most so much …
const MOST_BYTES: u64 = 256 << 10;
/// … and so many bytes around it.
const MARGIN_BYTES: u64 = 512;
/// Elsewhere at most so many bytes behind the one end and before the other.
const REACH_BYTES: u64 = 64 << 10;

/// Looks for a gap in some stretches of the sources; keeps its buffers.
#[derive(Debug, Default)]
pub(crate) struct Near {
    /// The stretches: where they begin, and in `bytes`.
    stretches: Vec<(Spot, std::ops::Range<usize>)>,
    bytes: Vec<u8>,
    held: Vec<(u32, u64)>,
    wanted: Vec<(u32, u64)>,
    /// The last anchor of each bucket, plus one.
    last: Vec<u32>,
    /// The one before it in its bucket, plus one.
    before: Vec<u32>,
}

impl Near {
    /// The stretches that are worth a look, for a gap of so many bytes between two places: from, to.
    pub(crate) fn stretches(gap: usize, before: Option<Spot>, after: Option<Spot>) -> [Option<(Spot, u64)>; 2] {
        let gap = u64::try_from(gap).unwrap_or(REACH_BYTES);
        let reach = (2 * gap).min(REACH_BYTES) + MARGIN_BYTES;
        let most = (TIMES * gap).min(MOST_BYTES) + 2 * MARGIN_BYTES;
        let stretch = |spot: Spot, back: u64, on: u64| {
            let offset = spot.offset.saturating_sub(back);
            Some((Spot { offset, ..spot }, spot.offset.saturating_add(on)))
        };
        match (before, after) {
            (Some(one), Some(other))
                if one.source == other.source && other.offset >= one.offset && other.offset - one.offset <= most =>
            {
                [stretch(one, MARGIN_BYTES, other.offset - one.offset + MARGIN_BYTES), None]
            }
            (one, other) => [
                one.and_then(|spot| stretch(spot, MARGIN_BYTES, reach)),
                other.and_then(|spot| stretch(spot, reach, MARGIN_BYTES)),
            ],
        }
    }

    pub(crate) fn clear(&mut self) {
        self.stretches.clear();
        self.bytes.clear();
    }

    /// Room for a stretch that begins at `spot`.
    pub(crate) fn room(&mut self, spot: Spot, length: usize) -> &mut [u8] {
        let first = self.bytes.len();
        self.bytes.resize(first + length, 0);
        self.stretches.push((spot, first..first + length));
        &mut self.bytes[first..]
    }

    /// Where the anchors of the gap may stand in the stretches.
    pub(crate) fn look_up(&mut self, gap: &[u8]) {
        self.wanted.clear();
        sample(gap, usize::MAX, RATE, &mut self.wanted);
        self.held.clear();
        if self.wanted.is_empty() {
            return;
        }
        for (_, range) in &self.stretches {
            let known = self.held.len();
            sample(&self.bytes[range.clone()], usize::MAX, RATE, &mut self.held);
            let shift = u32::try_from(range.start).unwrap_or(0);
            self.held[known..].iter_mut().for_each(|(place, _)| *place += shift);
        }
        let buckets = self.held.len().next_power_of_two();
        self.last.clear();
        self.last.resize(buckets, 0);
        self.before.clear();
        for (number, (_, hash)) in self.held.iter().enumerate() {
            let last = &mut self.last[bucket(*hash, buckets)];
            self.before.push(*last);
            *last = u32::try_from(number + 1).unwrap_or(0);
        }
    }

    /// The number of the first anchor of the gap from `place` in it on.
    pub(crate) fn seek(&self, place: usize) -> usize {
        self.wanted.partition_point(|(at, _)| usize::try_from(*at).unwrap_or(0) < place)
    }

    /// An anchor's place in the gap, and where it may stand.
    pub(crate) fn get(&self, number: usize) -> Option<(usize, impl Iterator<Item = Spot> + '_)> {
        let (place, hash) = *self.wanted.get(number)?;
        let mut next = self.last.get(bucket(hash, self.last.len())).copied().unwrap_or(0);
        let numbers = std::iter::from_fn(move || {
            let number = usize::try_from(next).unwrap_or(0).checked_sub(1)?;
            next = self.before.get(number).copied().unwrap_or(0);
            Some(number)
        });
        let same = numbers.filter(move |number| self.held.get(*number).is_some_and(|(_, other)| *other == hash));
        let spots = same.take(MOST_SPOTS).filter_map(|number| self.spot(usize::try_from(self.held[number].0).ok()?));
        Some((usize::try_from(place).unwrap_or(0), spots))
    }

    fn spot(&self, place: usize) -> Option<Spot> {
        let (spot, range) = self.stretches.iter().find(|(_, range)| range.contains(&place))?;
        Some(spot.moved(place - range.start))
    }
}

fn bucket(hash: u64, buckets: usize) -> usize {
    usize::try_from(hash >> 32).unwrap_or(0) & buckets.saturating_sub(1)
}
