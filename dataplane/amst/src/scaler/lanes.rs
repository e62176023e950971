//! How many lanes a session has: one more where the threads have no time left, kept where it pays. Pure, as the scaler of streams.
//!
//! A lane is a connection on a thread of its own; it buys processor time and nothing else, since all lanes of a session are one flow. So it is tried
//! only where a thread is at its end and the congestion window is not what holds the session.

use std::time::Duration;

use crate::endpoint::ATTEMPT_TIMEOUT;

use super::{Move, NOISE, PRICE_OF_DOUBLING, Reason, Scaled, float};

/// A thread that is at work for more of its time has none left.
const BUSY: f64 = 0.85;
/// A window that is used more is what holds the session.
const WINDOW_FULL: f64 = 0.9;
/// All that the threads do has to fit so much of the time of one thread less, before a lane is given back.
const ROOMY: f64 = 0.6;
/// Bytes a second: a lane that moves less is not in use, whatever its thread does for others.
const LEAST_OF_LANE: f64 = 1024.0 * 1024.0;
/// Samples that are left out once a lane is there: it has to find its datagrams' size, and threads are measured over a while.
const SETTLE: u32 = 2;
/// Samples that a number is judged by.
const JUDGE: u32 = 2;
/// How long after it was wanted a lane that is not there will not come: it is tried for as long as one may be dialled.
const PATIENCE: Duration = ATTEMPT_TIMEOUT.saturating_add(Duration::from_secs(2));
/// After so many samples without use a lane is given back.
const IDLE_SAMPLES: u32 = 10;
/// Samples before the next try after one that did not pay; doubled each time, up to the most.
const LEAST_PAUSE: u32 = 16;
const MOST_PAUSE: u32 = 256;

/// Between what the number moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneBounds {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

/// What was seen since the sample before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneSample {
    pub(crate) elapsed: Duration,
    /// Bytes that were sent and received, and not lost.
    pub(crate) moved: u64,
    /// Lanes that are there.
    pub(crate) lanes: u32,
    /// The part of the time in which the busiest of their threads was at work.
    pub(crate) busy: f64,
    /// The same of all of their threads together.
    pub(crate) work: f64,
    /// The part of the congestion windows that was in use.
    pub(crate) window_used: f64,
}

/// Decides on the number of lanes of a session.
#[derive(Clone, Debug)]
pub(crate) struct LaneScaler {
    bounds: LaneBounds,
    wanted: u32,
    settling: u32,
    judged: Judged,
    /// The number before a try, and its utility.
    before: Option<(u32, f64)>,
    /// For how long a lane was waited for.
    waited: Duration,
    pause: u32,
    last_pause: u32,
    idle: u32,
    goodput: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    samples: u32,
    seconds: f64,
    moved: f64,
    busy: f64,
    window_used: f64,
}

impl Judged {
    fn add(&mut self, sample: &LaneSample) {
        self.samples += 1;
        self.seconds += sample.elapsed.as_secs_f64();
        self.moved += float(sample.moved);
        self.busy += sample.busy;
        self.window_used += sample.window_used;
    }

    fn goodput(&self) -> f64 {
        self.moved / self.seconds.max(1e-6)
    }

    fn utility(&self, lanes: u32) -> f64 {
        self.goodput() * (-f64::from(lanes.max(1)).log2() * PRICE_OF_DOUBLING).exp()
    }
}

impl LaneScaler {
    pub(crate) fn new(bounds: LaneBounds, lanes: u32) -> Self {
        Self {
            bounds,
            wanted: lanes.clamp(bounds.min, bounds.max),
            settling: SETTLE,
            judged: Judged::default(),
            before: None,
            waited: Duration::ZERO,
            pause: 0,
            last_pause: 0,
            idle: 0,
            goodput: 0.0,
        }
    }

    /// How many there should be.
    pub(crate) fn wanted(&self) -> u32 {
        self.wanted
    }

    pub(crate) fn most(&self) -> u32 {
        self.bounds.max
    }

    /// Whether it finds out about a number: what else changes now would be taken for its doing.
    pub(crate) fn is_trying(&self) -> bool {
        self.before.is_some()
    }

    pub(crate) fn rebound(&mut self, bounds: LaneBounds) -> Option<Move> {
        if self.bounds == bounds {
            return None;
        }
        self.bounds = bounds;
        (self.before, self.pause, self.last_pause) = (None, 0, 0);
        self.go(self.wanted.clamp(bounds.min, bounds.max), Reason::Bounds)
    }

    /// Takes a sample; says what is to change. Begins nothing while it `may_not_try`.
    pub(crate) fn sample(&mut self, sample: &LaneSample, may_try: bool) -> Option<Move> {
        self.goodput = float(sample.moved) / sample.elapsed.as_secs_f64().max(1e-6);
        if sample.lanes < self.wanted {
            self.waited += sample.elapsed;
            return if self.waited > PATIENCE { self.will_not_come(sample.lanes) } else { None };
        }
        self.waited = Duration::ZERO;
        if self.bounds.min == self.bounds.max {
            return None;
        }
        if self.before.is_none()
            && let Some(unused) = self.unused(sample)
        {
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
        let utility = judged.utility(sample.lanes);
        if let Some((before, utility_before)) = self.before.take() {
            if utility <= utility_before {
                self.refused();
                return self.go(before, Reason::NotPaid);
            }
            self.last_pause = 0;
        }
        self.pause = self.pause.saturating_sub(judged.samples);
        let samples = f64::from(judged.samples);
        let at_its_end = judged.busy / samples > BUSY && judged.window_used / samples < WINDOW_FULL;
        if !at_its_end || !may_try || self.pause > 0 || sample.lanes >= self.bounds.max {
            return None;
        }
        self.before = Some((self.wanted, utility * (1.0 + NOISE)));
        self.go(sample.lanes + 1, Reason::Busy)
    }

    fn will_not_come(&mut self, lanes: u32) -> Option<Move> {
        (self.before, self.waited) = (None, Duration::ZERO);
        self.refused();
        self.go(lanes.clamp(self.bounds.min, self.bounds.max), Reason::Refused)
    }

    fn refused(&mut self) {
        self.last_pause = (self.last_pause * 2).clamp(LEAST_PAUSE, MOST_PAUSE);
        self.pause = self.last_pause;
    }

    /// Gives one back that is not in use for long.
    fn unused(&mut self, sample: &LaneSample) -> Option<Move> {
        let lanes = f64::from(self.wanted);
        let in_use = sample.work > ROOMY * (lanes - 1.0) && self.goodput > LEAST_OF_LANE * lanes;
        if in_use || self.wanted <= self.bounds.min {
            self.idle = 0;
            return None;
        }
        self.idle += 1;
        if self.idle < IDLE_SAMPLES {
            return None;
        }
        self.go(self.wanted - 1, Reason::Unused)
    }

    fn go(&mut self, to: u32, reason: Reason) -> Option<Move> {
        let from = std::mem::replace(&mut self.wanted, to);
        (self.settling, self.judged, self.idle, self.waited) = (SETTLE, Judged::default(), 0, Duration::ZERO);
        (from != to).then_some(Move { of: Scaled::Lanes, from, to, reason, goodput: self.goodput })
    }
}

#[cfg(test)]
mod tests;
