//! How many streams a session has: a pure state machine over samples of what they moved.
//!
//! In the manner of Falcon (Arifuzzaman and Arslan, 2021) each number of streams has a *utility*: the goodput, with a price on
//! concurrency and on loss. A session whose streams are all in use tries more of them, keeps what pays, takes back what does not and
//! then waits longer before it tries again. What is not in use is given back. Time comes in; there is no clock here.

mod lanes;

use std::time::Duration;

pub(crate) use lanes::{LaneBounds, LaneSample, LaneScaler};

/// The price of concurrency: each doubling of streams has to move a twentieth more.
const PRICE_OF_DOUBLING: f64 = 0.05;
/// The price of loss above what any path may have: one part in a hundred lost costs ten in a hundred of goodput (Falcon's B = 10).
const PRICE_OF_LOSS: f64 = 10.0;
const FREE_LOSS: f64 = 0.02;
/// A move down is kept where utility falls by no more than noise.
const NOISE: f64 = 0.03;
/// Samples that are left out after a move: what was under way before belongs to the former number.
const SETTLE: u32 = 1;
/// Samples that a number is judged by.
const JUDGE: u32 = 2;
/// After a try that did not pay, so many samples pass before the next; doubled each time, up to the most.
const LEAST_PAUSE: u32 = 8;
const MOST_PAUSE: u32 = 128;
/// After so many samples in which at most half of the streams were in use, that half is given back.
const IDLE_SAMPLES: u32 = 10;
/// A goodput that changed by so much since it was judged is another path: what was found out before is forgotten.
const OTHER_PATH: f64 = 2.0;

/// Between what the number moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// By how much it grows when growing pays.
    pub(crate) factor: f64,
}

/// What was seen since the sample before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) elapsed: Duration,
    /// Bytes that were sent and not lost.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// The most streams that were in use at once.
    pub(crate) most_used: u32,
    /// The part of the time in which pieces waited for a stream.
    pub(crate) waiting: f64,
}

/// Why the number changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Pieces wait for streams: more are tried.
    Waiting,
    /// More did not pay.
    NotPaid,
    /// They are not in use.
    Unused,
    /// The settings were changed.
    Bounds,
    /// A thread has no time left: a lane more is tried.
    Busy,
    /// A lane that was wanted does not come.
    Refused,
}

/// What has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaled {
    /// Streams of pieces that a session may send at once.
    Streams,
    /// Its connections.
    Lanes,
}

impl Scaled {
    /// The name in metrics and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Lanes => "lanes",
        }
    }
}

impl Reason {
    /// The name in metrics and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::NotPaid => "not_paid",
            Self::Unused => "unused",
            Self::Bounds => "bounds",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }

    /// Why each may change.
    pub(crate) const OF: [(Scaled, &[Self]); 2] = [
        (Scaled::Streams, &[Self::Waiting, Self::NotPaid, Self::Unused, Self::Bounds]),
        (Scaled::Lanes, &[Self::Busy, Self::NotPaid, Self::Unused, Self::Bounds, Self::Refused]),
    ];
}

/// A change of the number of streams, or of lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Of what.
    pub of: Scaled,
    /// Before.
    pub from: u32,
    /// After.
    pub to: u32,
    /// Why.
    pub reason: Reason,
    /// Bytes a second when it was decided.
    pub goodput: f64,
}

/// Decides on the number of streams of a session.
#[derive(Clone, Debug)]
pub(crate) struct Scaler {
    bounds: Bounds,
    streams: u32,
    /// Samples to leave out yet.
    settling: u32,
    judged: Judged,
    /// The number before a try, and its utility and goodput.
    before: Option<(u32, f64, f64)>,
    /// Samples until the next try, and how many it were the last time.
    pause: u32,
    last_pause: u32,
    /// The goodput at which the last try did not pay.
    refused_at: f64,
    idle: u32,
    idle_most: u32,
    /// Bytes a second over the last sample.
    goodput: f64,
    best: Option<Best>,
}

/// The number that was last seen to be of use, and what it moved: bytes a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Best {
    pub(crate) streams: u32,
    pub(crate) goodput: f64,
}

/// What a number of streams moved.
#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    samples: u32,
    seconds: f64,
    delivered: f64,
    lost: f64,
    waiting: f64,
}

impl Judged {
    fn add(&mut self, sample: &Sample) {
        self.samples += 1;
        self.seconds += sample.elapsed.as_secs_f64();
        self.delivered += float(sample.delivered);
        self.lost += float(sample.lost);
        self.waiting += sample.waiting;
    }

    fn goodput(&self) -> f64 {
        self.delivered / self.seconds.max(1e-6)
    }

