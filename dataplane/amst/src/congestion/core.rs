//! One flow of several lanes: measures what they report together, asks the algorithm, and shares its window out.

use std::{
    fmt,
    time::{Duration, Instant},
};

use proto_model::config::CongestionAlgorithm;

use super::{
    auto::Auto,
    bbr::Bbr,
    cubic::Cubic,
    rate_sample::{Batches, Rate, Sample, to_bytes, to_f64},
    reno::Reno,
    rtt::{RoundTrips, Rtt},
};

/// Packets that may be under way before anything is known (RFC 9002 7.2).
pub(super) const INITIAL_PACKETS: f64 = 10.0;

/// Packets that may always be under way (RFC 9002 7.2).
pub(super) const MINIMUM_PACKETS: f64 = 2.0;

/// No window grows over this: what a socket of 10 Gbit/s holds over a second and a half.
const MAX_WINDOW: f64 = 2.0 * 1024.0 * 1024.0 * 1024.0;

/// A lane that sent nothing for so long gives its share to the others.
const LANE_IDLE: Duration = Duration::from_secs(1);

/// The least time without anything under way after which a window is stale (RFC 6298 2.4).
const MIN_IDLE: Duration = Duration::from_secs(1);

/// Lanes of a core at most; more than a session may have, since a path that moves makes a new one before the old one is gone.
const MAX_LANES: usize = 32;

/// Which lane. Never used twice in a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneId(u64);

/// Packets that were acknowledged and left at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// When they left.
    pub sent: Instant,
    /// How many bytes they were.
    pub bytes: u64,
}

/// Packets that were found to be lost, or were marked by the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// When the newest of them left.
    pub sent: Instant,
    /// How many bytes they were; 0 if they were not lost but marked (ECN).
    pub bytes: u64,
    /// Whether everything was lost for so long that nothing is known of the path any more (RFC 9002 7.6).
    pub persistent: bool,
}

/// What an algorithm is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Looks for the bottleneck, doubling.
    Start,
    /// Empties the queue that looking for the bottleneck made.
    Drain,
    /// Grows by the algorithm's own rule until something is lost.
    Avoidance,
    /// Nobody else is there: holds the window below a queue.
    Alone,
    /// The path loses without a queue: such losses do not count.
    Lossy,
    /// Holds the rate, or a part of it.
    Cruise,
    /// Looks for more.
    Probe,
    /// Looks for the round trip without a queue.
    ProbeRtt,
}

impl Mode {
    /// All of them, for what counts by mode.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Drain,
        Self::Avoidance,
        Self::Alone,
        Self::Lossy,
        Self::Cruise,
        Self::Probe,
        Self::ProbeRtt,
    ];

    /// As metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Drain => "drain",
            Self::Avoidance => "avoidance",
            Self::Alone => "alone",
            Self::Lossy => "lossy",
            Self::Cruise => "cruise",
            Self::Probe => "probe",
            Self::ProbeRtt => "probe_rtt",
        }
    }
}

/// What is known of a session's path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What runs.
    pub algorithm: CongestionAlgorithm,
    /// What it is doing.
    pub mode: Mode,
    /// Bytes that may be under way, of all lanes.
    pub window: u64,
    /// Bytes a second that arrive, the highest of the last rounds.
    pub bandwidth: u64,
    /// The round trip without a queue; zero until one was measured.
    pub min_rtt: Duration,
    /// How much of the present round trip is a queue.
    pub queueing_delay: Duration,
}

/// What all algorithms read.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// Bytes of a packet.
    pub(super) mtu: f64,
    pub(super) rtt: Rtt,
    /// Bytes under way when acknowledgments were last reported, of all lanes.
    pub(super) in_flight: f64,
    /// Bytes a second, the highest of the last rounds' averages.
    pub(super) bandwidth: f64,
    /// Bytes that arrived so far.
    pub(super) delivered: u64,
    /// Round trips so far.
    pub(super) rounds: u64,
}

