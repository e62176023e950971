//! `auto`: CUBIC that asks of each loss whether there was a queue.
//!
//! A loss that comes with a queue is congestion, and counts as RFC 9438 has it. A loss without one may be the path's own, or the
//! overflow of a queue that is too short to be seen, or of one that was full when the base round trip was learned. That is not
//! guessed but tried: the window is reduced as for any loss, and two round trips later the path has answered. If round trips
//! fell, there was a queue, and the reduction stands. If not, it is undone. Only several such trials over seconds, all undone,
//! make a path *lossy*: there, losses without a queue do not count any more, until a queue stands that the session did not make, or
//! the base turns out to have been wrong.
//!
//! Whatever is believed, a round that loses far more than the path does anyway makes the window smaller.

mod loss_floor;
mod solitude;
mod start;

use std::time::{Duration, Instant};

use self::{
    loss_floor::LossFloor,
    solitude::{Advice, Solitude},
    start::{Start, Verdict},
};
use super::{
    core::{Acks, Algorithm, Lost, Mode, Path, Round},
    cubic_curve::{BETA, Curve},
    rate_sample::{MaxFilter, to_f64},
    reno::in_recovery,
};

/// Trials that have to be undone before a path is lossy, and the time they have to span at least.
const TRIALS: u32 = 3;
const TRIALS_SPAN: Duration = Duration::from_secs(1);

/// Rounds after an undone trial in which losses without a queue do not count: so that a lossy path is found out without being
/// left half empty for it.
const BELIEVED_ROUNDS: u64 = 6;

/// Rounds from one such loss to the next where no trial is needed to know it.
const KNOWN_ROUNDS: u64 = 2;

/// Round trips after the start in which a queue that is seen is what the start left: losses with it are not another reason to reduce.
const DRAINS: u32 = 2;

/// After so long without one, undone trials are forgotten.
const EVIDENCE_LASTS: Duration = Duration::from_secs(20);

/// A queue that stands for so long on a lossy path is somebody else's, who reacts to losses.
const STANDS: Duration = Duration::from_secs(2);
const STANDS_ROUNDS: u32 = 12;

/// Rounds and time without a queue after which the window grows by a share of itself: the path became faster. Longer than CUBIC takes
/// on a short path to find the queue again by itself.
const QUIET: (u32, Duration) = (20, Duration::from_secs(3));
const QUIET_LOSSY: (u32, Duration) = (10, Duration::from_secs(1));

/// What a session that is known to have more than others leaves less of its window than CUBIC, and by how much lower it aims.
const LEAVES_LESS: f64 = 0.1;
const LOWER: f64 = 0.25;

/// The part of the longest queue of late below which no loss is an overflow, and over how many seconds it is remembered.
const OVERFLOW: f64 = 0.3;
const PEAK_SECONDS: u64 = 20;

/// A queue that was so many times what can be told from noise is one that is seen whenever it is there.
const SEEN: u32 = 2;

/// A window above what the path holds by this much keeps it busy where a few packets are late or lost.
const OVER: f64 = 1.01;

/// Loss-discriminating CUBIC.
#[derive(Clone, Debug)]
pub(super) struct Auto {
    window: f64,
    stage: Stage,
    recovery: Option<Instant>,
    /// Until then the queue is what the start left.
    drains_until: Option<Instant>,
    curve: Curve,
    trial: Option<Trial>,
    evidence: Evidence,
    loss_floor: LossFloor,
    /// The first quartile of the last round.
    last_trip: Duration,
    /// Rounds without a queue in a row.
    quiet: u32,
    quiet_since: Option<Instant>,
    /// Since when, and for how many rounds, a queue stands.
    stands: Option<(Instant, u32)>,
    /// Bytes lost in this round of those that left after the last reduction.
    lost: f64,
    solitude: Solitude,
    peaks: MaxFilter,
    first_round: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Stage {
    Start(Start),
    Clean,
    Lossy,
}

/// A reduction whose answer is waited for.
#[derive(Clone, Debug)]
struct Trial {
    window: f64,
    curve: Curve,
    began: Instant,
    round: u64,
    /// The round trip when it began.
    trip: Duration,
    bandwidth: f64,
}

/// Undone trials.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    undone: u32,
    first: Option<Instant>,
    last: Option<Instant>,
    believed_until: u64,
    known_until: u64,
    /// The highest bandwidth since the first.
    bandwidth: f64,
}

