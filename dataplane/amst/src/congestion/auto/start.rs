//! The start: doubles until the bottleneck is found.
//!
//! A round trip that grows says that the bottleneck is busy, not with whom. So growth is suspended, and half a round trip later the
//! rate at which bytes arrive tells: if it stands still although the window had gone on growing, the session fills the path, and the
//! window is what the path holds. If it rose, others hold the queue, and leaving now would be giving up before having a share.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::congestion::{
    core::{Acks, Path},
    rate_sample::to_f64,
};

/// A queue of a sixteenth of the base, in these bounds, suspends growth.
const RISE: (Duration, Duration) = (Duration::from_micros(2500), Duration::from_millis(12));

/// Below so many packets a round trip says more about single packets than about a queue.
const LOW_WINDOW: f64 = 32.0;

/// The rate that is taken for standing still: doubling makes 1.41 of it in half a round trip.
const STANDS_STILL: f64 = 1.15;

/// What is over 1: so that a path that was underestimated is not left half empty.
const OVER: f64 = 1.03;

/// Arrivals kept: some of each round trip.
const MAX_ARRIVALS: usize = 4096;

/// The state of the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    /// What had arrived when, over the last round trip.
    arrivals: VecDeque<(Instant, u64)>,
    suspended: Option<Suspended>,
    /// The queue that others hold.
    theirs: Duration,
    /// Whether growth was suspended before: it goes on more slowly then.
    slow: bool,
}

#[derive(Clone, Copy, Debug)]
struct Suspended {
    window: f64,
    rate: f64,
    until: Instant,
}

/// What becomes of the window.
pub(super) enum Verdict {
    /// The start goes on with this.
    Grow(f64),
    /// The path is full with this.
    Settle(f64),
}

impl Start {
    pub(super) fn acked(&mut self, path: &Path, acks: &Acks<'_>, window: f64) -> Verdict {
        let smoothed = path.rtt.smoothed().unwrap_or_default();
        self.arrivals.push_back((acks.now, path.delivered));
        while self.arrivals.len() > MAX_ARRIVALS
            || self.arrivals.front().is_some_and(|(at, _)| acks.now.saturating_duration_since(*at) > smoothed)
        {
            self.arrivals.pop_front();
        }
        if let Some(suspended) = self.suspended {
            if acks.now < suspended.until {
                return Verdict::Grow(window);
            }
            self.suspended = None;
            let rate = self.rate(acks.now, smoothed);
            if rate < STANDS_STILL * suspended.rate {
                let full = OVER * rate.max(suspended.rate) * path.rtt.base().unwrap_or_default().as_secs_f64();
                return Verdict::Settle(full.clamp(0.5 * suspended.window, suspended.window));
            }
            (self.theirs, self.slow) = (path.rtt.queue(), true);
            return Verdict::Grow(suspended.window);
        }
        if acks.app_limited {
            return Verdict::Grow(window);
        }
        if self.queued(path) && window >= LOW_WINDOW * path.mtu {
            let rate = self.rate(acks.now, smoothed);
            self.suspended = Some(Suspended { window, rate, until: acks.now + smoothed / 2 });
            let full = 1.1 * rate * path.rtt.base().unwrap_or_default().as_secs_f64();
            return Verdict::Grow(full.clamp(0.5 * window, window));
        }
        let bytes = to_f64(acks.bytes);
        Verdict::Grow(window + if self.slow { 0.4 * bytes } else { bytes })
    }

    /// Whether growth was suspended for a queue that others hold.
    pub(super) fn beside_others(&self) -> bool {
        self.slow
    }

    /// Whether a queue is there that others did not hold before.
    fn queued(&self, path: &Path) -> bool {
        let base = path.rtt.base().unwrap_or_default();
        let rise = (base / 16).clamp(RISE.0, RISE.1) + path.rtt.jitter() * 2;
        path.rtt.queue() > self.theirs + rise
    }

    /// What the path holds by the rate of late, if it is known.
    pub(super) fn reached(&self, path: &Path) -> Option<f64> {
        let (now, _) = *self.arrivals.back()?;
        let rate = self.rate(now, path.rtt.smoothed()?);
        Some(rate * path.rtt.base()?.as_secs_f64())
    }

    /// Bytes a second over the last quarter of a round trip.
    fn rate(&self, now: Instant, smoothed: Duration) -> f64 {
        let span = (smoothed / 4).max(Duration::from_millis(5));
        let recent = self.arrivals.iter().find(|(at, _)| now.saturating_duration_since(*at) <= span);
        let (Some(&(from, before)), Some(&(until, after))) = (recent, self.arrivals.back()) else { return 0.0 };
        let took = until.saturating_duration_since(from).max(Duration::from_micros(100));
        to_f64(after.saturating_sub(before)) / took.as_secs_f64()
    }
}
