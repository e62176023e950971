//! What an operator sets, and what bounds a process.

use std::time::Duration;

use proto_model::{
    ByteCount,
    config::{CongestionAlgorithm, TcpLane},
};

/// What can be changed while the endpoint runs.
#[derive(Clone, Debug, PartialEq)]
pub struct TransportSettings {
    /// Streams of pieces that a session may send at once, at least.
    pub min_streams: u32,
    /// At most.
    pub max_streams: u32,
    /// To begin with, where nothing is known of the peer.
    pub initial_streams: u32,
    /// By how much they grow when growing pays.
    pub stream_scaling_factor: f64,
    /// QUIC connections of a session that this end dials; 0 for as many as pay, one for each socket at most.
    pub lanes: u32,
    /// A stream on which nothing arrives for so long is given up.
    pub read_timeout: Duration,
    /// What governs the rate of sessions that begin from now on.
    pub congestion: CongestionAlgorithm,
    /// Bits a second that one session may send, with the heads of its datagrams.
    pub pacing_rate: Option<u64>,
    /// Whether pieces may go by TCP with TLS.
    pub tcp_lane: TcpLane,
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The three numbers of streams contradict one another.
    #[error(
        "transport: min_streams {min} ≤ initial_streams {initial} ≤ max_streams {max} does not hold, or max_streams is over {most}"
    )]
    Streams {
        /// `min_streams`.
        min: u32,
        /// `initial_streams`.
        initial: u32,
        /// `max_streams`.
        max: u32,
        /// What is possible.
        most: u32,
    },
    /// Streams cannot grow by this.
    #[error("transport: stream_scaling_factor is not above 1")]
    Factor,
    /// Too many lanes.
    #[error("transport: lanes is {0}, and has to be at most {most}", most = TransportSettings::MAX_LANES)]
    Lanes(u32),
}

impl TransportSettings {
    /// Lanes of a session at most: more cost fairness and buy nothing on the hosts that were measured.
    pub const MAX_LANES: u32 = 8;

    /// Streams of a session at most; with pieces of 1 MiB each that is 1 GiB under way.
    pub const MAX_STREAMS: u32 = 1024;

    /// Checks what one number cannot say.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn check(&self) -> Result<(), SettingsError> {
        let Self { min_streams: min, max_streams: max, initial_streams: initial, lanes, .. } = *self;
        if min == 0 || min > initial || initial > max || max > Self::MAX_STREAMS {
            return Err(SettingsError::Streams { min, initial, max, most: Self::MAX_STREAMS });
        }
        if !(self.stream_scaling_factor > 1.0 && self.stream_scaling_factor.is_finite()) {
            return Err(SettingsError::Factor);
        }
        if lanes > Self::MAX_LANES {
            return Err(SettingsError::Lanes(lanes));
        }
        Ok(())
    }
}

impl Default for TransportSettings {
    /// The DW manual's numbers (DW-2), one lane.
    fn default() -> Self {
        Self {
            min_streams: 16,
            max_streams: 256,
            initial_streams: 32,
            stream_scaling_factor: 1.5,
            lanes: 1,
            read_timeout: Duration::from_secs(60),
            congestion: CongestionAlgorithm::Auto,
            pacing_rate: None,
            tcp_lane: TcpLane::Auto,
        }
    }
}

/// What bounds a process; fixed at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory for what arrives: promised to peers, unread in connections, arriving, or in the hands of who reads it.
    pub receive_budget: ByteCount,
    /// Memory for what is sent and not acknowledged yet.
    pub send_budget: ByteCount,
    /// Sessions that peers dialled, at most.
    pub incoming_sessions: usize,
    /// Sessions with one peer, at most: two of crossed dials, and two whose end was not noticed yet.
    pub sessions_per_peer: usize,
    /// Channels that each end may open in a session: more than anybody moves between two hosts at once.
    pub channels_per_session: u32,
    /// Channels that peers opened and nobody has taken yet; a peer that opens one more is told that this node is busy.
    pub waiting_channels: usize,
    /// Handshakes that are under way at once; each is a few signatures. One more ends the oldest of the address that has most.
    pub handshakes: usize,
    /// From so many handshakes on a dialler has to show first that it receives what is sent to its address.
    pub retry_from: usize,
    /// First packets of connections of one address in a second.
    pub first_packets_per_second: u32,
    /// A peer that is not heard of for so long is taken for dead. Below three probe time-outs of the path quinn waits for these.
    pub idle_timeout: Duration,
    /// How often a silent session is kept alive; a quarter of the idle time-out or less survives lost packets.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_budget: ByteCount::new(256 * 1024 * 1024),
            send_budget: ByteCount::new(256 * 1024 * 1024),
            incoming_sessions: 1024,
            sessions_per_peer: 4,
            channels_per_session: 32,
            waiting_channels: 64,
            handshakes: 256,
            retry_from: 64,
            first_packets_per_second: 50,
            idle_timeout: Duration::from_secs(6),
            keep_alive: Duration::from_millis(1500),
        }
    }
}
