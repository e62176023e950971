//! The goals of the default congestion control, on seeds that are always the same; the tables of `dwcp-congestion` have more of them.

use proto_model::config::CongestionAlgorithm::{Auto, Bbr, Cubic};
use tests_congestion::{
    cells::{Join, PATHS, QUEUES, Rivals, alone, beside},
    link::Path,
    simulation::Host,
};

#[test]
fn fills_the_promised_paths_and_sends_little_again() {
    for (rtt, rate, loss) in PATHS {
        for queue in QUEUES {
            let path = Path::new(rtt, rate, queue, loss);
            let run = alone(&path, Host::default(), Auto, 1, 15, 4);
            assert!(run.steady >= 0.90, "{path:?}: {run:?}");
            assert!(run.resent <= 2.0 * loss + 0.012, "{path:?}: {run:?}");
            if rtt <= 80 {
                assert!(run.start <= 1.0, "{path:?}: {run:?}");
            }
        }
    }
}

#[test]
fn eight_lanes_are_one_flow_beside_another() {
    let path = Path::new(20, 200, 1.0, 0.0);
    for lanes in [1, 8] {
        for join in Join::ALL {
            let run = beside(&path, Host::default(), (Auto, lanes), Rivals::Cubic(1), join, 4);
            assert!(run.jain >= 0.75, "{lanes} lanes {join:?}: {run:?}");
            assert!(run.used >= 0.90, "{lanes} lanes {join:?}: {run:?}");
        }
    }
}

#[test]
fn two_sessions_share() {
    for queue in QUEUES {
        let run = beside(&Path::new(20, 200, queue, 0.0), Host::default(), (Auto, 1), Rivals::Ours, Join::After, 4);
        assert!(run.jain >= 0.75 && run.used >= 0.90, "{queue}: {run:?}");
    }
}

/// Cubic does what CUBIC does: that it starves at random loss shows that the simulator is honest.
#[test]
fn cubic_fills_a_clean_path_and_not_a_lossy_one() {
    let run = alone(&Path::new(80, 200, 1.0, 0.0), Host::default(), Cubic, 1, 15, 4);
    assert!(run.steady >= 0.93, "{run:?}");
    let run = alone(&Path::new(80, 200, 1.0, 0.01), Host::default(), Cubic, 1, 15, 4);
    assert!(run.steady <= 0.05, "{run:?}");
}

#[test]
fn bbr_fills_clean_and_lossy_paths() {
    for (queue, loss) in [(1.0, 0.0), (0.25, 0.0), (1.0, 0.01)] {
        let run = alone(&Path::new(80, 200, queue, loss), Host::default(), Bbr, 1, 15, 4);
        assert!(run.steady >= 0.88 && run.resent <= 2.0 * loss + 0.02 && run.queue <= 0.5, "{queue} {loss}: {run:?}");
    }
}

/// Whoever joins in another's burst learns too long a base round trip; nothing may hold on to that.
#[test]
fn joining_in_the_burst_of_others_does_not_make_the_path_lossy() {
    for seed in 1..=3 {
        let run = beside(&Path::new(20, 200, 1.0, 0.0), Host::default(), (Auto, 1), Rivals::Cubic(4), Join::With, seed);
        assert!(run.jain >= 0.75, "seed {seed}: {run:?}");
    }
}

#[test]
fn jitter_reordering_late_timers_and_short_queues_leave_it_standing() {
    let host = Host { late: (0.01, 10_000_000), ack_every: 10, ..Host::default() };
    let base = || Path::new(80, 200, 1.0, 0.0);
    let paths = [
        (Path { jitter: 4_000_000, ..base() }, 0.90),
        (Path { reordering: (0.01, 2_000_000), ..base() }, 0.90),
        (Path { bursts: (0.0001, 20), ..base() }, 0.85),
        (Path { queue: 30 * 1500, ..Path::new(20, 200, 1.0, 0.0) }, 0.75),
    ];
    for (path, least) in paths {
        let run = alone(&path, host, Auto, 1, 15, 4);
        assert!(run.steady >= least, "{path:?}: {run:?}");
    }
}
