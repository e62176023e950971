//! The lane over TCP of a session: one at most. Either end may dial it, each decides for itself whether its pieces go by it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foundation_runtime::OnEnd;
use proto_model::config::TcpLane as Policy;
use tokio::sync::Notify;

use super::Session;
use crate::{
    CloseReason,
    endpoint::dial_tcp,
    frames::TCP_LANES,
    lane_thread::LaneThread,
    scaler::Sample,
    tcp::TcpLane,
    tcp_choice::{Choice, Look, Step},
    telemetry::{self, TcpMove},
};

/// After so long without a piece in either direction who dialled it ends it: what is silent may be cut without anybody noticing.
const UNUSED: Duration = Duration::from_secs(20);

/// What a session has of TCP.
#[derive(Debug, Default)]
pub(super) struct TcpUse {
    state: Mutex<State>,
    /// A dialling is over.
    dialled: Notify,
}

#[derive(Debug, Default)]
struct State {
    lane: Option<Arc<TcpLane>>,
    /// Over at this end, and the other has not said what it took.
    unsettled: Vec<Arc<TcpLane>>,
    /// Being dialled.
    dialling: bool,
    choice: Choice,
    /// Bytes that had arrived by the last sample.
    arrived: u64,
    /// Lanes that this end dialled.
    dialled: u8,
    /// Of lanes that are over.
    sent: u64,
    received: u64,
}

/// The lane over TCP of a session, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLaneInfo {
    /// Whether this end dialled it.
    pub dialled: bool,
    /// Whether this end's pieces go by it.
    pub carries: bool,
}

impl TcpUse {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes sent and received, of all lanes there were.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let state = self.lock();
        let now = state.lane.as_ref().map_or((0, 0), |lane| (lane.traffic().sent(), lane.traffic().received()));
        (state.sent + now.0, state.received + now.1)
    }
}

impl Session {
    /// The lane over TCP, if there is one.
    pub(crate) fn tcp_lane(&self) -> Option<Arc<TcpLane>> {
        self.0.tcp.lock().lane.clone()
    }

    pub(super) fn tcp_info(&self) -> Option<TcpLaneInfo> {
        let lane = self.tcp_lane()?;
        Some(TcpLaneInfo { dialled: lane.dialled(), carries: lane.carries() && !self.goes_one_by_one() })
    }

    /// The lane over TCP, where pieces are to go by it: not below a slow bound, as answers would wait behind each piece.
    pub(super) fn tcp_lane_for_pieces(&self) -> Option<Arc<TcpLane>> {
        self.tcp_lane().filter(|lane| lane.carries() && !self.goes_one_by_one())
    }

    /// Whether both ends know what such a lane is.
    pub(crate) fn knows_tcp(&self) -> bool {
        self.0.features & TCP_LANES != 0
    }

    /// A number for a lane that is to be dialled; none where there is a lane, or one is being dialled.
    pub(crate) fn begin_tcp(&self) -> Option<u8> {
        let mut state = self.0.tcp.lock();
        if state.dialling || state.lane.is_some() || !self.knows_tcp() || self.closed().is_some() {
            return None;
        }
        state.dialling = true;
        // Those of the two ends differ.
        let number = state.dialled.wrapping_mul(2).wrapping_add(u8::from(!self.dialled()));
        state.dialled = state.dialled.wrapping_add(1);
        Some(number)
    }

    /// The dialling is over, or was not begun.
    pub(crate) fn tcp_dialled(&self, result: Result<(), String>) {
        let policy = self.shared().settings().tcp_lane;
        let mut state = self.0.tcp.lock();
        state.dialling = false;
        self.0.tcp.dialled.notify_waiters();
        match (result, &state.lane) {
            (_, Some(_)) => state.choice.opened(),
            (Ok(()), None) => {}
            (Err(reason), None) => {
                state.choice.lost(true, policy);
                drop(state);
                telemetry::tcp_moved(TcpMove::Failed);
                let peer = self.peer().node_id();
                tracing::info!(%peer, reason, "A lane over TCP was not opened; QUIC carries the data");
            }
        }
    }

    /// Looks whether pieces are to go by TCP, and does what is decided.
    pub(super) fn consider_tcp(&self, sample: &Sample) {
        if !self.knows_tcp() {
            return;
        }
        let threads = self.threads();
        let arrived = self.info().bytes_received;
        let (arriving, offered) = {
            let mut state = self.0.tcp.lock();
            let before = std::mem::replace(&mut state.arrived, arrived);
            (arrived.saturating_sub(before), state.lane.is_some())
        };
        let waiting = if self.waits_for_credit() { 1.0 } else { sample.waiting };
        #[allow(clippy::cast_precision_loss, reason = "rates need no 53 bits")]
        let (delivered, lost, arriving) = (sample.delivered as f64, sample.lost as f64, arriving as f64);
        let look = Look {
            elapsed: sample.elapsed,
            goodput: delivered / sample.elapsed.as_secs_f64().max(1e-6),
            arriving: arriving / sample.elapsed.as_secs_f64().max(1e-6),
            offered,
            work: threads.iter().map(LaneThread::worked).sum(),
            pressed: threads.iter().map(LaneThread::busy).fold(0.0, f64::max),
            round_trip: self.congestion().map_or_else(|| self.round_trip(), |congestion| congestion.min_rtt),
            lost: lost / (delivered + lost).max(1.0),
            waiting,
            bounded: self.rate_limit().is_some(),
        };
        let policy = self.shared().settings().tcp_lane;
        let (step, lane) = {
            let mut state = self.0.tcp.lock();
            (state.choice.sample(&look, policy), state.lane.clone())
        };
        let Some(step) = step else { return };
        match (step, lane) {
            (Step::Try, Some(lane)) => {
                lane.want(true);
                self.0.tcp.lock().choice.opened();
            }
            (Step::Try | Step::Offer, None) => dial_tcp(self),
            (Step::Offer, Some(_)) => {}
            (Step::Keep, _) => telemetry::tcp_moved(TcpMove::Kept),
            (Step::GiveUp(_), lane) => {
                lane.iter().for_each(|lane| lane.want(false));
                telemetry::tcp_moved(TcpMove::GivenUp);
            }
        }
        let what = match step {
            Step::Try => "tried",
            Step::Offer => "offered",
            Step::Keep => "kept",
            Step::GiveUp(why) => why.as_str(),
        };
        tracing::info!(peer = %self.peer().node_id(), what, goodput = look.goodput, pressed = look.pressed, "Pieces by TCP");
    }

