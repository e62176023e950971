//! The goals of the default congestion control, on seeds that are always the same; the tables of `dwcp-congestion` have more of them.

use proto_model::config::CongestionAlgorithm::{Auto, Cubic};
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
