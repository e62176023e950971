//! Section `transport`: AMST.

use std::time::Duration;

use super::section::{Reader, choice};

/// How data travels between agents.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// The scaler never goes below.
    pub min_streams: u32,
    /// The scaler never goes above.
    pub max_streams: u32,
    /// Where it starts.
    pub initial_streams: u32,
    /// By how much streams grow when growing pays.
    pub stream_scaling_factor: f64,
    /// What should govern the rate.
    pub congestion_algorithm: CongestionAlgorithm,
    /// Bits a second that one session may send at most.
    pub pacing_rate: Option<u64>,
    /// Whether to look for RDMA.
    pub enable_rdma: bool,
    /// A stream on which nothing arrives for so long is given up.
    pub read_timeout: Duration,
    /// A peer that is not heard of for so long is taken for dead.
    pub idle_timeout: Duration,
    /// How often a silent session is kept alive.
    pub keep_alive_interval: Duration,
    /// QUIC connections to one peer; 0 for as many as pay.
    pub lanes: u32,
    /// Whether pieces may go by TCP with TLS.
    pub tcp_lane: TcpLane,
    /// UDP sockets on the one port; 0 for half the processors, at most 4.
    pub sockets: u32,
}

choice! {
    /// What governs the rate of a connection.
    CongestionAlgorithm {
        /// CUBIC that asks of each loss whether there was a queue: full links at every loss rate, and a fair share beside others.
        Auto = "auto",
        /// BBR.
        Bbr = "bbr",
        /// CUBIC (RFC 9438).
        Cubic = "cubic",
        /// New Reno (RFC 9002).
        Reno = "reno",
    }
}

choice! {
    /// When the pieces of a session go by TCP with TLS, on the number of the QUIC port.
    TcpLane {
        /// Where processor time alone bounds a session, and while it pays.
        Auto = "auto",
        /// Wherever the peer takes it: for hosts that are known to stand side by side.
        Always = "always",
        /// Never; nothing listens on TCP.
        Off = "off",
    }
}

impl Transport {
    /// With pieces of 1 MiB each that is 1 GiB under way in a session.
    pub const MAX_STREAMS: u32 = 1024;
    /// More lanes cost fairness and have never carried more.
    pub const MAX_LANES: u32 = 8;
    /// More threads than lanes can use.
    pub const MAX_SOCKETS: u32 = 16;

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("transport");
        let mut transport = Self {
            min_streams: section.number("min_streams", 1..=Self::MAX_STREAMS),
            max_streams: section.number("max_streams", 1..=Self::MAX_STREAMS),
            initial_streams: section.number("initial_streams", 1..=Self::MAX_STREAMS),
            stream_scaling_factor: section.real("stream_scaling_factor", 1.05..=10.0),
            congestion_algorithm: section.choice("congestion_algorithm"),
            pacing_rate: Some(section.number("pacing_rate", 0..=1_000_000_000_000)).filter(|&rate| rate > 0),
            enable_rdma: section.boolean("enable_rdma"),
            read_timeout: section.duration("read_timeout", 1..=3600),
            idle_timeout: section.duration("idle_timeout", 1..=600),
            keep_alive_interval: section.duration("keep_alive_interval", 0..=300),
            lanes: section.number("lanes", 0..=Self::MAX_LANES),
            tcp_lane: section.choice("tcp_lane"),
            sockets: section.number("sockets", 0..=Self::MAX_SOCKETS),
        };
        section.ordered(("min_streams", transport.min_streams), ("max_streams", transport.max_streams));
        // Where the bounds themselves are at odds, that is to be said alone.
        if transport.min_streams <= transport.max_streams {
            // A start that nobody chose follows the bounds that somebody did.
            if section.is_default("initial_streams") {
                transport.initial_streams =
                    transport.initial_streams.clamp(transport.min_streams, transport.max_streams);
                section.amend("initial_streams", transport.initial_streams);
            }
            section.ordered(("min_streams", transport.min_streams), ("initial_streams", transport.initial_streams));
            section.ordered(("initial_streams", transport.initial_streams), ("max_streams", transport.max_streams));
        }
        let (keep_alive, timeout) = (transport.keep_alive_interval, transport.idle_timeout);
        section.ordered_durations(("keep_alive_interval", keep_alive), ("idle_timeout", timeout));
        transport
    }
}
