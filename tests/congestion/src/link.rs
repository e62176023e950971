//! The bottleneck: a rate, a drop-tail queue, and what may happen to a packet behind it.

use crate::random::Random;

/// Nanoseconds of virtual time.
pub type Nanos = u64;

/// A second of them.
pub const SECOND: Nanos = 1_000_000_000;

/// A millisecond of them.
pub const MS: Nanos = 1_000_000;

/// What a path is like.
#[derive(Clone, Debug)]
pub struct Path {
    /// Bits a second.
    pub rate: u64,
    /// Round trip without a queue.
    pub rtt: Nanos,
    /// Bytes that wait at most.
    pub queue: u64,
    /// Share of packets that are lost behind the queue, each for itself.
    pub loss: f64,
    /// Share of packets after which a burst is lost, and how many packets a burst is.
    pub bursts: (f64, u32),
    /// Up to so much is added to each packet's way; packets do not overtake one another for it.
    pub jitter: Nanos,
    /// Share of packets that take a longer way, and by how much.
    pub reordering: (f64, Nanos),
    /// At these times the rate becomes another.
    pub changes: Vec<(Nanos, u64)>,
}

impl Path {
    /// A path with a queue of so many of its bandwidth-delay products, that loses at random.
    #[must_use]
    pub fn new(rtt_ms: u64, mbit: u64, queue_bdp: f64, loss: f64) -> Self {
        let (rate, rtt) = (mbit * 1_000_000, rtt_ms * MS);
        let bdp = rate / 8 * rtt_ms / 1000;
        Self {
            rate,
            rtt,
            queue: scaled(bdp, queue_bdp),
            loss,
            bursts: (0.0, 0),
            jitter: 0,
            reordering: (0.0, 0),
            changes: Vec::new(),
        }
    }

    /// Bytes that the path holds without a queue.
    #[must_use]
    pub fn bdp(&self) -> u64 {
        self.rate / 8 * (self.rtt / 1000) / 1_000_000
    }
}

/// A number times a factor, whole.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of a simulation are small and positive"
)]
pub fn scaled(number: u64, factor: f64) -> u64 {
    (number as f64 * factor) as u64
}

/// The bottleneck at work.
#[derive(Debug)]
pub struct Link {
    path: Path,
    rate: u64,
    /// When what waits now will have left.
    busy_until: Nanos,
    in_burst: u32,
    last_arrival: Nanos,
    next_change: usize,
    /// Packets that found the queue full.
    pub overflows: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Nanos),
    /// It does not.
    Lost,
}

impl Link {
    /// An idle link.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            rate: path.rate,
            path: path.clone(),
            busy_until: 0,
            in_burst: 0,
            last_arrival: 0,
            next_change: 0,
            overflows: 0,
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn backlog(&self, now: Nanos) -> u64 {
        bytes_in(self.busy_until.saturating_sub(now), self.rate)
    }

    /// Takes a packet.
    pub(crate) fn send(&mut self, now: Nanos, bytes: u64, random: &mut Random) -> Fate {
        while let Some(&(_, rate)) = self.path.changes.get(self.next_change).filter(|(at, _)| *at <= now) {
            let backlog = self.backlog(now);
            (self.rate, self.next_change) = (rate, self.next_change + 1);
            self.busy_until = now + time_of(backlog, rate);
        }
        if self.backlog(now) + bytes > self.path.queue {
            self.overflows += 1;
            return Fate::Lost;
        }
        self.busy_until = self.busy_until.max(now) + time_of(bytes, self.rate);
        if self.in_burst > 0 || random.chance(self.path.bursts.0) {
            self.in_burst = if self.in_burst > 0 { self.in_burst - 1 } else { self.path.bursts.1.saturating_sub(1) };
            return Fate::Lost;
        }
        if random.chance(self.path.loss) {
            return Fate::Lost;
        }
        let arrival = self.busy_until + self.path.rtt / 2 + random.below(self.path.jitter + 1);
        if random.chance(self.path.reordering.0) {
            return Fate::Arrives(arrival + self.path.reordering.1);
        }
        self.last_arrival = self.last_arrival.max(arrival);
        Fate::Arrives(self.last_arrival)
    }
}

fn time_of(bytes: u64, rate: u64) -> Nanos {
    bytes * 8 * SECOND / rate.max(1)
}

fn bytes_in(time: Nanos, rate: u64) -> u64 {
    u64::try_from(u128::from(time) * u128::from(rate) / 8 / u128::from(SECOND)).unwrap_or(u64::MAX)
}
