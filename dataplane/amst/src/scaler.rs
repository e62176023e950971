//! How many streams a session has: a pure state machine over samples of what they moved.
//!
//! In the manner of Falcon (Arifuzzaman and Arslan, 2021) each number of streams has a *utility*: the goodput, with a price on
//! concurrency and on loss. A session whose streams are all in use tries more of them, keeps what pays, takes back what does not and
//! then waits longer before it tries again. What is not in use is given back. Time comes in; there is no clock here.

use std::time::Duration;

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
        }
    }

    pub(crate) const ALL: [Self; 4] = [Self::Waiting, Self::NotPaid, Self::Unused, Self::Bounds];
}

/// A change of the number of streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
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
    /// The number that was last seen to be of use.
    best: Option<u32>,
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
    pub(crate) fn best(&self) -> Option<u32> {
        self.best
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams
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
            self.best = Some(self.streams);
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
        Some(Move { from, to, reason, goodput })
    }
}

/// How long a sample is: several round trips, and neither too short to measure nor too long to settle in seconds.
pub(crate) fn interval(rtt: Duration) -> Duration {
    (rtt * 2).clamp(Duration::from_millis(200), Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const BOUNDS: Bounds = Bounds { min: 16, max: 256, factor: 1.5 };
    const MIB: f64 = 1024.0 * 1024.0;

    /// A path in virtual time: what so many streams move, and what is lost of it.
    struct Path {
        /// Bytes a second.
        link: f64,
        rtt: Duration,
        /// Bytes that wait to be sent; less than this is in use where it is not endless.
        supply: f64,
        /// What each stream above so many costs of the goodput.
        crowd: f64,
        noise: f64,
        random: StdRng,
    }

    impl Path {
        fn new(mbit: f64, rtt_ms: u64) -> Self {
            let rtt = Duration::from_millis(rtt_ms);
            Self {
                link: mbit * 125_000.0,
                rtt,
                supply: f64::INFINITY,
                crowd: 0.0,
                noise: 0.02,
                random: StdRng::seed_from_u64(1),
            }
        }

        fn goodput(&self, streams: u32) -> f64 {
            let by_streams = f64::from(streams) * MIB / (self.rtt.as_secs_f64() + 0.01);
            by_streams.min(self.link).min(self.supply) * (1.0 - self.crowd * f64::from(streams.saturating_sub(64)))
        }

        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
        fn sample(&mut self, streams: u32) -> Sample {
            let elapsed = interval(self.rtt);
            let noise = 1.0 + self.noise * self.random.random_range(-1.0..1.0);
            let in_use = (self.supply / (MIB / (self.rtt.as_secs_f64() + 0.01))).min(f64::from(streams)).ceil() as u32;
            Sample {
                elapsed,
                delivered: (self.goodput(streams) * elapsed.as_secs_f64() * noise) as u64,
                lost: 0,
                most_used: in_use,
                waiting: if self.supply.is_infinite() { 1.0 } else { 0.0 },
            }
        }

        /// So much virtual time.
        fn run(&mut self, scaler: &mut Scaler, seconds: f64) -> Vec<Move> {
            let mut left = seconds;
            let mut moves = Vec::new();
            while left > 0.0 {
                moves.extend(scaler.sample(&self.sample(scaler.streams())));
                left -= interval(self.rtt).as_secs_f64();
            }
            moves
        }
    }

    #[test]
    fn within_five_seconds_it_moves_nine_tenths_of_what_the_best_number_does() {
        for (mbit, rtt) in [(200.0, 80), (1000.0, 20), (1000.0, 100), (10_000.0, 20), (10_000.0, 80), (100.0, 150)] {
            let mut path = Path::new(mbit, rtt);
            let best = (BOUNDS.min..=BOUNDS.max).map(|streams| path.goodput(streams)).fold(0.0, f64::max);
            let mut scaler = Scaler::new(BOUNDS, 32);
            path.run(&mut scaler, 5.0);
            let reached = path.goodput(scaler.streams());
            assert!(
                reached >= 0.9 * best,
                "{mbit} Mbit/s, {rtt} ms: {} streams, {:.2}",
                scaler.streams(),
                reached / best
            );
            // From there on it tries seldom, and what it tries costs little.
            let moves = path.run(&mut scaler, 60.0);
            assert!(moves.len() <= 14, "{mbit} {rtt}: {moves:?}");
        }
    }

    #[test]
    fn a_warm_start_has_it_from_the_first_second() {
        let mut path = Path::new(10_000.0, 20);
        let mut cold = Scaler::new(BOUNDS, 32);
        path.run(&mut cold, 10.0);
        let best = cold.best().unwrap();
        assert!(path.goodput(best) >= 0.9 * path.goodput(256));
        let mut warm = Scaler::new(BOUNDS, best);
        path.run(&mut warm, 1.0);
        assert!(path.goodput(warm.streams()) >= 0.9 * path.goodput(256));
    }

    #[test]
    fn what_does_not_pay_is_taken_back_and_tried_ever_less_often() {
        let mut path = Path::new(100.0, 20);
        let mut scaler = Scaler::new(BOUNDS, 32);
        let moves = path.run(&mut scaler, 120.0);
        assert_eq!(scaler.streams(), 32);
        assert!(
            moves.chunks(2).all(|pair| pair[0].reason == Reason::Waiting && pair[1].reason == Reason::NotPaid),
            "{moves:?}"
        );
        let late = path.run(&mut scaler, 120.0);
        assert!(late.len() < moves.len() && late.len() <= 12, "{} {}", moves.len(), late.len());
    }

    #[test]
    fn a_crowd_that_costs_goodput_is_not_gathered() {
        let mut path = Path::new(10_000.0, 80);
        path.crowd = 0.006;
        let mut scaler = Scaler::new(BOUNDS, 32);
        path.run(&mut scaler, 10.0);
        let best = (BOUNDS.min..=BOUNDS.max).map(|streams| path.goodput(streams)).fold(0.0, f64::max);
        assert!(path.goodput(scaler.streams()) >= 0.85 * best, "{}", scaler.streams());
    }

    #[test]
    fn what_is_not_in_use_is_given_back_and_a_path_that_changed_is_tried_anew() {
        let mut path = Path::new(10_000.0, 20);
        let mut scaler = Scaler::new(BOUNDS, 32);
        path.run(&mut scaler, 10.0);
        assert!(scaler.streams() > 32);
        path.supply = 1_000_000.0;
        path.run(&mut scaler, 20.0);
        assert_eq!(scaler.streams(), BOUNDS.min);
        path.supply = f64::INFINITY;
        path.run(&mut scaler, 5.0);
        assert!(path.goodput(scaler.streams()) >= 0.9 * path.goodput(256), "{}", scaler.streams());

        // A slow path on which nothing paid becomes a fast one.
        let mut path = Path::new(100.0, 20);
        let mut scaler = Scaler::new(BOUNDS, 32);
        path.run(&mut scaler, 60.0);
        path.link *= 100.0;
        path.run(&mut scaler, 5.0);
        assert!(path.goodput(scaler.streams()) >= 0.9 * path.goodput(256), "{}", scaler.streams());
    }

    #[test]
    fn loss_has_its_price_and_bounds_are_kept_whatever_comes() {
        let mut scaler = Scaler::new(BOUNDS, 32);
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..100_000 {
            let sample = Sample {
                elapsed: Duration::from_nanos(random.random_range(0..2_000_000_000)),
                delivered: random.random::<u64>() >> random.random_range(0..64_u32),
                lost: random.random::<u64>() >> random.random_range(0..64_u32),
                most_used: random.random_range(0..400),
                waiting: random.random_range(0.0..1.0),
            };
            scaler.sample(&sample);
            assert!((BOUNDS.min..=BOUNDS.max).contains(&scaler.streams()));
        }
        let bounds = Bounds { min: 1, max: 1, factor: 1.5 };
        let moved = scaler.rebound(bounds, None).unwrap();
        assert_eq!((moved.to, moved.reason), (1, Reason::Bounds));

        let mut clean = Judged { samples: 1, seconds: 1.0, delivered: 1e6, lost: 0.0, waiting: 1.0 };
        let utility = clean.utility(32);
        clean.lost = 1e5;
        assert!(clean.utility(32) < 0.6 * utility);
    }
}
