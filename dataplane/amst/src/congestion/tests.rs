//! What every algorithm keeps to, and what the RFCs say of two of them.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proto_model::config::CongestionAlgorithm;

use super::{Acked, Core, LaneId, Lost, Mode, core::testing::epoch};

const MTU: u64 = 1200;
const RTT: Duration = Duration::from_millis(100);
const ALL: [CongestionAlgorithm; 4] =
    [CongestionAlgorithm::Auto, CongestionAlgorithm::Bbr, CongestionAlgorithm::Cubic, CongestionAlgorithm::Reno];

/// A session of one lane on a path of a fixed round trip, whose window is always used.
struct Flow {
    core: Core,
    lane: LaneId,
    now: Instant,
}

impl Flow {
    fn new(algorithm: CongestionAlgorithm) -> Self {
        let now = epoch();
        let mut core = Core::new(algorithm, now, 1200);
        let lane = core.join();
        Self { core, lane, now }
    }

    /// Sends a window in batches over half a round trip, and has it acknowledged a round trip later.
    fn round(&mut self, app_limited: bool) {
        let batches = (self.core.window() / MTU).div_ceil(10).clamp(1, 1000);
        let sent: Vec<Instant> = (0..batches)
            .map(|n| self.now + RTT / 2 * u32::try_from(n).unwrap() / u32::try_from(batches).unwrap())
            .collect();
        let bytes = self.core.window() / MTU * MTU / batches;
        sent.iter().for_each(|at| self.core.sent(self.lane, *at, bytes));
        for (n, at) in (1_u64..).zip(&sent) {
            let packets = [Acked { sent: *at, bytes }];
            self.core.acked(
                self.lane,
                *at + RTT,
                &packets,
                (batches - n) * bytes * u64::from(!app_limited),
                app_limited,
            );
        }
        self.now += RTT + RTT / 2;
    }

    fn rounds(&mut self, count: u32) {
        (0..count).for_each(|_| self.round(false));
    }

    fn lose(&mut self, bytes: u64) {
        self.core.lost(self.lane, self.now, &Lost { sent: self.now, bytes, persistent: false });
    }

    fn packets(&self) -> f64 {
        f64::from(u32::try_from(self.core.window()).unwrap()) / 1200.0
    }
}

#[test]
fn slow_start_doubles_and_reno_then_adds_a_packet_a_round() {
    let mut flow = Flow::new(CongestionAlgorithm::Reno);
    assert!((flow.packets() - 10.0).abs() < 0.01);
    flow.rounds(4);
    assert!((flow.packets() - 160.0).abs() < 0.5, "{}", flow.packets());
    flow.lose(MTU);
    // RFC 9002 7.3.2: once for all that left before it was noticed.
    flow.lose(MTU);
    assert!((flow.packets() - 80.0).abs() < 0.5, "{}", flow.packets());
    flow.now += Duration::from_millis(1);
    flow.rounds(5);
    assert!((flow.packets() - 85.0).abs() < 0.5, "{}", flow.packets());
}

#[test]
fn cubic_leaves_seven_tenths_and_is_back_after_k() {
    let mut flow = Flow::new(CongestionAlgorithm::Cubic);
    flow.rounds(6);
    flow.lose(MTU);
    let reduced_from = 640.0;
    assert!((flow.packets() - 0.7 * reduced_from).abs() < 1.0, "{}", flow.packets());
    let k = (reduced_from * 0.3 / 0.4_f64).cbrt();
    let begun = flow.now;
    flow.now += Duration::from_millis(1);
    while (flow.now - begun).as_secs_f64() < k {
        flow.round(false);
    }
    assert!((flow.packets() / reduced_from - 1.0).abs() < 0.03, "{}", flow.packets());
}

#[test]
fn what_arrives_while_the_application_has_nothing_to_send_widens_no_window() {
    for algorithm in ALL {
        let mut flow = Flow::new(algorithm);
        flow.rounds(3);
        let before = flow.core.window();
        // A tenth of the window is all that there is to send.
        for _ in 0..10 {
            let sent = flow.now;
            flow.core.sent(flow.lane, sent, before / 10);
            flow.now += RTT;
            flow.core.acked(flow.lane, flow.now, &[Acked { sent, bytes: before / 10 }], 0, true);
        }
        assert!(flow.core.window() <= before, "{algorithm:?}: {} after {before}", flow.core.window());
    }
}

