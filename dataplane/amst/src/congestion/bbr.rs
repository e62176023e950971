//! `bbr`: BBRv3 (draft-ietf-ccwg-bbr-06), as far as a window alone can say it.
//!
//! BBR sets a pacing rate first and a window second. The library paces by the window, at 1.25 of it a round trip, and takes no rate
//! from here, so the gains are of the bytes under way: 2 in Startup, 1.25 in PROBE_UP, 1.08 in PROBE_CRUISE (what is over 1 keeps the
//! path busy where acknowledgments come in heaps), 0.9 in PROBE_DOWN. What follows the draft: the model of bandwidth and round trip (5.5), the
//! states and what ends them (5.3), the bounds that losses set (`inflight_longterm`, `inflight_shortterm`: 5.5.10). What does
//! not: pacing gains, the send quantum, and spurious losses, of which the library does not tell.

use std::time::{Duration, Instant};

use super::{
    core::{Acks, Algorithm, Lost, Mode, Path, Round},
    rate_sample::{MaxFilter, to_f64},
};

/// The draft's BBRLossThresh: more than this share lost in a round is too much.
const LOSS_THRESHOLD: f64 = 0.02;

/// BBRBeta: what a loss leaves of the short-term bound.
const BETA: f64 = 0.7;

/// BBRHeadroom: what PROBE_CRUISE leaves to others below the long-term bound.
const HEADROOM: f64 = 0.85;

/// BBRStartupFullBwThreshold and its rounds: less growth than this for so long is a plateau (5.3.1.2).
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;

/// Gains of the bytes under way.
const STARTUP_GAIN: f64 = 2.0;
const UP_GAIN: f64 = 1.25;
const CRUISE_GAIN: f64 = 1.08;
const DOWN_GAIN: f64 = 0.9;
const PROBE_RTT_GAIN: f64 = 0.5;

/// MinRTTFilterLen, ProbeRTTInterval, ProbeRTTDuration (5.3.4.3).
const MIN_RTT_LASTS: Duration = Duration::from_secs(10);
const PROBE_RTT_EVERY: Duration = Duration::from_secs(5);
const PROBE_RTT_FOR: Duration = Duration::from_millis(200);

/// How long PROBE_CRUISE lasts: two to three seconds, or as many rounds as Reno would take to win a packet for each under way, 63 at
/// most (5.3.3.5).
const CRUISE: Duration = Duration::from_secs(2);
const CRUISE_ROUNDS: f64 = 63.0;

/// What acknowledgments in heaps add to the path (the draft's `extra_acked`, 5.5.9, as a bound).
const AGGREGATION: Duration = Duration::from_millis(2);

/// BBRv3 on a window.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    window: f64,
    state: State,
    /// Of the last two probe cycles (5.5.5).
    max_bandwidth: MaxFilter,
    cycle: u64,
    min_rtt: Option<(Instant, Duration)>,
    probed_rtt: Option<Instant>,
    full: (f64, u32),
    /// `inflight_longterm` and `inflight_shortterm` (5.5.10), infinite where nothing bounds.
    long_term: f64,
    short_term: f64,
    /// Bytes lost in this round.
    lost: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Startup,
    Drain,
    Down,
    Cruise { until: Instant, round: u64 },
    Refill { round: u64 },
    Up { since: Instant, round: u64 },
    ProbeRtt { until: Instant, round: u64 },
}

