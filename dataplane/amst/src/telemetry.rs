//! What AMST measures. The five `dwcp_amst_*` names of the DW manual carry no labels; what needs labels is a companion.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    Move, Reason, Session,
    congestion::{Mode, Snapshot},
    endpoint::Shared,
    session::{Counted, Lane},
};

const ACTIVE_STREAMS: &str = "dwcp_amst_active_streams";
const TARGET_STREAMS: &str = "dwcp_amst_target_streams";
const STREAMS: &str = "dwcp_amst_streams";
const BYTES_SENT: &str = "dwcp_amst_bytes_sent";
const BYTES_RECEIVED: &str = "dwcp_amst_bytes_received";
const BYTES_LOST: &str = "dwcp_amst_retransmitted_bytes_total";
const STREAM_ERRORS: &str = "dwcp_amst_stream_errors";
const STREAM_ERRORS_BY_REASON: &str = "dwcp_amst_stream_errors_by_reason_total";
const CONNECTION_DURATION: &str = "dwcp_amst_connection_duration_seconds";
const RTT: &str = "dwcp_amst_rtt_seconds";
const SESSIONS: &str = "dwcp_amst_sessions";
const LANES: &str = "dwcp_amst_lanes";
const DIALS: &str = "dwcp_amst_dials_total";
const SCALED: &str = "dwcp_amst_scaler_moves_total";
const RATE_WAITS: &str = "dwcp_amst_rate_waits_total";
const WINDOW: &str = "dwcp_amst_congestion_window_bytes";
const BANDWIDTH: &str = "dwcp_amst_bandwidth_estimate_bits_per_second";
const MIN_RTT: &str = "dwcp_amst_min_rtt_seconds";
const QUEUEING_DELAY: &str = "dwcp_amst_queueing_delay_seconds";
const CONGESTION_SESSIONS: &str = "dwcp_amst_congestion_sessions";
const RATE_LIMIT: &str = "dwcp_amst_rate_limit_bits_per_second";
const TCP_LANES: &str = "dwcp_amst_tcp_lanes";
const TCP_BYTES: &str = "dwcp_amst_tcp_lane_bytes_total";
const TCP_MOVES: &str = "dwcp_amst_tcp_lane_moves_total";
const SEND_MEMORY: &str = "dwcp_amst_send_memory_bytes";
const MEMORY: &str = "dwcp_amst_receive_memory_bytes";

/// Why a stream of a piece ended in error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamError {
    /// Its channel takes no pieces, or does not exist.
    NotWanted,
    /// It ended before its piece did.
    Truncated,
    /// Its piece is larger than allowed.
    TooLarge,
    /// Its piece came without credit.
    NoCredit,
    /// Nothing came for the read time-out.
    Stalled,
    /// The connection ended before it.
    ConnectionLost,
}

impl StreamError {
    const ALL: [Self; 6] =
        [Self::NotWanted, Self::Truncated, Self::TooLarge, Self::NoCredit, Self::Stalled, Self::ConnectionLost];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotWanted => "not_wanted",
            Self::Truncated => "truncated",
            Self::TooLarge => "too_large",
            Self::NoCredit => "no_credit",
            Self::Stalled => "stalled",
            Self::ConnectionLost => "connection_lost",
        }
    }
}

/// What happens to lanes over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcpMove {
    /// A session has one, dialled by either end.
    Opened,
    /// One could not be dialled.
    Failed,
    /// Pieces of this end go on by it: it pays.
    Kept,
    /// They go by QUIC again: it does not pay, or is of no use.
    GivenUp,
    /// It broke.
    Broke,
    /// It was ended.
    Ended,
}

impl TcpMove {
    const ALL: [Self; 6] = [Self::Opened, Self::Failed, Self::Kept, Self::GivenUp, Self::Broke, Self::Ended];

    fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Failed => "failed",
            Self::Kept => "kept",
            Self::GivenUp => "given_up",
            Self::Broke => "broke",
            Self::Ended => "ended",
        }
    }
}