impl Path {
    pub(super) fn initial_window(&self) -> f64 {
        INITIAL_PACKETS * self.mtu
    }

    pub(super) fn minimum_window(&self) -> f64 {
        MINIMUM_PACKETS * self.mtu
    }

    /// A window that is one, whatever came in.
    pub(super) fn clamp(&self, window: f64) -> f64 {
        if window.is_nan() { self.minimum_window() } else { window.clamp(self.minimum_window(), MAX_WINDOW) }
    }
}

/// One acknowledgment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acks<'a> {
    pub(super) now: Instant,
    /// Oldest first.
    pub(super) packets: &'a [Acked],
    pub(super) bytes: u64,
    /// Whether more could have been sent than there was to send: what arrives then does not widen the window (RFC 9002 7.8).
    pub(super) app_limited: bool,
    pub(super) rate: Option<Sample>,
}

/// A round trip's worth of acknowledgments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) began: Instant,
    pub(super) now: Instant,
    pub(super) trips: RoundTrips,
    /// Bytes that arrived, and bytes that were lost.
    pub(super) delivered: f64,
    pub(super) lost: f64,
    /// Bytes a second that arrived over the round.
    pub(super) rate: f64,
    pub(super) app_limited: bool,
}

impl Round {
    /// The share of bytes that was lost.
    pub(super) fn loss(&self) -> f64 {
        self.lost / (self.lost + self.delivered).max(1.0)
    }
}

/// A congestion control algorithm, of a whole session.
pub(super) trait Algorithm: fmt::Debug + Send {
    /// Packets were acknowledged.
    fn acked(&mut self, path: &Path, acks: &Acks<'_>);
    /// Packets were lost or marked.
    fn lost(&mut self, path: &Path, now: Instant, lost: &Lost);
    /// A round trip ended.
    fn round(&mut self, path: &Path, round: &Round);
    /// Nothing was under way for so many time-outs.
    fn idle(&mut self, path: &Path, now: Instant, idle: Duration, timeouts: u32);
    /// Bytes that may be under way.
    fn window(&self) -> f64;
    fn mode(&self) -> Mode;
}

#[derive(Debug, Default)]
struct Lane {
    id: u64,
    batches: Batches,
    /// Bytes under way, as reported with the last acknowledgments.
    in_flight: u64,
    last_sent: Option<Instant>,
}

/// One flow of several lanes.
#[derive(Debug)]
pub struct Core {
    chosen: CongestionAlgorithm,
    algorithm: Box<dyn Algorithm>,
    path: Path,
    rate: Rate,
    rounds: Rounds,
    lanes: Vec<Lane>,
    next_lane: u64,
    last_ack: Option<Instant>,
    /// Bytes sent since the last acknowledgment.
    sent_since_ack: u64,
    idle_noted: bool,
}

/// Where the round trip that is under way began.
#[derive(Clone, Debug)]
struct Rounds {
    began: Instant,
    delivered: u64,
    lost: u64,
    app_limited: bool,
    bandwidth: super::rate_sample::MaxFilter,
}

/// Rounds over which the bandwidth is the highest average: long enough to cover a cut, short enough to follow a path that
/// became slower.
const BANDWIDTH_ROUNDS: u64 = 8;

impl Core {
    /// A flow without lanes.
    #[must_use]
    pub fn new(chosen: CongestionAlgorithm, now: Instant, mtu: u16) -> Self {
        let path = Path {
            mtu: f64::from(mtu.max(1)),
            rtt: Rtt::default(),
            in_flight: 0.0,
            bandwidth: 0.0,
            delivered: 0,
            rounds: 0,
        };
        let algorithm: Box<dyn Algorithm> = match chosen {
            CongestionAlgorithm::Reno => Box::new(Reno::new(&path)),
            CongestionAlgorithm::Cubic => Box::new(Cubic::new(&path)),
            CongestionAlgorithm::Auto => Box::new(Auto::new(&path)),
            CongestionAlgorithm::Bbr => Box::new(Bbr::new(&path)),
        };
        let rounds = Rounds {
            began: now,
            delivered: 0,
            lost: 0,
            app_limited: false,
            bandwidth: super::rate_sample::MaxFilter::new(BANDWIDTH_ROUNDS),
        };
        Self {
            chosen,
            algorithm,
            path,
            rate: Rate::new(now),
            rounds,
            lanes: Vec::new(),
            next_lane: 0,
            last_ack: None,
            sent_since_ack: 0,
            idle_noted: false,
        }
    }