impl Bbr {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            window: path.initial_window(),
            state: State::Startup,
            max_bandwidth: MaxFilter::new(2),
            cycle: 0,
            min_rtt: None,
            probed_rtt: None,
            full: (0.0, 0),
            long_term: f64::INFINITY,
            short_term: f64::INFINITY,
            lost: 0.0,
        }
    }

    /// BBRInflight (5.6.4.2): what a gain puts under way.
    fn inflight(&self, gain: f64) -> f64 {
        let rtt = self.min_rtt.map_or(Duration::ZERO, |(_, rtt)| rtt + AGGREGATION);
        gain * self.max_bandwidth.get() * rtt.as_secs_f64()
    }

    /// 5.3.3.1: less under way than the path holds, so that what PROBE_UP queued is gone; a new cycle begins.
    fn begin_down(&mut self) {
        self.state = State::Down;
    }

    fn begin_cruise(&mut self, path: &Path, now: Instant) {
        // A second is added by what no two flows have in common.
        let spread = path.delivered.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        self.state = State::Cruise { until: now + CRUISE + Duration::from_millis(spread), round: path.rounds };
    }

    /// BBRIsTimeToProbeBW, BBRIsRenoCoexistenceProbeTime (5.3.3.5.3).
    fn is_time_to_probe(&self, path: &Path, now: Instant, until: Instant, round: u64) -> bool {
        let reno = (self.inflight(1.0) / path.mtu).min(CRUISE_ROUNDS);
        now >= until || to_f64(path.rounds.saturating_sub(round)) >= reno
    }

    /// BBRCheckStartupFullBandwidth, BBRCheckStartupHighLoss (5.3.1.2, 5.3.1.3).
    fn startup_round(&mut self, path: &Path, round: &Round, high_loss: bool) {
        let rate = self.max_bandwidth.get();
        if rate >= FULL_GROWTH * self.full.0 {
            self.full = (rate, 0);
        } else if !round.app_limited {
            self.full.1 += 1;
        }
        if high_loss {
            self.long_term = self.inflight(1.0).max(path.in_flight * BETA);
        }
        if high_loss || self.full.1 >= FULL_ROUNDS {
            self.state = State::Drain;
        }
    }

    /// 5.5.10.2: what a round of losses bounds for now, and PROBE_UP's for long (BBRHandleInflightTooHigh).
    fn bound(&mut self, path: &Path) {
        match self.state {
            State::Up { .. } | State::Refill { .. } => {
                self.long_term = path.in_flight.max(self.inflight(1.0) * BETA);
                self.begin_down();
            }
            State::Down | State::Cruise { .. } => {
                let latest = path.in_flight;
                self.short_term = latest.max(BETA * self.short_term.min(self.window));
            }
            State::Startup | State::Drain | State::ProbeRtt { .. } => {}
        }
    }

    fn advance(&mut self, path: &Path, now: Instant) {
        match self.state {
            State::Startup => {}
            State::Drain if path.in_flight <= self.inflight(1.0) => self.begin_down(),
            State::Down => {
                let low = self.inflight(1.0).min(HEADROOM * self.long_term);
                if path.in_flight <= low {
                    self.begin_cruise(path, now);
                }
            }
            State::Cruise { until, round } if self.is_time_to_probe(path, now, until, round) => {
                // BBRResetShortTermModel: a new look at the path.
                self.short_term = f64::INFINITY;
                self.state = State::Refill { round: path.rounds };
            }
            State::Refill { round } if path.rounds > round => {
                self.state = State::Up { since: now, round: path.rounds };
            }
            State::Up { since, round } => {
                if path.in_flight >= self.long_term {
                    // BBRProbeInflightLongtermUpward: it was held, so more may be tried.
                    self.long_term += path.mtu * to_f64(1 << path.rounds.saturating_sub(round).min(10)) / 8.0;
                }
                let min_rtt = self.min_rtt.map_or(Duration::ZERO, |(_, rtt)| rtt);
                let full = path.in_flight >= 0.98 * self.inflight(UP_GAIN) && path.rounds > round + 1;
                if full && now.saturating_duration_since(since) > min_rtt {
                    self.cycle += 1;
                    self.begin_down();
                }
            }
            State::ProbeRtt { until, round } if now >= until && path.rounds > round => {
                self.probed_rtt = Some(now);
                self.begin_cruise(path, now);
            }
            State::Drain | State::Cruise { .. } | State::Refill { .. } | State::ProbeRtt { .. } => {}
        }
    }

    /// 5.3.4.3.
    fn update_min_rtt(&mut self, path: &Path, round: &Round) {
        let trip = round.trips.quartile;
        let expired = |at: Instant, after: Duration| round.now.saturating_duration_since(at) > after;
        if self.min_rtt.is_none_or(|(at, least)| trip <= least || expired(at, MIN_RTT_LASTS)) {
            self.min_rtt = Some((round.now, trip));
        }
        let probed = *self.probed_rtt.get_or_insert(round.now);
        let stale =
            self.min_rtt.is_some_and(|(at, _)| expired(at, PROBE_RTT_EVERY)) && expired(probed, PROBE_RTT_EVERY);
        let started = matches!(self.state, State::Startup | State::Drain | State::ProbeRtt { .. });
        if stale && !started && !round.app_limited {
            self.state = State::ProbeRtt { until: round.now + PROBE_RTT_FOR + trip, round: path.rounds };
        }
    }

    /// BBRSetCwnd, BBRBoundCwndForModel (5.6.4).
    fn set_window(&mut self, path: &Path, acked: f64) {
        let (target, bound) = match self.state {
            State::Startup => (self.inflight(STARTUP_GAIN).max(path.initial_window()), f64::INFINITY),
            State::Drain | State::Refill { .. } => (self.inflight(1.0), self.long_term),
            State::Down => (self.inflight(DOWN_GAIN), HEADROOM * self.long_term),
            State::Cruise { .. } => (self.inflight(CRUISE_GAIN), HEADROOM * self.long_term),
            State::Up { .. } => (self.inflight(UP_GAIN), self.long_term),
            State::ProbeRtt { .. } => (self.inflight(PROBE_RTT_GAIN), HEADROOM * self.long_term),
        };
        let target = target.min(bound).min(self.short_term);
        // Never by more than what was acknowledged, so that nothing leaves in a heap.
        let grown = target.min(self.window + acked);
        let least = 4.0 * path.mtu;
        self.window = path.clamp(grown.max(least));
    }
}