/// Names what is measured, and begins counters at zero, so that the first error shows in a rate.
pub(crate) fn register() {
    describe_gauge!(ACTIVE_STREAMS, "Stream slots held ready; 0 when no known peer can be reached");
    describe_gauge!(TARGET_STREAMS, "Stream slots that a session is to have");
    describe_gauge!(STREAMS, "Streams of pieces that are open now, by direction");
    describe_counter!(
        "dwcp_amst_refused_connections_total",
        "Connections that peers or strangers dialled and that were refused."
    );
    describe_counter!(BYTES_SENT, Unit::Bytes, "Payload of UDP and TCP sent");
    describe_counter!(BYTES_RECEIVED, Unit::Bytes, "Payload of UDP and TCP received");
    describe_counter!(BYTES_LOST, Unit::Bytes, "Bytes declared lost and sent again");
    describe_counter!(STREAM_ERRORS, "Streams of pieces that ended in error");
    describe_counter!(STREAM_ERRORS_BY_REASON, "Streams of pieces that ended in error, by reason");
    describe_histogram!(CONNECTION_DURATION, Unit::Seconds, "How long connections lived");
    describe_histogram!(RTT, Unit::Seconds, "Smoothed round-trip time of connections in use, once a second");
    describe_gauge!(WINDOW, Unit::Bytes, "What all sessions together may have under way");
    describe_gauge!(BANDWIDTH, "What the congestion control of all sessions together has seen arrive in a second");
    describe_histogram!(MIN_RTT, Unit::Seconds, "Round trip without a queue of sessions that send, once a second");
    describe_histogram!(QUEUEING_DELAY, Unit::Seconds, "Queue in the round trip of sessions that send, once a second");
    describe_gauge!(CONGESTION_SESSIONS, "Sessions by what governs their rate and what it is doing");
    describe_gauge!(SESSIONS, "Sessions with peers that are open now");
    describe_counter!(DIALS, "Attempts to reach a peer, by result");
    describe_counter!(SCALED, "Changes of the number of streams and lanes of a session, by reason");
    for (of, reasons) in Reason::OF {
        for reason in reasons {
            counter!(SCALED, "of" => of.as_str(), "reason" => reason.as_str()).increment(0);
        }
    }
    describe_gauge!(LANES, "Connections of all sessions that are open now");
    describe_counter!(RATE_WAITS, "Parts of pieces that had to wait for a bound of what is sent");
    describe_gauge!(RATE_LIMIT, "What all sessions together may send; 0 for no bound");
    counter!(RATE_WAITS).increment(0);
    describe_gauge!(TCP_LANES, "Lanes over TCP that are open now");
    describe_counter!(TCP_BYTES, Unit::Bytes, "Bytes moved over lanes over TCP, TLS and all, by direction");
    describe_counter!(TCP_MOVES, "What happened to lanes over TCP");
    for direction in ["out", "in"] {
        counter!(TCP_BYTES, "direction" => direction).increment(0);
    }
    for what in TcpMove::ALL {
        counter!(TCP_MOVES, "what" => what.as_str()).increment(0);
    }
    describe_gauge!(SEND_MEMORY, Unit::Bytes, "Memory of pieces that are sent and not acknowledged yet");
    describe_gauge!(MEMORY, Unit::Bytes, "Memory promised to pieces that arrive");
    for counter in [BYTES_SENT, BYTES_RECEIVED, BYTES_LOST, STREAM_ERRORS] {
        counter!(counter).increment(0);
    }
    for reason in StreamError::ALL {
        counter!(STREAM_ERRORS_BY_REASON, "reason" => reason.as_str()).increment(0);
    }
    for result in ["connected", "failed"] {
        counter!(DIALS, "result" => result).increment(0);
    }
}

pub(crate) fn stream_error(error: StreamError) {
    counter!(STREAM_ERRORS).increment(1);
    counter!(STREAM_ERRORS_BY_REASON, "reason" => error.as_str()).increment(1);
}

pub(crate) fn scaled(what: &Move) {
    counter!(SCALED, "of" => what.of.as_str(), "reason" => what.reason.as_str()).increment(1);
}

pub(crate) fn rate_wait() {
    counter!(RATE_WAITS).increment(1);
}

pub(crate) fn dialled(success: bool) {
    counter!(DIALS, "result" => if success { "connected" } else { "failed" }).increment(1);
}

pub(crate) fn lane_ended(session: &Session, lane: &Lane) {
    session.count(lane);
    let lived = session.shared().clock.now().saturating_duration_since(session.opened());
    histogram!(CONNECTION_DURATION).record(lived.as_secs_f64());
}

/// Adds what a lane moved since it was last asked.
pub(crate) fn count(lane: &Lane) -> Counted {
    let counted = lane.count();
    counter!(BYTES_SENT).increment(counted.sent);
    counter!(BYTES_RECEIVED).increment(counted.received);
    counter!(BYTES_LOST).increment(counted.lost);
    counted
}

