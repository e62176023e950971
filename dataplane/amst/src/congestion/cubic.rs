//! `cubic`: RFC 9438, with the slow start of HyStart++ (RFC 9406) in front of it.

use std::time::{Duration, Instant};

use super::{
    core::{Acks, Algorithm, Lost, Mode, Path, Round},
    cubic_curve::{BETA, Curve},
    rate_sample::to_f64,
    reno::in_recovery,
};

/// RFC 9406 4.3: the round trip has to grow by an eighth, at least 4 ms and at most 16 ms, to be a queue.
const MIN_RISE: Duration = Duration::from_millis(4);
const MAX_RISE: Duration = Duration::from_millis(16);

/// RFC 9406 4.3: in conservative slow start the window grows a fourth as fast, for five rounds.
const CSS_DIVISOR: f64 = 4.0;
const CSS_ROUNDS: u32 = 5;

/// Packets below which slow start is not left for a round trip that grew.
const LOW_WINDOW: f64 = 16.0;

/// CUBIC.
#[derive(Clone, Debug)]
pub(super) struct Cubic {
    window: f64,
    threshold: f64,
    recovery: Option<Instant>,
    curve: Curve,
    /// Rounds in conservative slow start, and the round trip at which it began.
    conservative: Option<(u32, Duration)>,
    last_round: Option<Duration>,
}

impl Cubic {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            window: path.initial_window(),
            threshold: f64::INFINITY,
            recovery: None,
            curve: Curve::default(),
            conservative: None,
            last_round: None,
        }
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }
}

impl Algorithm for Cubic {
    fn acked(&mut self, path: &Path, acks: &Acks<'_>) {
        if acks.app_limited {
            return;
        }
        let Some(rtt) = path.rtt.smoothed() else { return };
        for packet in acks.packets.iter().filter(|packet| !in_recovery(self.recovery, packet.sent)) {
            let bytes = to_f64(packet.bytes);
            self.window = path.clamp(if self.window < self.threshold {
                self.window + if self.conservative.is_some() { bytes / CSS_DIVISOR } else { bytes }
            } else {
                self.curve.grown(self.window, bytes, acks.now, rtt, path.mtu)
            });
        }
    }

    fn lost(&mut self, path: &Path, now: Instant, lost: &Lost) {
        if !in_recovery(self.recovery, lost.sent) {
            self.recovery = Some(now);
            self.curve.reduced(self.window);
            self.window = path.clamp(self.window * BETA);
            self.threshold = self.window;
        }
        if lost.persistent {
            // RFC 9438 4.8.
            self.curve.restart();
            self.window = path.minimum_window();
            (self.recovery, self.conservative) = (None, None);
        }
    }

    fn round(&mut self, path: &Path, round: &Round) {
        let now = round.trips.quartile;
        let last = self.last_round.replace(now);
        if !self.in_slow_start() || self.window < LOW_WINDOW * path.mtu {
            return;
        }
        if let Some((rounds, began)) = self.conservative {
            self.conservative = if now < began {
                // It was noise: RFC 9406 4.3 goes back to slow start.
                None
            } else if rounds + 1 >= CSS_ROUNDS {
                self.threshold = self.window;
                None
            } else {
                Some((rounds + 1, began))
            };
        } else if last.is_some_and(|last| now >= last + (last / 8).clamp(MIN_RISE, MAX_RISE)) {
            self.conservative = Some((0, now));
        }
    }

    fn idle(&mut self, path: &Path, _now: Instant, idle: Duration, timeouts: u32) {
        self.curve.skip(idle);
        // RFC 2861 2: half of what was not used, for each time-out, and back by slow start.
        self.threshold = self.threshold.max(0.75 * self.window);
        let halved = self.window / f64::from(1_u32 << timeouts.min(20));
        self.window = halved.max(path.initial_window().min(self.window));
    }

    fn window(&self) -> f64 {
        self.window
    }

    fn mode(&self) -> Mode {
        if self.in_slow_start() { Mode::Start } else { Mode::Avoidance }
    }
}