impl Auto {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            window: path.initial_window(),
            stage: Stage::Start(Start::default()),
            recovery: None,
            drains_until: None,
            curve: Curve::default(),
            trial: None,
            evidence: Evidence::default(),
            loss_floor: LossFloor::default(),
            last_trip: Duration::ZERO,
            quiet: 0,
            quiet_since: None,
            stands: None,
            lost: 0.0,
            solitude: Solitude::default(),
            peaks: MaxFilter::new(PEAK_SECONDS),
            first_round: None,
        }
    }

    /// Leaves the start with this window.
    fn settle(&mut self, path: &Path, now: Instant, window: f64) {
        // What left before was too much, and its losses say nothing about this window.
        self.recovery = Some(now);
        self.drains_until = Some(now + path.rtt.smoothed().unwrap_or_default() * DRAINS);
        self.solitude.lost(now);
        self.window = path.clamp(window);
        self.stage = Stage::Clean;
        self.curve.restart();
    }

    /// Reduces as CUBIC does; more where the session is known to have more than others leave it.
    fn reduce(&mut self, path: &Path, now: Instant) {
        self.recovery = Some(now);
        self.solitude.lost(now);
        self.curve.reduced(self.window);
        let large = self.solitude.large(now);
        // Both what is left, and where growth slows down.
        self.curve.lower(1.0 - large * LOWER);
        self.window = path.clamp((BETA - large * LEAVES_LESS) * self.window);
    }

    fn begin_trial(&mut self, path: &Path, now: Instant) {
        let current = path.rtt.current().unwrap_or_default();
        // A last round that was longer saw a queue which was already gone.
        let trip = if self.last_trip > current + path.rtt.noise() { current } else { current.max(self.last_trip) };
        let (window, curve) = (self.window, self.curve.clone());
        self.trial = Some(Trial { window, curve, began: now, round: path.rounds, trip, bandwidth: path.bandwidth });
        self.reduce(path, now);
    }

    /// Whether the path answered, once it can have.
    fn judge_trial(&mut self, path: &Path, round: &Round) {
        let Some(trial) = self.trial.take_if(|trial| path.rounds >= trial.round + 3) else { return };
        if round.trips.quartile + path.rtt.noise() < trial.trip {
            // There was a queue.
            self.evidence = Evidence::default();
            return;
        }
        self.window = path.clamp(trial.window.max(self.window));
        self.curve = trial.curve;
        self.curve.skip(round.now.saturating_duration_since(trial.began));
        self.count_evidence(path, round.now, trial.began, trial.bandwidth);
    }

    /// Notes that a loss came without congestion; enough of them over enough time make a path lossy.
    fn count_evidence(&mut self, path: &Path, now: Instant, began: Instant, bandwidth: f64) {
        let evidence = &mut self.evidence;
        if evidence.last.is_some_and(|last| now.saturating_duration_since(last) > EVIDENCE_LASTS) {
            *evidence = Evidence::default();
        }
        evidence.undone += 1;
        evidence.bandwidth = evidence.bandwidth.max(bandwidth);
        evidence.last = Some(now);
        evidence.believed_until = path.rounds + BELIEVED_ROUNDS;
        evidence.known_until = path.rounds + KNOWN_ROUNDS;
        let first = *evidence.first.get_or_insert(began);
        if evidence.undone >= TRIALS && now.saturating_duration_since(first) >= TRIALS_SPAN {
            let held = evidence.bandwidth * path.rtt.base().unwrap_or_default().as_secs_f64();
            self.window = path.clamp(self.window.max(held));
            self.stage = Stage::Lossy;
            (self.stands, self.quiet) = (None, 0);
        }
    }

    /// A loss on a path that was not found lossy.
    fn lost_clean(&mut self, path: &Path, now: Instant, marked: bool) {
        if let Some(window) = self.solitude.forget() {
            self.window = path.clamp(window);
        }
        let queue = path.rtt.queue();
        if marked || queue > path.rtt.queue_floor().max(self.peak().mul_f64(OVERFLOW)) {
            self.trial = None;
            self.reduce(path, now);
        } else if self.is_far_from_overflow(path, queue) {
            // Far below what the queue has held: it did not overflow, and no trial is needed to know that.
            if path.rounds >= self.evidence.known_until {
                self.count_evidence(path, now, now, path.bandwidth);
            }
        } else if self.trial.is_none() && path.rounds >= self.evidence.believed_until {
            self.begin_trial(path, now);
        }
    }

    /// Whether the queue is far below what it has held. One that cannot be told from noise is that only where it has held much: it may
    /// be too short to be seen at all.
    fn is_far_from_overflow(&self, path: &Path, queue: Duration) -> bool {
        let peak = self.peak();
        let seen = queue > path.rtt.noise() || peak > path.rtt.queue_floor() * SEEN;
        seen && queue < peak.mul_f64(OVERFLOW)
    }

    /// The longest queue of late.
    fn peak(&self) -> Duration {
        Duration::try_from_secs_f64(self.peaks.get()).unwrap_or_default()
    }

    /// A loss on a lossy path: if there is a queue, just the queue is given back.
    fn lost_lossy(&mut self, path: &Path, now: Instant) {
        if path.rtt.queue() > path.rtt.queue_floor() {
            self.recovery = Some(now);
            self.window = path.clamp(self.full(path).clamp(BETA * self.window, self.window));
        }
    }

    /// The window that just fills the path, with what it loses.
    fn full(&self, path: &Path) -> f64 {
        // What was reached before the trials that showed the path to be lossy, until as many rounds have measured it again.
        let before = if path.rounds < self.evidence.believed_until { self.evidence.bandwidth } else { 0.0 };
        let bandwidth = path.bandwidth.max(before);
        let bdp = bandwidth * path.rtt.base().unwrap_or_default().as_secs_f64();
        OVER * bdp / (1.0 - self.loss_floor.get().min(0.3))
    }

    fn round_lossy(&mut self, path: &Path, round: &Round) {
        let queue = round.trips.quartile.saturating_sub(path.rtt.base().unwrap_or_default());
        if queue <= path.rtt.queue_floor() {
            self.stands = None;
            if !round.app_limited {
                self.window = path.clamp(self.window + 0.33 * (self.window / path.mtu).sqrt() * path.mtu);
            }
            return;
        }
        let (since, rounds) = self.stands.get_or_insert((round.now, 0));
        *rounds += 1;
        if *rounds >= STANDS_ROUNDS && round.now.saturating_duration_since(*since) >= STANDS {
            self.believe_nothing();
        }
    }

    /// Losses count again, and what was found out is void.
    fn believe_nothing(&mut self) {
        self.evidence = Evidence::default();
        self.stands = None;
        if matches!(self.stage, Stage::Lossy) {
            self.stage = Stage::Clean;
            self.curve.restart();
        }
    }

    /// Whether to stand still, where nobody else is.
    fn ask_who_is_there(&mut self, path: &Path, round: &Round) {
        if self.trial.is_some() || !matches!(self.stage, Stage::Clean) {
            return;
        }
        let held = self.solitude.holds();
        if let Advice::Take(window) = self.solitude.round(path, round, self.window) {
            self.window = path.clamp(window);
        }
        if held {
            self.curve.skip(round.now.saturating_duration_since(round.began));
        }
    }

    /// A round that lost far more than the path does by itself.
    fn too_much_was_lost(&self, path: &Path, round: &Round, lost: f64) -> bool {
        let expected = 0.02 + self.loss_floor.get();
        let packets = ((round.delivered + lost) / path.mtu).max(1.0);
        lost / path.mtu / packets > expected + 3.0 * (expected * (1.0 - expected).max(0.0) / packets).sqrt()
    }

    /// No queue for long: the path became faster, or was left too soon.
    fn grow_where_quiet(&mut self, path: &Path, round: &Round) {
        let queue = round.trips.quartile.saturating_sub(path.rtt.base().unwrap_or_default());
        let busy = queue > path.rtt.queue_floor() / 2;
        let held = busy || round.app_limited || self.trial.is_some() || self.solitude.holds();
        if held {
            (self.quiet, self.quiet_since) = (0, None);
            return;
        }
        let (rounds, time) = if matches!(self.stage, Stage::Lossy) { QUIET_LOSSY } else { QUIET };
        let since = *self.quiet_since.get_or_insert(round.now);
        if round.now.saturating_duration_since(since) >= time {
            self.quiet += 1;
        } else {
            self.quiet = (self.quiet + 1).min(rounds.saturating_sub(1));
        }
        if self.quiet >= rounds {
            // More each round, and less in proportion for who has more already.
            let packets = f64::from(self.quiet - rounds + 1) * 0.33 * (self.window / path.mtu).sqrt();
            self.window = path.clamp(self.window + (packets * path.mtu).min(0.15 * self.window));
        }
    }
}