impl Algorithm for Bbr {
    fn acked(&mut self, path: &Path, acks: &Acks<'_>) {
        // 5.5.5: a sample of an application that had nothing to send counts only where it is higher.
        if let Some(sample) = acks.rate.filter(|sample| !sample.app_limited || sample.rate > self.max_bandwidth.get()) {
            self.max_bandwidth.update(self.cycle, sample.rate);
        }
        self.advance(path, acks.now);
        // In Startup the window grows by what arrives, but not while there is nothing to send.
        let held = acks.app_limited && self.state == State::Startup;
        self.set_window(path, if held { 0.0 } else { to_f64(acks.bytes) });
    }

    fn lost(&mut self, path: &Path, _now: Instant, lost: &Lost) {
        self.lost += to_f64(lost.bytes);
        if lost.persistent {
            *self = Self { window: path.minimum_window(), ..Self::new(path) };
        } else if lost.bytes == 0 {
            self.bound(path);
        }
    }

    fn round(&mut self, path: &Path, round: &Round) {
        let lost = std::mem::take(&mut self.lost);
        let high_loss = lost > LOSS_THRESHOLD * (lost + round.delivered) && lost >= 6.0 * path.mtu;
        self.update_min_rtt(path, round);
        if self.state == State::Startup {
            self.startup_round(path, round, high_loss);
        } else if high_loss {
            self.bound(path);
        }
    }

    fn idle(&mut self, path: &Path, _now: Instant, _idle: Duration, _timeouts: u32) {
        // 5.4: the model is kept; what leaves first is no more than the path held, and not all at once.
        self.window = self.window.min(path.initial_window());
    }

    fn window(&self) -> f64 {
        self.window
    }

    fn mode(&self) -> Mode {
        match self.state {
            State::Startup => Mode::Start,
            State::Drain | State::Down => Mode::Drain,
            State::Cruise { .. } => Mode::Cruise,
            State::Refill { .. } | State::Up { .. } => Mode::Probe,
            State::ProbeRtt { .. } => Mode::ProbeRtt,
        }
    }
}