/// Adds what a lane over TCP moved since it was last asked.
pub(crate) fn count_tcp(moved: &Counted) {
    counter!(BYTES_SENT).increment(moved.sent);
    counter!(BYTES_RECEIVED).increment(moved.received);
    counter!(TCP_BYTES, "direction" => "out").increment(moved.sent);
    counter!(TCP_BYTES, "direction" => "in").increment(moved.received);
}

pub(crate) fn tcp_moved(what: TcpMove) {
    counter!(TCP_MOVES, "what" => what.as_str()).increment(1);
}

pub(crate) fn rtt(rtt: Duration) {
    histogram!(RTT).record(rtt.as_secs_f64());
}

/// The gauges of an endpoint.
pub(crate) fn gauges(shared: &Shared) {
    let sessions = shared.all_sessions();
    let initial = usize::try_from(shared.settings().initial_streams).unwrap_or(usize::MAX);
    let ready: usize = sessions.iter().map(|session| session.slots().capacity()).sum();
    let active = match (ready, shared.reaches_somebody()) {
        (0, true) => initial,
        (0, false) => 0,
        (ready, _) => ready,
    };
    set(gauge!(ACTIVE_STREAMS), active);
    // By the scaler; a slot in use beyond it is given back when its piece is sent.
    let target = sessions.iter().map(|session| session.slots().capacity()).max();
    set(gauge!(TARGET_STREAMS), target.unwrap_or(initial));
    set(gauge!(SESSIONS), sessions.len());
    set(gauge!(TCP_LANES), sessions.iter().filter(|session| session.tcp_lane().is_some()).count());
    set(gauge!(LANES), sessions.iter().map(Session::lane_count).sum());
    set(gauge!(STREAMS, "direction" => "out"), shared.sending.load(Ordering::Relaxed));
    set(gauge!(STREAMS, "direction" => "in"), shared.receiving.load(Ordering::Relaxed));
    set(gauge!(RATE_LIMIT), usize::try_from(shared.limiters.total().unwrap_or(0)).unwrap_or(usize::MAX));
    set(gauge!(SEND_MEMORY), usize::try_from(shared.send_budget.used()).unwrap_or(usize::MAX));
    set(gauge!(MEMORY), usize::try_from(shared.budget.promised()).unwrap_or(usize::MAX));
}

/// What the congestion control of one session knows, if it sends.
pub(crate) fn congestion(snapshot: &Snapshot) {
    histogram!(MIN_RTT).record(snapshot.min_rtt.as_secs_f64());
    histogram!(QUEUEING_DELAY).record(snapshot.queueing_delay.as_secs_f64());
}

/// The gauges of the congestion control of all sessions.
pub(crate) fn congestion_gauges(sessions: &[Snapshot]) {
    let sum = |of: fn(&Snapshot) -> u64| sessions.iter().map(of).fold(0_u64, u64::saturating_add);
    set(gauge!(WINDOW), usize::try_from(sum(|session| session.window)).unwrap_or(usize::MAX));
    let bits = sum(|session| session.bandwidth).saturating_mul(8);
    set(gauge!(BANDWIDTH), usize::try_from(bits).unwrap_or(usize::MAX));
    for algorithm in ["auto", "bbr", "cubic", "reno"] {
        for mode in Mode::ALL {
            let alike = |session: &&Snapshot| session.mode == mode && session.algorithm.as_str() == algorithm;
            let count = sessions.iter().filter(alike).count();
            set(gauge!(CONGESTION_SESSIONS, "algorithm" => algorithm, "mode" => mode.as_str()), count);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float, and exact below 2^53")]
fn set(gauge: metrics::Gauge, value: usize) {
    gauge.set(value as f64);
}

/// Counts a stream while it is open.
#[derive(Debug)]
pub(crate) struct StreamGauge {
    shared: Arc<Shared>,
    of: fn(&Shared) -> &AtomicUsize,
}

impl StreamGauge {
    pub(crate) fn sending(shared: &Arc<Shared>) -> Self {
        Self::new(shared, |shared| &shared.sending)
    }

    pub(crate) fn receiving(shared: &Arc<Shared>) -> Self {
        Self::new(shared, |shared| &shared.receiving)
    }

    fn new(shared: &Arc<Shared>, of: fn(&Shared) -> &AtomicUsize) -> Self {
        of(shared).fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), of }
    }
}

impl Drop for StreamGauge {
    fn drop(&mut self) {
        (self.of)(&self.shared).fetch_sub(1, Ordering::Relaxed);
    }
}