impl Algorithm for Auto {
    fn acked(&mut self, path: &Path, acks: &Acks<'_>) {
        match &mut self.stage {
            Stage::Start(start) => match start.acked(path, acks, self.window) {
                Verdict::Grow(window) => self.window = path.clamp(window),
                Verdict::Settle(window) => self.settle(path, acks.now, window),
            },
            Stage::Clean if !acks.app_limited && self.trial.is_none() && !self.solitude.holds() => {
                let Some(rtt) = path.rtt.smoothed() else { return };
                for packet in acks.packets.iter().filter(|packet| !in_recovery(self.recovery, packet.sent)) {
                    let grown = self.curve.grown(self.window, to_f64(packet.bytes), acks.now, rtt, path.mtu);
                    self.window = path.clamp(grown);
                }
            }
            Stage::Clean | Stage::Lossy => {}
        }
    }

    fn lost(&mut self, path: &Path, now: Instant, lost: &Lost) {
        if lost.persistent {
            *self = Self { window: path.minimum_window(), ..Self::new(path) };
            return;
        }
        if in_recovery(self.recovery, lost.sent) {
            return;
        }
        self.lost += to_f64(lost.bytes);
        let marked = lost.bytes == 0;
        match &self.stage {
            Stage::Start(start) => {
                // Alone, the suspension of growth is about to find out what the path holds; beside others a loss is what it always is.
                if marked || (start.beside_others() && path.rtt.queue() > path.rtt.queue_floor()) {
                    self.reduce(path, now);
                    self.stage = Stage::Clean;
                }
            }
            Stage::Clean if !marked && self.drains_until.is_some_and(|until| now < until) => {}
            Stage::Clean => self.lost_clean(path, now, marked),
            Stage::Lossy if marked => self.reduce(path, now),
            Stage::Lossy => self.lost_lossy(path, now),
        }
    }