    /// Whether a lane that the peer dials may have this number.
    pub(crate) fn is_peers_tcp_number(&self, number: u8) -> bool {
        number % 2 == u8::from(self.dialled())
    }

    /// Where both ends dial at once the lane of who dialled the session is the one: there the other's waits until it is known what becomes
    /// of it. Both would be lost, if each end took the other's.
    pub(crate) async fn crossing_tcp(&self) {
        if !self.dialled() {
            return;
        }
        loop {
            let over = self.0.tcp.dialled.notified();
            if !self.0.tcp.lock().dialling {
                return;
            }
            over.await;
        }
    }

    /// Takes a lane, where there is none and the session lives.
    pub(crate) fn hold_tcp(&self, lane: TcpLane) -> Option<Arc<TcpLane>> {
        let mut state = self.0.tcp.lock();
        let taken = state.unsettled.iter().any(|old| old.number() == lane.number());
        if state.lane.is_some() || taken || self.closed().is_some() {
            return None;
        }
        lane.want(state.choice.wants());
        let lane = Arc::new(lane);
        state.lane = Some(Arc::clone(&lane));
        drop(state);
        telemetry::tcp_moved(TcpMove::Opened);
        tracing::info!(peer = %self.peer().node_id(), remote = %lane.remote(), dialled = lane.dialled(), "A lane over TCP");
        Some(lane)
    }

    /// The lane is over at this end, which took so many pieces of it.
    pub(crate) fn tcp_lane_ended(&self, lane: &Arc<TcpLane>, taken: u64, broke: bool) {
        self.count_tcp(lane);
        telemetry::tcp_moved(if broke { TcpMove::Broke } else { TcpMove::Ended });
        {
            let mut state = self.0.tcp.lock();
            state.sent += lane.traffic().sent();
            state.received += lane.traffic().received();
            if state.lane.as_ref().is_some_and(|present| Arc::ptr_eq(present, lane)) {
                state.lane = None;
            }
            let policy = self.shared().settings().tcp_lane;
            state.choice.lost(broke, policy);
            state.unsettled.retain(|old| !old.is_settled());
            // Looked at under the lock, as the session's end looks for what is here.
            if self.closed().is_some() {
                lane.forget();
            }
            if !lane.is_settled() {
                state.unsettled.push(Arc::clone(lane));
            }
        }
        self.0.outbox.lane_over(lane.number(), taken);
        if lane.is_settled() {
            return;
        }
        let (session, lane) = (self.clone(), Arc::clone(lane));
        let waiting = async move {
            let patience = session.shared().settings().read_timeout;
            tokio::select! {
                () = tokio::time::sleep(patience) => {}
                _closed = session.wait_closed() => return,
            }
            if !lane.is_settled() {
                session.close(CloseReason::Lost("the peer does not say what it took of a lane over TCP".to_owned()));
            }
        };
        self.shared().tasks.spawn("amst tcp settle", OnEnd::Expected, waiting);
    }

    /// The session is over: nobody waits for what the peer took.
    pub(super) fn forget_tcp(&self) {
        let over = {
            let mut state = self.0.tcp.lock();
            let present = state.lane.clone();
            std::mem::take(&mut state.unsettled).into_iter().chain(present).collect::<Vec<_>>()
        };
        over.iter().for_each(|lane| lane.forget());
    }

    /// The peer says that a lane is over, and how many pieces it took.
    pub(super) fn tcp_lane_over(&self, number: u8, taken: u64) {
        let found = {
            let mut state = self.0.tcp.lock();
            let old = state.unsettled.iter().position(|lane| lane.number() == number);
            old.map(|index| state.unsettled.swap_remove(index))
                .or_else(|| state.lane.clone().filter(|lane| lane.number() == number))
        };
        let Some(lane) = found else {
            // Who dialled a lane has it only after us: it may ask of one that was over before it knew, and of which it took nothing.
            if self.is_peers_tcp_number(number) {
                self.0.outbox.lane_over(number, 0);
            }
            return;
        };
        if lane.peer_ended(taken).is_err() {
            self.close(CloseReason::Protocol("it took other pieces of a lane over TCP than were sent".to_owned()));
        }
    }

    /// Counts, and ends what nobody uses.
    pub(crate) fn tend_tcp(&self) {
        let Some(lane) = self.tcp_lane() else { return };
        let moved = self.count_tcp(&lane);
        let policy = self.shared().settings().tcp_lane;
        let unused = lane.unused_for(&moved, self.shared().clock.now()) >= UNUSED;
        if policy == Policy::Off || (policy == Policy::Auto && lane.dialled() && unused) {
            lane.leave();
        }
    }

    fn count_tcp(&self, lane: &TcpLane) -> super::Counted {
        let moved = lane.count();
        telemetry::count_tcp(&moved);
        self.settle_bounds(&moved);
        moved
    }
}
