//! The cases that are promised, and their goals.

use proto_model::config::CongestionAlgorithm;

use crate::{
    link::{Nanos, Path, SECOND},
    measure::{Measured, float},
    simulation::{Host, Plan, Sender, Simulation},
};

/// A path of the promised cases: round trip in ms, Mbit/s, loss.
pub const PATHS: [(u64, u64, f64); 6] =
    [(20, 200, 0.0), (80, 200, 0.0), (80, 200, 0.001), (80, 200, 0.01), (150, 100, 0.005), (100, 300, 0.005)];

/// Queues, in bandwidth-delay products.
pub const QUEUES: [f64; 2] = [1.0, 0.25];

/// What one run alone showed.
#[derive(Clone, Copy, Debug)]
pub struct Alone {
    /// Share of the link, in data, from the fifth second on.
    pub steady: f64,
    /// Seconds from the first arrival to nine tenths.
    pub start: f64,
    /// Share of packets sent again.
    pub resent: f64,
    /// The median queue from the fifth second on, in bandwidth-delay products.
    pub queue: f64,
}

/// A session alone, for so many seconds.
#[must_use]
pub fn alone(path: &Path, host: Host, algorithm: CongestionAlgorithm, lanes: usize, seconds: u64, seed: u64) -> Alone {
    let until = seconds * SECOND;
    let plans = [Plan { sender: Sender::Session(algorithm, lanes), from: 0, until }];
    judge_alone(path, &Simulation::new(path, host, &plans, seed).run(until), until)
}

fn judge_alone(path: &Path, measured: &Measured, until: Nanos) -> Alone {
    let from = 5 * SECOND;
    Alone {
        steady: measured.goodput(0, from, until) / float(path.rate),
        start: measured.time_to_full(0, path).unwrap_or(f64::INFINITY),
        resent: measured.resent(0),
        queue: float(measured.standing_queue(from, until)) / float(path.bdp()),
    }
}

/// When our session comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Five seconds before the others.
    Before,
    /// Within a second.
    With,
    /// Five seconds after.
    After,
}

impl Join {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Before, Self::With, Self::After];
}

/// Who is beside our session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rivals {
    /// So many TCP CUBIC connections.
    Cubic(usize),
    /// One TCP BBR connection.
    Bbr,
    /// A session of ours.
    Ours,
}

/// What a run beside others showed.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// Jain's index over the last 60 % of the time together.
    pub jain: f64,
    /// Our part of an equal share.
    pub share: f64,
    /// All flows' data, as a share of the link.
    pub used: f64,
}

/// A session beside others, 60 s together.
#[must_use]
pub fn beside(
    path: &Path,
    host: Host,
    ours: (CongestionAlgorithm, usize),
    rivals: Rivals,
    join: Join,
    seed: u64,
) -> Beside {
    let (mine, theirs) = match join {
        Join::Before => (0, 5 * SECOND),
        Join::With => (0, 0),
        Join::After => (5 * SECOND, 0),
    };
    let until = mine.max(theirs) + 60 * SECOND;
    let session = Sender::Session(ours.0, ours.1);
    let (rival, count) = match rivals {
        Rivals::Cubic(count) => (Sender::TcpCubic, count),
        Rivals::Bbr => (Sender::TcpBbr, 1),
        Rivals::Ours => (session.clone(), 1),
    };
    let mut plans = vec![Plan { sender: session, from: mine, until }];
    plans.extend((0..count).map(|_| Plan { sender: rival.clone(), from: theirs, until }));
    let measured = Simulation::new(path, host, &plans, seed).run(until);
    let from = until - 36 * SECOND;
    let all: f64 = (0..plans.len()).map(|flow| measured.goodput(flow, from, until)).sum();
    Beside {
        jain: measured.jain(from, until),
        share: measured.goodput(0, from, until) / (all / float(plans.len() as u64)),
        used: all / float(path.rate),
    }
}