    fn round(&mut self, path: &Path, round: &Round) {
        self.loss_floor.round(path, round);
        let first = *self.first_round.get_or_insert(round.now);
        let queue = round.trips.quartile.saturating_sub(path.rtt.base().unwrap_or_default());
        self.peaks.update(round.now.saturating_duration_since(first).as_secs(), queue.as_secs_f64());
        if round.trips.base_sank {
            self.believe_nothing();
        }
        let lost = std::mem::take(&mut self.lost);
        let too_much = self.too_much_was_lost(path, round, lost);
        match &self.stage {
            Stage::Start(start) => {
                if too_much && round.loss() > 0.05 {
                    let window = start.reached(path).unwrap_or(0.5 * self.window);
                    self.settle(path, round.now, window.clamp(0.5 * self.window, self.window));
                }
                self.last_trip = round.trips.quartile;
                return;
            }
            Stage::Clean => {
                self.judge_trial(path, round);
                self.ask_who_is_there(path, round);
            }
            Stage::Lossy => self.round_lossy(path, round),
        }
        if too_much {
            self.recovery = Some(round.now);
            self.window = path.clamp(0.85 * self.window);
            self.quiet = 0;
        } else {
            self.grow_where_quiet(path, round);
        }
        self.last_trip = round.trips.quartile;
    }

    fn idle(&mut self, path: &Path, _now: Instant, idle: Duration, timeouts: u32) {
        self.curve.skip(idle);
        // Half for each time-out, as far as the window of the beginning; the start finds the way back.
        let halved = self.window / f64::from(1_u32 << timeouts.min(20));
        self.window = halved.max(path.initial_window().min(self.window));
        self.stage = Stage::Start(Start::default());
        self.trial = None;
    }

    fn window(&self) -> f64 {
        self.window
    }

    fn mode(&self) -> Mode {
        match self.stage {
            Stage::Start(_) => Mode::Start,
            Stage::Clean if self.solitude.is_alone() => Mode::Alone,
            Stage::Clean => Mode::Avoidance,
            Stage::Lossy => Mode::Lossy,
        }
    }
}
