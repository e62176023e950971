use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    super::{Bounds, Sample, Scaler, interval},
    *,
};

const STREAMS: Bounds = Bounds { min: 16, max: 256, factor: 1.5 };
const MIB: f64 = 1024.0 * 1024.0;

/// A host and its link in virtual time. Rates are bytes a second.
struct Host {
    /// What one thread moves.
    thread: f64,
    link: f64,
    rtt: Duration,
    /// What there is to send.
    supply: f64,
    /// What each lane after the first costs of all.
    crowd: f64,
    /// Lanes that the peer takes.
    taken: u32,
    random: StdRng,
    /// Bytes, in so many seconds.
    moved: (f64, f64),
}

impl Host {
    fn new(thread_mbit: f64, link_mbit: f64, rtt_ms: u64, seed: u64) -> Self {
        Self {
            thread: thread_mbit * 125_000.0,
            link: link_mbit * 125_000.0,
            rtt: Duration::from_millis(rtt_ms),
            supply: f64::INFINITY,
            crowd: 0.0,
            taken: 8,
            random: StdRng::seed_from_u64(seed),
            moved: (0.0, 0.0),
        }
    }

    fn goodput(&self, streams: u32, lanes: u32) -> f64 {
        let by_streams = f64::from(streams) * MIB / (self.rtt.as_secs_f64() + 0.01);
        let by_threads = f64::from(lanes) * self.thread * (1.0 - self.crowd * f64::from(lanes - 1));
        by_streams.min(by_threads).min(self.link).min(self.supply)
    }

    fn best(&self, lanes: u32) -> f64 {
        (1..=lanes).map(|lanes| self.goodput(STREAMS.max, lanes)).fold(0.0, f64::max)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive numbers")]
    fn run(&mut self, both: &mut Both, seconds: f64) -> Vec<Move> {
        let (mut left, mut moves) = (seconds, Vec::new());
        while left > 0.0 {
            let (streams, lanes) = (both.streams.streams(), both.lanes.wanted().min(self.taken));
            let elapsed = interval(self.rtt);
            let goodput = self.goodput(streams, lanes) * (1.0 + 0.02 * self.random.random_range(-1.0..1.0));
            let moved = (goodput * elapsed.as_secs_f64()) as u64;
            self.moved = (self.moved.0 + float(moved), self.moved.1 + elapsed.as_secs_f64());
            let endless = self.supply.is_infinite();
            let work = goodput / self.thread;
            moves.extend(both.sample(
                &Sample {
                    elapsed,
                    delivered: moved,
                    lost: 0,
                    most_used: if endless { streams } else { 1 },
                    waiting: if endless { 1.0 } else { 0.0 },
                },
                &LaneSample {
                    elapsed,
                    moved,
                    lanes,
                    busy: (work / f64::from(lanes)).min(1.0),
                    work,
                    window_used: if goodput > 0.95 * self.link { 1.0 } else { 0.5 },
                },
            ));
            left -= elapsed.as_secs_f64();
        }
        moves
    }
}

/// Both scalers, as a session has them.
#[derive(Clone)]
struct Both {
    streams: Scaler,
    lanes: LaneScaler,
}

impl Both {
    fn new(streams: u32, lanes: u32, max: u32) -> Self {
        Self { streams: Scaler::new(STREAMS, streams), lanes: LaneScaler::new(LaneBounds { min: 1, max }, lanes) }
    }

