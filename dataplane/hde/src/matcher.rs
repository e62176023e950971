//! Finds what of a segment stands in the sources, as operations.
//!
//! Where a match ends, the same diagonal is followed over changes as long as more bytes are equal than different; zeros count for
//! nothing, or else empty places would be followed for ever. Then anchors ahead are looked up, and the diagonal is picked up
//! again where none is found before. Matches are extended to both sides, exactly and then over changes.

use std::io;

use proto_wire::hde::Source;

use crate::{
    anchors::AnchorIndex,
    candidates::Candidates,
    compare::{common_prefix, common_suffix, likeness},
    cost::Permille,
    history::History,
    near::Near,
    plan::Plan,
    read_at::ReadAt,
    views::Views,
};

/// A match beside the present diagonal, off by no more than this many bytes, …
const BESIDE_BYTES: u64 = 1000;
/// … is at least so long, one elsewhere as long as pays.
pub(crate) const MIN_MATCH: usize = 48;
/// What is compressible takes longer matches, up to this many bytes: an operation costs about as much as ten bytes that keep half.
const LONG_MATCH: usize = 512;
/// Where so much is kept, the shortest matches pay.
const HARDLY: usize = 450;
/// A stretch of zeros, or a diagonal that is picked up again, is at least so long.
const MIN_RESYNC: usize = 16;
/// A gap that is shorter is not looked for near it …
const MIN_NEAR_BYTES: usize = 96;
/// … and a match near it is at least so long.
const MIN_NEAR: usize = 32;
/// Following a diagonal over changes ends when its score is so far below its best.
const GIVE_UP: i32 = 28;
/// Candidates are compared so far to find the best one.
const RANKED_BYTES: usize = 4096;
/// Bytes that are read together while changes are followed.
const LOOK_BYTES: usize = 256;
/// Places that are looked at together.
pub(crate) const REGION: usize = 1024;

/// What a segment may refer to.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) basis: Option<&'a dyn ReadAt>,
    pub(crate) index: Option<&'a AnchorIndex>,
    pub(crate) history: Option<&'a History>,
    /// The end of the history that may be referred to.
    pub(crate) limit: u64,
    /// More literals than this mean that the search is given up.
    pub(crate) most_literals: usize,
    /// Of so many regions one is looked at; 1 for all.
    pub(crate) stride: usize,
    /// What is left between two matches is looked for near them.
    pub(crate) near: bool,
    /// A match away from the present diagonal is at least so long.
    pub(crate) least: usize,
}

/// A place in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) source: Source,
    pub(crate) offset: u64,
}

impl Spot {
    pub(crate) fn moved(self, by: usize) -> Self {
        Self { offset: self.offset.saturating_add(wide(by)), ..self }
    }

    fn back(self, by: usize) -> Self {
        Self { offset: self.offset.saturating_sub(wide(by)), ..self }
    }
}

/// Finds matches, segment after segment.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    basis: Views,
    history: Views,
    candidates: Candidates,
    near: Near,
    pub(crate) plan: Plan,
}

impl Matcher {
    /// What was read is of another version.
    pub(crate) fn forget(&mut self) {
        self.basis.forget();
        self.history.forget();
    }

    /// Divides a segment that begins at `start`; false where more of it is literal than allowed.
    pub(crate) fn run(&mut self, new: &[u8], start: u64, field: &Field<'_>) -> io::Result<bool> {
        self.plan.clear();
        self.candidates.clear();
        Run { matcher: self, new, field }.divide(start)
    }
}

struct Run<'a> {
    matcher: &'a mut Matcher,
    new: &'a [u8],
    field: &'a Field<'a>,
}

/// Where a match begins, after the search for it.
struct Hit {
    position: usize,
    spot: Spot,
}

