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
    /// What a stream does with a piece besides waiting for its acknowledgment.
    work: Duration,
    /// Bytes that were moved, and in how many seconds.
    moved: (f64, f64),
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
            work: Duration::from_millis(10),
            moved: (0.0, 0.0),
            random: StdRng::seed_from_u64(1),
        }
    }

    fn of_one_stream(&self) -> f64 {
        MIB / (self.rtt + self.work).as_secs_f64()
    }

    fn goodput(&self, streams: u32) -> f64 {
        let by_streams = f64::from(streams) * self.of_one_stream();
        by_streams.min(self.link).min(self.supply) * (1.0 - self.crowd * f64::from(streams.saturating_sub(64)))
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
    fn sample(&mut self, streams: u32) -> Sample {
        let elapsed = interval(self.rtt);
        let noise = 1.0 + self.noise * self.random.random_range(-1.0..1.0);
        let in_use = (self.supply / self.of_one_stream()).min(f64::from(streams)).ceil() as u32;
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
            let sample = self.sample(scaler.streams());
            self.moved.0 += float(sample.delivered);
            self.moved.1 += sample.elapsed.as_secs_f64();
            moves.extend(scaler.sample(&sample));
            left -= interval(self.rtt).as_secs_f64();
        }
        moves
    }
}

/// Hosts and links: Mbit/s, round trip in ms, ms that a stream takes for a piece besides, and what each stream over 64 costs.
const HOSTS: [(&str, f64, u64, u64, f64); 10] = [
    ("a site behind DSL", 20.0, 40, 10, 0.0),
    ("a branch by a VPN", 100.0, 150, 10, 0.0),
    ("two sites", 200.0, 80, 10, 0.0),
    ("one rack", 1000.0, 1, 10, 0.0),
    ("a metropolitan line", 1000.0, 20, 10, 0.0),
    ("across an ocean", 1000.0, 100, 10, 0.0),
    ("two data centres", 10_000.0, 20, 10, 0.0),
    ("two data centres far apart", 10_000.0, 80, 10, 0.0),
    ("a receiver with slow disks", 10_000.0, 2, 120, 0.0),
    ("a host that many streams crowd", 10_000.0, 20, 60, 0.002),
];

fn hosts() -> impl Iterator<Item = (&'static str, u64, Path, f64)> {
    HOSTS.into_iter().flat_map(|(name, mbit, rtt, work, crowd)| {
        (1..=10).map(move |seed| {
            let mut path = Path::new(mbit, rtt);
            (path.work, path.crowd, path.random) = (Duration::from_millis(work), crowd, StdRng::seed_from_u64(seed));
            let best = (BOUNDS.min..=BOUNDS.max).map(|streams| path.goodput(streams)).fold(0.0, f64::max);
            (name, seed, path, best)
        })
    })
}

#[test]
fn within_five_seconds_it_moves_nine_tenths_of_what_the_best_number_does() {
    for (name, seed, mut path, best) in hosts() {
        let mut scaler = Scaler::new(BOUNDS, 32);
        path.run(&mut scaler, 5.0);
        // Tries are paid for from there on, too: it is what moves, not what the number at a moment could.
        path.moved = (0.0, 0.0);
        let moves = path.run(&mut scaler, 60.0);
        let reached = path.moved.0 / path.moved.1;
        assert!(reached >= 0.9 * best, "{name}, seed {seed}: {} streams, {:.3}", scaler.streams(), reached / best);
        // And it tries seldom.
        assert!(moves.len() <= 14, "{name}, seed {seed}: {moves:?}");
    }
}

#[test]
fn a_warm_start_moves_nine_tenths_within_the_first_second() {
    for (name, seed, mut path, best) in hosts() {
        let mut cold = Scaler::new(BOUNDS, 32);
        path.run(&mut cold, 10.0);
        let mut warm = Scaler::new(BOUNDS, cold.best().unwrap().streams);
        path.moved = (0.0, 0.0);
        path.run(&mut warm, 1.0);
        let reached = path.moved.0 / path.moved.1;
        assert!(reached >= 0.9 * best, "{name}, seed {seed}: {} streams, {:.3}", warm.streams(), reached / best);
    }
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