#[test]
fn after_a_minute_of_silence_not_the_whole_window_leaves_at_once() {
    for algorithm in [CongestionAlgorithm::Auto, CongestionAlgorithm::Cubic, CongestionAlgorithm::Reno] {
        let mut flow = Flow::new(algorithm);
        flow.rounds(6);
        flow.now += Duration::from_secs(60);
        flow.core.sent(flow.lane, flow.now, MTU);
        assert_eq!(flow.core.window(), 10 * MTU, "{algorithm:?}");
    }
}

#[test]
fn persistent_congestion_leaves_next_to_nothing_and_the_start_begins_anew() {
    for algorithm in ALL {
        let mut flow = Flow::new(algorithm);
        flow.rounds(6);
        flow.core.lost(flow.lane, flow.now, &Lost { sent: flow.now, bytes: 50 * MTU, persistent: true });
        assert!(flow.core.window() <= 4 * MTU, "{algorithm:?}: {}", flow.core.window());
        assert_eq!(flow.core.snapshot().mode, Mode::Start, "{algorithm:?}");
        flow.now += Duration::from_millis(1);
        flow.rounds(4);
        assert!(flow.core.window() >= 8 * MTU, "{algorithm:?}: {}", flow.core.window());
    }
}

#[test]
fn eight_lanes_have_the_window_of_one() {
    let now = epoch();
    let mut core = Core::new(CongestionAlgorithm::Auto, now, 1200);
    let lanes: Vec<LaneId> = (0..8).map(|_| core.join()).collect();
    assert_eq!(core.share(now), core.window() + MTU, "lanes without anything to send have no share");
    lanes.iter().for_each(|lane| core.sent(*lane, now, MTU));
    assert_eq!(core.share(now), 3 * MTU, "a lane may always send two packets");
    lanes[1..].iter().for_each(|lane| core.leave(*lane));
    assert_eq!(core.share(now), core.window() + MTU);
}

#[derive(Clone, Debug)]
enum Happening {
    Sent(u64),
    Acked(u64, u64, u64, bool),
    Lost(u64, u64, bool),
    Mtu(u16),
    Join,
    Leave,
}

fn happening() -> impl Strategy<Value = Happening> {
    let number = prop_oneof![0..100_000_u64, Just(0), Just(u64::MAX)];
    prop_oneof![
        4 => number.clone().prop_map(Happening::Sent),
        8 => (0..2_000_000_u64, number.clone(), number.clone(), any::<bool>())
            .prop_map(|(age, bytes, in_flight, limited)| Happening::Acked(age, bytes, in_flight, limited)),
        2 => (0..2_000_000_u64, number, prop::bool::weighted(0.1))
            .prop_map(|(age, bytes, persistent)| Happening::Lost(age, bytes, persistent)),
        1 => any::<u16>().prop_map(Happening::Mtu),
        1 => Just(Happening::Join),
        1 => Just(Happening::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// Nothing that comes in makes a window of nothing, or one without bound; and time may step back.
    #[test]
    fn a_window_is_one_whatever_comes_in(steps in prop::collection::vec((0..500_u64, happening()), 1..300)) {
        for algorithm in ALL {
            let mut now = epoch() + Duration::from_secs(10);
            let mut core = Core::new(algorithm, now, 1200);
            let mut lanes = vec![core.join()];
            for (wait, happening) in &steps {
                now = now + Duration::from_millis(*wait) - Duration::from_millis(20);
                let lane = lanes[usize::try_from(wait % 8).unwrap() % lanes.len()];
                let ago = |micros: u64| now.checked_sub(Duration::from_micros(micros)).unwrap_or(now);
                match *happening {
                    Happening::Sent(bytes) => core.sent(lane, now, bytes),
                    Happening::Acked(age, bytes, in_flight, limited) => {
                        core.acked(lane, now, &[Acked { sent: ago(age), bytes }], in_flight, limited);
                    }
                    Happening::Lost(age, bytes, persistent) => {
                        core.lost(lane, now, &Lost { sent: ago(age), bytes, persistent });
                    }
                    Happening::Mtu(mtu) => core.set_mtu(mtu),
                    Happening::Join => lanes.push(core.join()),
                    Happening::Leave => {
                        core.leave(lane);
                        if lanes.len() > 1 {
                            lanes.retain(|other| *other != lane);
                        }
                    }
                }
                prop_assert!(core.window() >= 1 && core.share(now) >= 2, "{algorithm:?}: {}", core.window());
                prop_assert!(core.window() <= 2 << 30, "{algorithm:?}: {}", core.window());
                prop_assert!(core.snapshot().min_rtt <= Duration::from_secs(3600));
            }
        }
    }
}
