//! One direction as a state machine: queue, bottleneck, losses, delay. It owns no clock and no device; times are nanoseconds
//! since its start, and no call may go back in time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use crate::{
    chance::Chance,
    link::{Link, Reorder},
    packet,
    tally::Tally,
};

#[cfg(test)]
mod tests;

/// Behind the bottleneck, to be handed out at `due`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flying {
    pub(crate) due: u64,
    /// Equal times keep their order.
    number: u64,
    pub(crate) bytes: Box<[u8]>,
}

/// Before the bottleneck.
#[derive(Debug)]
struct Queued {
    arrived: u64,
    departs: u64,
    bytes: Box<[u8]>,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Line {
    link: Link,
    /// The queue's length in bytes, where there is a bottleneck.
    limit: Option<u64>,
    chance: Chance,
    queue: VecDeque<Queued>,
    /// Bytes in `queue`.
    backlog: u64,
    /// When the bottleneck has sent all that is queued.
    free_at: u64,
    /// In the order in which they are due.
    flying: VecDeque<Flying>,
    /// Those that others overtake.
    held: BinaryHeap<Reverse<Flying>>,
    /// When the latest of `flying` is or was due.
    last_due: u64,
    number: u64,
    tally: Tally,
}

impl Line {
    pub(crate) fn new(link: Link) -> Self {
        Self {
            limit: link.queue_bytes(),
            chance: Chance::new(link.seed),
            link,
            queue: VecDeque::new(),
            backlog: 0,
            free_at: 0,
            flying: VecDeque::new(),
            held: BinaryHeap::new(),
            last_due: 0,
            number: 0,
            tally: Tally::default(),
        }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A packet comes in; what a hop answers at once, where it does.
    pub(crate) fn on_packet(&mut self, now: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        self.settle(now);
        self.tally.arrived(now, bytes);
        let length = bytes.len() as u64;
        if self.link.down {
            self.tally.counts.cut += 1;
            return None;
        }
        if let Some(mtu) = self.link.mtu.filter(|mtu| length > u64::from(mtu.bytes)) {
            self.tally.counts.too_big += 1;
            return if mtu.answers { packet::too_big(bytes, mtu.bytes) } else { None };
        }
        if self.limit.is_some_and(|limit| self.backlog > 0 && self.backlog + length > limit) {
            self.tally.counts.dropped += 1;
            return None;
        }
        self.free_at = self.free_at.max(now).saturating_add(self.wire_nanos(length));
        self.backlog += length;
        let counts = &mut self.tally.counts;
        counts.queue_max_bytes = counts.queue_max_bytes.max(self.backlog);
        self.queue.push_back(Queued { arrived: now, departs: self.free_at, bytes: bytes.into() });
        None
    }

    /// How long the bottleneck is busy with so many bytes.
    fn wire_nanos(&self, bytes: u64) -> u64 {
        self.link.rate.map_or(0, |rate| rate.wire_nanos(bytes))
    }

    /// Puts on its way what the bottleneck has sent by now. Times are exact however late this is called.
    pub(crate) fn settle(&mut self, now: u64) {
        while self.queue.front().is_some_and(|packet| packet.departs <= now) {
            let Some(Queued { arrived, departs, bytes }) = self.queue.pop_front() else { return };
            self.backlog -= bytes.len() as u64;
            self.tally.waited(departs, bytes.len(), departs - arrived);
            if self.chance.loses(&self.link) {
                self.tally.counts.lost += 1;
                continue;
            }
            self.fly(departs, bytes);
        }
    }

    fn fly(&mut self, departs: u64, bytes: Box<[u8]>) {
        let wander = self.chance.wander(departs, nanos(self.link.jitter));
        let due = departs.saturating_add(self.delay()).saturating_add_signed(wander).max(departs);
        self.number += 1;
        let number = self.number;
        if let Some(Reorder { share, by }) = self.link.reorder
            && self.chance.holds_back(share)
        {
            self.tally.counts.held_back += 1;
            self.held.push(Reverse(Flying { due: due.saturating_add(nanos(by)), number, bytes }));
            return;
        }
        // Where the delay has just been made shorter, nothing overtakes what is on its way.
        self.last_due = self.last_due.max(due);
        self.flying.push_back(Flying { due: self.last_due, number, bytes });
    }

    fn delay(&self) -> u64 {
        nanos(self.link.rtt / 2)
    }

    /// When something may be due at the earliest.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let least = self.delay().saturating_sub(nanos(self.link.jitter));
        let queued = self.queue.front().map(|packet| packet.departs.saturating_add(least));
        let flying = self.flying.front().map(|packet| packet.due);
        let held = self.held.peek().map(|packet| packet.0.due);
        [queued, flying, held].into_iter().flatten().min()
    }

    /// The next packet that is due by now.
    pub(crate) fn take_due(&mut self, now: u64) -> Option<Flying> {
        self.settle(now);
        let flying = self.flying.front().map(|packet| packet.due).filter(|due| *due <= now);
        let held = self.held.peek().map(|packet| packet.0.due).filter(|due| *due <= now);
        let packet = match (flying, held) {
            (Some(flying), Some(held)) if held < flying => self.held.pop().map(|packet| packet.0),
            (Some(_), _) => self.flying.pop_front(),
            (None, Some(_)) => self.held.pop().map(|packet| packet.0),
            (None, None) => None,
        }?;
        self.tally.left(now, &packet.bytes);
        Some(packet)
    }

    /// Begins to count anew, with another link and its dice as they are at the start.
    pub(crate) fn count_anew(&mut self, now: u64, link: Link) {
        let seed = link.seed;
        self.change(now, link);
        self.chance = Chance::new(seed);
        self.tally = Tally::since(now);
    }

    /// From now on the link is another; what waits goes at the new rate, what is on its way arrives as it would have.
    pub(crate) fn change(&mut self, now: u64, link: Link) {
        self.settle(now);
        if link.down {
            let cut = self.queue.len() + self.flying.len() + self.held.len();
            self.tally.counts.cut += cut as u64;
            self.queue.clear();
            self.flying.clear();
            self.held.clear();
            (self.backlog, self.free_at) = (0, now);
        }
        if link.seed != self.link.seed {
            self.chance = Chance::new(link.seed);
        }
        let old = std::mem::replace(&mut self.link, link);
        self.limit = self.link.queue_bytes();
        if old.rate != self.link.rate {
            self.requeue(now, &old);
        }
    }

    /// Gives the queued their times at the new rate; of the one under way only the rest.
    fn requeue(&mut self, now: u64, old: &Link) {
        let mut at = now;
        for index in 0..self.queue.len() {
            let length = self.queue[index].bytes.len() as u64;
            let whole = old.rate.map_or(0, |rate| rate.wire_nanos(length)).max(1);
            let left = if index == 0 { (self.queue[0].departs - now).min(whole) } else { whole };
            let anew = u128::from(self.wire_nanos(length)) * u128::from(left) / u128::from(whole);
            at = at.saturating_add(u64::try_from(anew).unwrap_or(u64::MAX));
            self.queue[index].departs = at;
        }
        self.free_at = at;
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