impl Run<'_> {
    fn divide(mut self, start: u64) -> io::Result<bool> {
        let mut position = 0;
        let mut diagonal = self.field.basis.map(|_| Spot { source: Source::Basis, offset: start });
        loop {
            if let Some(spot) = diagonal {
                let (end, spot) = self.follow(position, spot)?;
                (position, diagonal) = (end, Some(spot));
            }
            if position == self.new.len() {
                return Ok(true);
            }
            let from = position;
            let hit = self.search(from, diagonal)?;
            let until = hit.as_ref().map_or(self.new.len(), |hit| hit.position);
            let begin = match &hit {
                Some(hit) => self.changes_before(from, hit)?,
                None => until,
            };
            let after = hit.as_ref().filter(|hit| hit.spot.source != Source::Zeros);
            self.fill(from, begin, diagonal, after.map(|hit| hit.spot.back(until - begin)))?;
            if self.matcher.plan.literal_bytes > self.field.most_literals {
                return Ok(false);
            }
            let Some(hit) = hit else { return Ok(true) };
            if begin < until {
                self.emit_mixed(begin, until, hit.spot.back(until - begin))?;
            }
            position = until;
            if hit.spot.source == Source::Zeros {
                let length = zeros(&self.new[until..]);
                self.matcher.plan.copy(length, Source::Zeros, 0);
                position += length;
                diagonal = diagonal.map(|spot| spot.moved(position - from));
            } else {
                diagonal = Some(hit.spot);
            }
        }
    }

    /// Divides what is between two places of the sources by what stands near them.
    fn fill(&mut self, from: usize, to: usize, before: Option<Spot>, after: Option<Spot>) -> io::Result<()> {
        if !self.field.near || to - from < MIN_NEAR_BYTES {
            self.matcher.plan.literal(to - from);
            return Ok(());
        }
        self.matcher.near.clear();
        for (spot, end) in Near::stretches(to - from, before, after).into_iter().flatten() {
            let length = usize::try_from(end - spot.offset).unwrap_or(usize::MAX).min(self.left(spot));
            let Some(source) = self.field.source(spot.source) else { continue };
            let Matcher { near, basis, history, .. } = &mut *self.matcher;
            let views = if spot.source == Source::History { history } else { basis };
            views.read(source, spot.offset, near.room(spot, length))?;
        }
        self.matcher.near.look_up(&self.new[from..to]);
        let new = &self.new[..to];
        let field = self.field;
        Run { matcher: self.matcher, new, field }.fill_near(from)
    }

    /// What [`Self::fill`] does after the anchors of the gap were looked up.
    fn fill_near(&mut self, first: usize) -> io::Result<()> {
        let (mut from, mut number) = (first, 0);
        // Text that is nearly all repetition is better told by its compressor.
        let least = if self.field.least == LONG_MATCH { LONG_MATCH } else { MIN_NEAR };
        loop {
            let mut best = None;
            let Some((place, spots)) = self.matcher.near.get(number) else { break };
            let place = first + place;
            let mut held = [None; 4];
            held.iter_mut().zip(spots).for_each(|(held, spot)| *held = Some(spot));
            for spot in held.into_iter().flatten() {
                let forward = self.forward(place, spot, RANKED_BYTES)?;
                let backward = self.backward(place, from, spot)?;
                if forward + backward >= least && best.as_ref().is_none_or(|(most, _)| *most < forward + backward) {
                    best = Some((forward + backward, Hit { position: place - backward, spot: spot.back(backward) }));
                }
            }
            let Some((_, hit)) = best else {
                number += 1;
                continue;
            };
            let begin = self.changes_before(from, &hit)?;
            self.matcher.plan.literal(begin - from);
            if begin < hit.position {
                self.emit_mixed(begin, hit.position, hit.spot.back(hit.position - begin))?;
            }
            (from, _) = self.follow(hit.position, hit.spot)?;
            number = self.matcher.near.seek(from - first).max(number + 1);
        }
        self.matcher.plan.literal(self.new.len() - from);
        Ok(())
    }

    /// Follows a diagonal exactly and over changes, as far as it pays.
    fn follow(&mut self, mut position: usize, mut spot: Spot) -> io::Result<(usize, Spot)> {
        loop {
            let exact = self.forward(position, spot, usize::MAX)?;
            self.matcher.plan.copy(exact, spot.source, spot.offset);
            (position, spot) = (position + exact, spot.moved(exact));
            let changed = self.changes_after(position, spot)?;
            if changed == 0 {
                return Ok((position, spot));
            }
            self.emit_mixed(position, position + changed, spot)?;
            (position, spot) = (position + changed, spot.moved(changed));
        }
    }

    /// The next match behind `position`, or where the diagonal is picked up again.
    fn search(&mut self, from: usize, diagonal: Option<Spot>) -> io::Result<Option<Hit>> {
        let mut position = from;
        while position < self.new.len() {
            let region = position / REGION;
            let end = ((region + 1) * REGION).min(self.new.len());
            if !region.is_multiple_of(self.field.stride) {
                position = end;
                continue;
            }
            let resync = self.resync(from, position, end, diagonal)?;
            let until = resync.as_ref().map_or(end, |hit| hit.position);
            let anchored = self.anchored(from, position, until, diagonal)?;
            if let Some(hit) = anchored.or(resync) {
                return Ok(Some(hit));
            }
            position = end;
            if position - from > self.field.most_literals {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Zeros, or the diagonal of before, from `position` on.
    fn resync(&mut self, from: usize, position: usize, end: usize, diagonal: Option<Spot>) -> io::Result<Option<Hit>> {
        let mut held = [0; REGION];
        let mut length = 0;
        if let Some(spot) = diagonal {
            let spot = spot.moved(position - from);
            length = end - position;
            if !self.read(spot, &mut held[..length])? {
                length = 0;
            }
        }
        let new = &self.new[position..end];
        let mut equal = 0;
        let mut empty = 0;
        for (number, word) in new.as_chunks::<8>().0.iter().enumerate() {
            let at = number * 8;
            let word = u64::from_le_bytes(*word);
            let other = held[..length].get(at..at + 8).and_then(|held| held.first_chunk::<8>());
            empty = if word == 0 { empty + 8 } else { 0 };
            equal =
                if other.is_some_and(|other| u64::from_le_bytes(*other) == word) && word != 0 { equal + 8 } else { 0 };
            if equal >= MIN_RESYNC {
                let hit = position + at + 8 - equal;
                let spot = diagonal.map(|spot| spot.moved(hit - from));
                let Some(spot) = spot else { continue };
                let back = self.backward(hit, from, spot)?;
                return Ok(Some(Hit { position: hit - back, spot: spot.back(back) }));
            }
            if empty >= 4 * MIN_RESYNC {
                let hit = position + at + 8 - empty;
                let back = self.new[from..hit].iter().rev().take_while(|byte| **byte == 0).count();
                let spot = Spot { source: Source::Zeros, offset: 0 };
                return Ok(Some(Hit { position: hit - back, spot }));
            }
        }
        Ok(None)
    }

    /// The first anchor in `position..end` that leads to a match.
    fn anchored(
        &mut self,
        from: usize,
        position: usize,
        end: usize,
        diagonal: Option<Spot>,
    ) -> io::Result<Option<Hit>> {
        let far = |at: usize, spot: Spot| {
            let Some(expected) = diagonal.map(|d| d.moved(at - from)) else { return true };
            expected.source != spot.source || expected.offset.abs_diff(spot.offset) > BESIDE_BYTES
        };
        let mut next = self.matcher.candidates.seek(self.new, position, self.field);
        while let Some((at, spots)) = self.matcher.candidates.get(next).filter(|(at, _)| *at < end) {
            let spots = spots.to_vec();
            next += 1;
            if at < position {
                continue;
            }
            let mut best = None;
            for spot in spots {
                let forward = self.forward(at, spot, RANKED_BYTES)?;
                let backward = self.backward(at, from, spot)?;
                let total = forward + backward;
                let least = if far(at, spot) { self.field.least } else { MIN_MATCH };
                if total >= least && best.as_ref().is_none_or(|(most, _)| *most < total) {
                    best = Some((total, Hit { position: at - backward, spot: spot.back(backward) }));
                }
            }
            if let Some((_, hit)) = best {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// How many bytes from `position` on are those of the spot.
    fn forward(&mut self, position: usize, spot: Spot, most: usize) -> io::Result<usize> {
        let new = &self.new[position..];
        let new = &new[..new.len().min(most).min(self.left(spot))];
        let mut same = 0;
        while same < new.len() {
            let held = self.matcher.at(self.field, spot.moved(same))?;
            let more = common_prefix(&new[same..], held);
            same += more;
            if more == 0 || more < held.len() {
                break;
            }
        }
        Ok(same)
    }

    /// How many bytes before `position`, but not before `from`, are those before the spot.
    fn backward(&mut self, position: usize, from: usize, spot: Spot) -> io::Result<usize> {
        let new = &self.new[from..position];
        let mut same = 0;
        while same < new.len() {
            let held = self.matcher.before(self.field, spot.back(same))?;
            let more = common_suffix(&new[..new.len() - same], held);
            same += more;
            if more == 0 || more < held.len() {
                break;
            }
        }
        Ok(same)
    }

    /// How far the diagonal pays over changes, in bytes.
    fn changes_after(&mut self, position: usize, spot: Spot) -> io::Result<usize> {
        let new = &self.new[position..];
        let new = &new[..new.len().min(self.left(spot))];
        let (mut at, mut score, mut best, mut best_at, mut run) = (0, 0, 0, 0, 0);
        let mut held = [0; LOOK_BYTES];
        while at < new.len() {
            let part = &new[at..new.len().min(at + if at == 0 { LOOK_BYTES / 4 } else { LOOK_BYTES })];
            let held = &mut held[..part.len()];
            if !self.read(spot.moved(at), held)? {
                break;
            }
            for (word, other) in words(part).zip(words(held)) {
                let (equal, different) = likeness(word, other);
                score += equal - different;
                at += 8;
                run = if different == 0 { run + 8 } else { 0 };
                if score > best {
                    (best, best_at) = (score, at);
                    if run >= 32 {
                        return Ok(at.min(new.len()));
                    }
                }
                if score < best - GIVE_UP {
                    return Ok(best_at.min(new.len()));
                }
            }
        }
        Ok(best_at.min(new.len()))
    }

    /// Where the changes before a hit begin that pay on its diagonal, not before `from`.
    fn changes_before(&mut self, from: usize, hit: &Hit) -> io::Result<usize> {
        if hit.spot.source == Source::Zeros {
            return Ok(hit.position);
        }
        let (mut at, mut score, mut best, mut best_at) = (0_usize, 0, 0, 0);
        while hit.position - at >= from + 8 {
            let spot = hit.spot.back(at);
            if spot.offset < 8 {
                break;
            }
            let mut held = [0; 8];
            if !self.read(spot.back(8), &mut held)? {
                break;
            }
            let Some(word) = self.new[hit.position - at - 8..].first_chunk::<8>() else { break };
            let (equal, different) = likeness(u64::from_le_bytes(*word), u64::from_le_bytes(held));
            score += equal - different;
            at += 8;
            if score > best {
                (best, best_at) = (score, at);
            }
            if score < best - GIVE_UP {
                break;
            }
        }
        Ok(hit.position - best_at)
    }

    /// Records `from..to` as copies and changes.
    fn emit_mixed(&mut self, from: usize, to: usize, spot: Spot) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let spot = spot.moved(at - from);
            let (plan, views) = self.matcher.parts(spot.source);
            let Some(source) = self.field.source(spot.source) else { return Err(io::ErrorKind::NotFound.into()) };
            let held = views.at(source, spot.offset)?;
            let length = held.len().min(to - at);
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            plan.mixed(&self.new[at..at + length], &held[..length], spot.source, spot.offset);
            at += length;
        }
        Ok(())
    }

    /// Fills `room`; false where the source ends before.
    fn read(&mut self, spot: Spot, room: &mut [u8]) -> io::Result<bool> {
        let Some(source) = self.field.source(spot.source) else { return Ok(false) };
        if room.len() > self.left(spot) {
            return Ok(false);
        }
        self.matcher.parts(spot.source).1.read(source, spot.offset, room).map(|()| true)
    }

    /// How many bytes there are at a spot.
    fn left(&self, spot: Spot) -> usize {
        let size = match spot.source {
            Source::Zeros => u64::MAX,
            Source::Basis => self.field.basis.map_or(0, ReadAt::size),
            Source::History => self.field.limit,
        };
        usize::try_from(size.saturating_sub(spot.offset)).unwrap_or(usize::MAX)
    }
}

/// How long matches must be in bytes of which a sample keeps so much.
pub(crate) fn least_match(kept: Permille) -> usize {
    let kept = usize::from(kept.0).max(1);
    (MIN_MATCH * HARDLY * HARDLY / (kept * kept)).clamp(MIN_MATCH, LONG_MATCH)
}

impl<'a> Field<'a> {
    pub(crate) fn source(&self, source: Source) -> Option<&'a dyn ReadAt> {
        match source {
            Source::Zeros => None,
            Source::Basis => self.basis,
            Source::History => self.history.map(History::source),
        }
    }
}

impl Matcher {
    fn parts(&mut self, source: Source) -> (&mut Plan, &mut Views) {
        match source {
            Source::History => (&mut self.plan, &mut self.history),
            Source::Zeros | Source::Basis => (&mut self.plan, &mut self.basis),
        }
    }

    fn at(&mut self, field: &Field<'_>, spot: Spot) -> io::Result<&[u8]> {
        match field.source(spot.source) {
            Some(source) => self.parts(spot.source).1.at(source, spot.offset),
            None => Ok(&[]),
        }
    }

    fn before(&mut self, field: &Field<'_>, spot: Spot) -> io::Result<&[u8]> {
        match field.source(spot.source) {
            Some(source) => self.parts(spot.source).1.before(source, spot.offset),
            None => Ok(&[]),
        }
    }
}

/// The words of `bytes`, the last one filled up with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(last);
    words.iter().copied().chain(last).map(u64::from_le_bytes)
}

fn zeros(bytes: &[u8]) -> usize {
    let words = bytes.as_chunks::<8>().0.iter().take_while(|word| **word == [0; 8]).count() * 8;
    words + bytes[words..].iter().take_while(|byte| **byte == 0).count()
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