    fn utility(&self, streams: u32) -> f64 {
        let lost = self.lost / (self.delivered + self.lost).max(1.0);
        let concurrency = f64::from(streams.max(1)).log2() * PRICE_OF_DOUBLING;
        let loss = (lost - FREE_LOSS).max(0.0) * PRICE_OF_LOSS;
        // As a factor, so that it means the same at any rate.
        self.goodput() * (-concurrency - loss).exp()
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates need no 53 bits")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

impl Scaler {
    pub(crate) fn new(bounds: Bounds, streams: u32) -> Self {
        Self {
            bounds,
            streams: streams.clamp(bounds.min, bounds.max),
            settling: 0,
            judged: Judged::default(),
            before: None,
            pause: 0,
            last_pause: 0,
            refused_at: 0.0,
            idle: 0,
            idle_most: 0,
            goodput: 0.0,
            best: None,
        }
    }

    /// What a next session with the peer should begin with.
    pub(crate) fn best(&self) -> Option<Best> {
        self.best
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams
    }

    /// Whether it finds out about a number: what else changes now would be taken for its doing.
    pub(crate) fn is_trying(&self) -> bool {
        self.before.is_some()
    }

    /// What carries the streams has changed: what was found out before is forgotten.
    pub(crate) fn begin_anew(&mut self) {
        (self.before, self.judged, self.settling) = (None, Judged::default(), SETTLE);
        (self.pause, self.last_pause) = (0, 0);
    }

    /// Changes the bounds, and begins anew with a number where one is given.
    pub(crate) fn rebound(&mut self, bounds: Bounds, begin: Option<u32>) -> Option<Move> {
        self.bounds = bounds;
        (self.before, self.judged) = (None, Judged::default());
        self.go(begin.unwrap_or(self.streams).clamp(bounds.min, bounds.max), Reason::Bounds)
    }

    /// Takes a sample; says what is to change.
    pub(crate) fn sample(&mut self, sample: &Sample) -> Option<Move> {
        self.goodput = float(sample.delivered) / sample.elapsed.as_secs_f64().max(1e-6);
        if let Some(unused) = self.unused(sample) {
            return Some(unused);
        }
        if self.settling > 0 {
            self.settling -= 1;
            return None;
        }
        self.judged.add(sample);
        if self.judged.samples < JUDGE {
            return None;
        }
        let judged = std::mem::take(&mut self.judged);
        let (goodput, utility) = (judged.goodput(), judged.utility(self.streams));
        let waiting = judged.waiting / f64::from(judged.samples);
        if let Some((before, utility_before, goodput_before)) = self.before.take() {
            if waiting < 0.05 {
                // There was not enough to send to find out: what is not in use goes by itself.
                return None;
            }
            if utility <= utility_before {
                self.last_pause = (self.last_pause * 2).clamp(LEAST_PAUSE, MOST_PAUSE);
                self.pause = self.last_pause;
                self.refused_at = goodput_before;
                return self.moved(before, Reason::NotPaid, goodput);
            }
            self.last_pause = 0;
        }
        if waiting >= 0.5 {
            self.best = Some(Best { streams: self.streams, goodput });
        }
        self.pause = self.pause.saturating_sub(judged.samples);
        if goodput > self.refused_at * OTHER_PATH || goodput < self.refused_at / OTHER_PATH {
            (self.pause, self.last_pause) = (0, 0);
        }
        if self.pause > 0 || waiting < 0.5 || self.streams >= self.bounds.max {
            return None;
        }
        self.before = Some((self.streams, utility * (1.0 + NOISE), goodput));
        self.moved(self.more(), Reason::Waiting, goodput)
    }

    /// Gives back what was not in use for long.
    fn unused(&mut self, sample: &Sample) -> Option<Move> {
        if sample.most_used * 2 > self.streams {
            (self.idle, self.idle_most) = (0, 0);
            return None;
        }
        self.idle += 1;
        self.idle_most = self.idle_most.max(sample.most_used);
        if self.idle < IDLE_SAMPLES {
            return None;
        }
        let wanted = (self.idle_most * 2).clamp(self.bounds.min, self.streams.max(self.bounds.min));
        (self.idle, self.idle_most) = (0, 0);
        self.before = None;
        self.go(wanted, Reason::Unused)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bounds")]
    fn more(&self) -> u32 {
        let more = (f64::from(self.streams) * self.bounds.factor).ceil().min(f64::from(u32::MAX));
        (more as u32).clamp(self.streams + 1, self.bounds.max.max(self.streams + 1)).min(self.bounds.max)
    }

    fn go(&mut self, to: u32, reason: Reason) -> Option<Move> {
        if to == self.streams { None } else { self.moved(to, reason, self.goodput) }
    }

    fn moved(&mut self, to: u32, reason: Reason, goodput: f64) -> Option<Move> {
        let from = std::mem::replace(&mut self.streams, to);
        (self.settling, self.judged) = (SETTLE, Judged::default());
        Some(Move { of: Scaled::Streams, from, to, reason, goodput })
    }
}

/// Asks both scalers of a session. Only one of them tries something at a time, so that it knows what it was that paid.
pub(crate) fn sample(streams: &mut Scaler, lanes: &mut LaneScaler, seen: &Sample, of_lanes: &LaneSample) -> Vec<Move> {
    let trying = lanes.is_trying();
    let moved = lanes.sample(of_lanes, !streams.is_trying());
    if moved.is_some() {
        streams.begin_anew();
    }
    let more = if trying || lanes.is_trying() { None } else { streams.sample(seen) };
    moved.into_iter().chain(more).collect()
}

/// How long a sample is: several round trips, and neither too short to measure nor too long to settle in seconds.
pub(crate) fn interval(rtt: Duration) -> Duration {
    (rtt * 2).clamp(Duration::from_millis(200), Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