    /// Adds a lane. The oldest is forgotten where there are too many; what it still reports is not counted.
    pub fn join(&mut self) -> LaneId {
        if self.lanes.len() >= MAX_LANES {
            self.lanes.remove(0);
        }
        let id = self.next_lane;
        self.next_lane += 1;
        self.lanes.push(Lane { id, ..Lane::default() });
        LaneId(id)
    }

    /// A lane ends; what it had under way is neither acknowledged nor lost.
    pub fn leave(&mut self, lane: LaneId) {
        self.lanes.retain(|other| other.id != lane.0);
    }

    /// A batch of packets leaves, whose time of sending is `now`.
    pub fn sent(&mut self, lane: LaneId, now: Instant, bytes: u64) {
        let idle = self.sent_since_ack == 0 && self.lanes.iter().all(|lane| lane.in_flight == 0);
        if idle {
            self.note_idle(now);
        }
        self.sent_since_ack = self.sent_since_ack.saturating_add(bytes);
        if let Some(lane) = self.lanes.iter_mut().find(|other| other.id == lane.0) {
            lane.last_sent = Some(now);
            self.rate.sent(&mut lane.batches, now, idle);
        }
    }

    fn note_idle(&mut self, now: Instant) {
        let Some(last) = self.last_ack.filter(|_| !self.idle_noted) else { return };
        let timeout = (self.path.rtt.smoothed().unwrap_or_default() * 2).max(MIN_IDLE);
        let idle = now.saturating_duration_since(last);
        if idle >= timeout {
            self.idle_noted = true;
            let timeouts = to_bytes(idle.as_secs_f64() / timeout.as_secs_f64()).min(64);
            self.algorithm.idle(&self.path, now, idle, u32::try_from(timeouts).unwrap_or(64));
        }
    }

    /// An acknowledgment came: of these packets, oldest first. `in_flight` is what the lane has under way without them,
    /// `app_limited` whether it had nothing more to send.
    pub fn acked(&mut self, lane: LaneId, now: Instant, packets: &[Acked], in_flight: u64, app_limited: bool) {
        let active = self.active(now);
        let Some(lane) = self.lanes.iter_mut().find(|other| other.id == lane.0) else { return };
        let Some(newest) = packets.iter().map(|packet| packet.sent).max() else {
            lane.in_flight = in_flight;
            return;
        };
        lane.in_flight = in_flight;
        (self.last_ack, self.idle_noted, self.sent_since_ack) = (Some(now), false, 0);
        self.path.rtt.sample(now.saturating_duration_since(newest), active);
        let bytes = packets.iter().fold(0_u64, |sum, packet| sum.saturating_add(packet.bytes));
        let rate = self.rate.acked(&mut lane.batches, now, newest, bytes);
        let under_way = self.lanes.iter().fold(0_u64, |sum, lane| sum.saturating_add(lane.in_flight));
        // A lane that waits for its turn in a session whose window is full is not what holds the session down.
        let full = to_f64(under_way.saturating_add(bytes)) >= 0.9 * self.algorithm.window();
        let app_limited = app_limited && !full;
        if app_limited {
            self.rate.app_limited(under_way);
        }
        self.path.in_flight = to_f64(under_way);
        self.path.delivered = self.rate.delivered();
        self.rounds.app_limited |= app_limited;
        let acks = Acks { now, packets, bytes, app_limited, rate };
        // A packet that left after the round began ends it.
        if newest >= self.rounds.began {
            self.end_round(now);
        }
        self.algorithm.acked(&self.path, &acks);
    }

