//! Whether anybody else is at the bottleneck, asked by doing a little less.
//!
//! Where a queue stands, a round trip is what all flows have under way, divided by the rate. Who puts a twelfth less under way and
//! is alone sees round trips fall by a twelfth; who shares sees them fall by his share of that. So a dip of three round trips
//! measures the share, and a session that is alone need not fill the queue to find out what it holds: it stands still while the
//! queue is short, and goes on growing as CUBIC does once round trips grow without it.

use std::time::{Duration, Instant};

use crate::congestion::core::{Path, Round};

/// The queue at which a session asks, and where it stands still if it is alone, as a share of the base.
const QUEUE: u32 = 6;

/// What a dip leaves of the window.
const DIP: f64 = 1.0 - 1.0 / 12.0;

/// Rounds until the answer has come: one until less is under way, one until that has reached the bottleneck and come back whole.
const ROUNDS: u64 = 3;

/// Rounds in which the window stands still before, so that what is measured is not its own growth.
const STILL: u64 = 2;

/// The share from which a session is alone, as far as can be measured.
const ALONE: f64 = 0.85;

/// A session whose share is above the first of these leaves more than CUBIC would when it reduces, above the second as much more as
/// it ever does: whoever has half of the bottleneck and is not alone has at least what is fair.
const LARGE: (f64, f64) = (0.35, 0.55);

/// How long an answer counts, and how long after a reduction, when others reduce too, none can be had.
const ANSWER_LASTS: Duration = Duration::from_secs(15);
const UNSETTLED: Duration = Duration::from_millis(1500);

/// How often it is asked, at most, and for how many rounds at random it is waited before: two sessions that ask at once both seem
/// alone.
const PAUSE: Duration = Duration::from_secs(3);
const SPREAD_ROUNDS: u64 = 16;

/// Asks, and knows the last answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Solitude {
    dip: Option<Dip>,
    asked: Option<Instant>,
    /// The round in which it is asked.
    ask_at: Option<u64>,
    dither: u64,
    /// Rounds in a row in which the queue was longer than what this session stands for.
    longer: u32,
    alone: bool,
    /// The share that was measured last, and when.
    share: Option<(Instant, f64)>,
    reduced: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Dip {
    window: f64,
    /// The round trip before less was under way; none while the window stands still so that it can be measured.
    trip: Option<Duration>,
    round: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Advice {
    /// Nothing new.
    GoOn,
    /// Take this window, for now or for good.
    Take(f64),
}

impl Solitude {
    /// Whether the window is not to grow.
    pub(super) fn holds(&self) -> bool {
        self.alone || self.dip.is_some()
    }

    /// The window was reduced; others' were, too.
    pub(super) fn lost(&mut self, now: Instant) {
        self.reduced = Some(now);
    }

    /// How much larger this session is than it may be, from 0 to 1, where others are there.
    pub(super) fn large(&self, now: Instant) -> f64 {
        let fresh = |at: Instant| now.saturating_duration_since(at) <= ANSWER_LASTS;
        match self.share.filter(|(at, _)| fresh(*at)) {
            Some((_, share)) if share < ALONE => ((share - LARGE.0) / (LARGE.1 - LARGE.0)).clamp(0.0, 1.0),
            _ => 0.0,
        }
    }

    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Something happened that makes an answer worthless; the window that a dip began with, if one was under way.
    pub(super) fn forget(&mut self) -> Option<f64> {
        (self.alone, self.longer) = (false, 0);
        self.dip.take().map(|dip| dip.window)
    }

    pub(super) fn round(&mut self, path: &Path, round: &Round, window: f64) -> Advice {
        let Some(base) = path.rtt.base() else { return Advice::GoOn };
        // What two sessions on one path do not have in common.
        let noise = u64::from(round.now.saturating_duration_since(round.began).subsec_nanos()) ^ path.delivered;
        self.dither = (self.dither ^ noise).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        let queue = round.trips.quartile.saturating_sub(base);
        let target = (base / QUEUE).max(path.rtt.queue_floor() * 5 / 4);
        if let Some(dip) = self.dip {
            return self.dipping(path, dip, base + target, round);
        }
        if self.alone {
            self.longer = if queue > target * 3 / 2 + path.rtt.noise() { self.longer + 1 } else { 0 };
            // Somebody came, or the path became slower; or faster, and there is no queue any more.
            if self.longer >= 2 || queue < target / 4 {
                self.forget();
                self.asked = Some(round.now);
            }
        }
        let due = self.asked.is_none_or(|asked| round.now.saturating_duration_since(asked) >= PAUSE);
        let settled = self.reduced.is_none_or(|at| round.now.saturating_duration_since(at) >= UNSETTLED);
        // Less than where it stands still: else two sessions would find it reached at the same moment.
        if due && settled && queue >= target * 4 / 5 && !round.app_limited {
            let at = *self.ask_at.get_or_insert(path.rounds + self.dither % SPREAD_ROUNDS);
            if path.rounds < at {
                return Advice::GoOn;
            }
            (self.asked, self.ask_at) = (Some(round.now), None);
            self.dip = Some(Dip { window, trip: None, round: path.rounds });
        }
        Advice::GoOn
    }

    fn dipping(&mut self, path: &Path, dip: Dip, wanted: Duration, round: &Round) -> Advice {
        match dip.trip {
            Some(trip) if path.rounds >= dip.round + ROUNDS => self.judge(dip.window, trip, wanted, round),
            None if path.rounds >= dip.round + STILL => {
                self.dip = Some(Dip { trip: Some(round.trips.quartile), round: path.rounds, ..dip });
                Advice::Take(DIP * dip.window)
            }
            Some(_) | None => Advice::GoOn,
        }
    }

    fn judge(&mut self, window: f64, trip: Duration, wanted: Duration, round: &Round) -> Advice {
        self.dip = None;
        let expected = trip.as_secs_f64() * (1.0 - DIP);
        let fell = trip.saturating_sub(round.trips.quartile).as_secs_f64();
        let share = fell / expected.max(1e-6);
        self.share = Some((round.now, share));
        self.alone = share >= ALONE;
        if !self.alone {
            return Advice::Take(window);
        }
        let trip = trip.as_secs_f64().max(1e-6);
        Advice::Take(window * (wanted.as_secs_f64() / trip).clamp(0.5, 1.0))
    }
}