    fn sample(&mut self, streams: &Sample, lanes: &LaneSample) -> Vec<Move> {
        super::super::sample(&mut self.streams, &mut self.lanes, streams, lanes)
    }
}

/// Hosts and links: Mbit/s of a thread, Mbit/s of the link, round trip in ms, lanes at most.
const HOSTS: [(&str, f64, f64, u64, u32); 8] = [
    ("a small host behind DSL", 800.0, 50.0, 40, 1),
    ("two sites", 2500.0, 200.0, 80, 2),
    ("a thread is just enough", 2500.0, 2400.0, 2, 2),
    ("one rack, two threads", 2500.0, 10_000.0, 1, 2),
    ("one rack, four threads", 2500.0, 10_000.0, 1, 4),
    ("two data centres", 2500.0, 10_000.0, 20, 4),
    ("a line between one and two threads", 2500.0, 4000.0, 20, 4),
    ("slow threads", 800.0, 3000.0, 5, 4),
];

#[test]
fn within_five_seconds_streams_and_lanes_move_nine_tenths_of_what_the_best_numbers_do() {
    for (name, thread, link, rtt, most) in HOSTS {
        for seed in 1..=10 {
            let mut host = Host::new(thread, link, rtt, seed);
            let best = host.best(most);
            let mut both = Both::new(32, 1, most);
            host.run(&mut both, 5.0);
            host.moved = (0.0, 0.0);
            let moves = host.run(&mut both, 60.0);
            let reached = host.moved.0 / host.moved.1;
            let now = (both.streams.streams(), both.lanes.wanted());
            assert!(reached >= 0.9 * best, "{name}, seed {seed}: {now:?}, {:.3}: {moves:?}", reached / best);
            assert!(moves.len() <= 20, "{name}, seed {seed}: {moves:?}");

            let mut warm = Both::new(now.0, now.1, most);
            host.moved = (0.0, 0.0);
            host.run(&mut warm, 1.0);
            let reached = host.moved.0 / host.moved.1;
            assert!(reached >= 0.9 * best, "{name}, seed {seed}, warm: {:.3}", reached / best);
        }
    }
}

#[test]
fn no_lane_is_tried_where_the_link_holds_the_session_and_what_does_not_pay_goes() {
    let lanes = |moves: &[Move]| moves.iter().filter(|one| one.of == Scaled::Lanes).copied().collect::<Vec<_>>();
    let mut host = Host::new(1000.0, 1000.0, 20, 1);
    let mut both = Both::new(64, 1, 4);
    assert_eq!(lanes(&host.run(&mut both, 120.0)), []);

    // A thread more takes from the other what it has.
    let mut host = Host::new(2500.0, 10_000.0, 1, 2);
    host.crowd = 0.5;
    let mut both = Both::new(64, 1, 4);
    let tried = lanes(&host.run(&mut both, 240.0));
    assert_eq!(both.lanes.wanted(), 1);
    assert!((2..=16).contains(&tried.len()), "{tried:?}");
    assert!(tried.chunks(2).all(|pair| pair[0].reason == Reason::Busy && pair[1].reason == Reason::NotPaid));
}

#[test]
fn lanes_that_are_not_in_use_are_given_back_and_come_again() {
    let mut host = Host::new(2500.0, 10_000.0, 1, 3);
    let mut both = Both::new(64, 1, 4);
    host.run(&mut both, 10.0);
    assert_eq!(both.lanes.wanted(), 4);
    host.supply = 10_000_000.0;
    let moves = host.run(&mut both, 20.0);
    assert_eq!(both.lanes.wanted(), 1, "{moves:?}");
    host.supply = f64::INFINITY;
    host.run(&mut both, 5.0);
    assert!(host.goodput(both.streams.streams(), both.lanes.wanted()) >= 0.9 * host.best(4));
}

#[test]
fn a_lane_that_the_peer_refuses_is_not_asked_for_again_and_again() {
    let mut host = Host::new(2500.0, 10_000.0, 1, 4);
    host.taken = 2;
    let mut both = Both::new(64, 1, 4);
    let moves = host.run(&mut both, 300.0);
    assert_eq!(both.lanes.wanted().min(2), 2);
    let refused = moves.iter().filter(|one| one.reason == Reason::Refused).count();
    assert!((1..=12).contains(&refused), "{moves:?}");
}

#[test]
fn bounds_are_kept_whatever_comes() {
    let mut scaler = LaneScaler::new(LaneBounds { min: 1, max: 4 }, 1);
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..100_000 {
        let sample = LaneSample {
            elapsed: Duration::from_nanos(random.random_range(0..2_000_000_000)),
            moved: random.random::<u64>() >> random.random_range(0..64_u32),
            lanes: random.random_range(0..6),
            busy: random.random_range(0.0..1.2),
            work: random.random_range(0.0..5.0),
            window_used: random.random_range(0.0..2.0),
        };
        scaler.sample(&sample, true);
        assert!((1..=4).contains(&scaler.wanted()), "{}", scaler.wanted());
    }
    let fixed = LaneBounds { min: 3, max: 3 };
    let moved = scaler.rebound(fixed);
    assert!(scaler.wanted() == 3 && moved.is_none_or(|moved| moved.reason == Reason::Bounds));
}

#[test]
fn a_fixed_number_stays_wanted_however_long_one_does_not_come() {
    let mut scaler = LaneScaler::new(LaneBounds { min: 3, max: 3 }, 1);
    let elapsed = Duration::from_millis(200);
    for lanes in [1, 2, 1] {
        for _ in 0..500 {
            let sample = LaneSample { elapsed, moved: 0, lanes, busy: 0.0, work: 0.0, window_used: 0.0 };
            scaler.sample(&sample, true);
            assert_eq!(scaler.wanted(), 3);
        }
    }
}