    fn end_round(&mut self, now: Instant) {
        let delivered = self.rate.delivered();
        let Some(trips) = self.path.rtt.end_round(now) else { return };
        let took = now.saturating_duration_since(self.rounds.began).max(Duration::from_micros(100));
        let arrived = to_f64(delivered.saturating_sub(self.rounds.delivered));
        let round = Round {
            began: self.rounds.began,
            now,
            trips,
            delivered: arrived,
            lost: to_f64(self.rounds.lost),
            rate: arrived / took.as_secs_f64(),
            app_limited: self.rounds.app_limited,
        };
        self.path.rounds += 1;
        if !round.app_limited || round.rate > self.path.bandwidth {
            self.rounds.bandwidth.update(self.path.rounds, round.rate);
        }
        self.path.bandwidth = self.rounds.bandwidth.get();
        (self.rounds.began, self.rounds.delivered, self.rounds.lost) = (now, delivered, 0);
        self.rounds.app_limited = false;
        self.algorithm.round(&self.path, &round);
        tracing::trace!(
            mode = self.algorithm.mode().as_str(),
            window = self.window(),
            in_flight = to_bytes(self.path.in_flight),
            rate = to_bytes(round.rate),
            bandwidth = to_bytes(self.path.bandwidth),
            base = ?self.path.rtt.base().unwrap_or_default(),
            quartile = ?round.trips.quartile,
            jitter = ?self.path.rtt.jitter(),
            delivered = to_bytes(round.delivered),
            lost = to_bytes(round.lost),
            app_limited = round.app_limited,
            mtu = self.path.mtu,
            took = ?took,
            "Round trip"
        );
    }

    /// Packets of a lane were lost or marked.
    pub fn lost(&mut self, lane: LaneId, now: Instant, lost: &Lost) {
        if let Some(lane) = self.lanes.iter_mut().find(|other| other.id == lane.0) {
            lane.in_flight = lane.in_flight.saturating_sub(lost.bytes);
        }
        self.rounds.lost = self.rounds.lost.saturating_add(lost.bytes);
        self.algorithm.lost(&self.path, now, lost);
    }

    /// The path takes larger or smaller packets now.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.path.mtu = f64::from(mtu.max(1));
    }

    /// Bytes that each lane may have under way now: its share, at least two packets.
    #[must_use]
    pub fn share(&self, now: Instant) -> u64 {
        let share = self.algorithm.window() / to_f64(u64::try_from(self.active(now)).unwrap_or(1));
        // The library sends while less than the window would be under way, not up to it.
        to_bytes(share.max(self.path.minimum_window()) + self.path.mtu)
    }

    /// Bytes that all lanes may have under way.
    #[must_use]
    pub fn window(&self) -> u64 {
        to_bytes(self.algorithm.window())
    }

    /// What is known of the path.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            algorithm: self.chosen,
            mode: self.algorithm.mode(),
            window: self.window(),
            bandwidth: to_bytes(self.path.bandwidth),
            min_rtt: self.path.rtt.base().unwrap_or_default(),
            queueing_delay: self.path.rtt.queue(),
        }
    }

    /// Lanes that have something under way, or had a moment ago; at least one.
    fn active(&self, now: Instant) -> usize {
        let busy = |lane: &&Lane| {
            lane.in_flight > 0 || lane.last_sent.is_some_and(|at| now.saturating_duration_since(at) < LANE_IDLE)
        };
        self.lanes.iter().filter(busy).count().max(1)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::Instant;

    /// A moment to count from.
    pub(crate) fn epoch() -> Instant {
        foundation_runtime::Clock::system().now()
    }
}
