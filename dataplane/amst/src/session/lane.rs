//! A lane: one QUIC connection of a session, on the thread of its socket.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use foundation_runtime::OnEnd;
use quinn::{Connection, ConnectionError, ConnectionStats, RecvStream, SendStream};

use super::{LaneEnd, Session, channels, control_stream, pieces, scaling};
use crate::{
    CloseReason, budget::LaneRoom, close::Code, congestion::adapter, lane_thread::LaneThread, rate::DATAGRAM_OVERHEAD,
    transport::MIN_WINDOW,
};

/// One connection.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The first has 0.
    pub(crate) number: u8,
    pub(crate) connection: Connection,
    pub(crate) thread: LaneThread,
    /// Pieces that it is sending.
    pub(crate) sending: AtomicUsize,
    /// Pieces that it ever began to send.
    begun: AtomicU32,
    /// Bytes of pieces that were read from it and not settled yet.
    pub(crate) read: AtomicU64,
    pub(crate) end: LaneEnd,
    /// Whether the other end knows that it was taken.
    carries: AtomicBool,
    /// What it may hold of what nobody reads.
    room: LaneRoom,
    /// What was counted of it so far.
    counted: Mutex<ConnectionStats>,
}

/// The lanes of a session.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) present: Vec<Arc<Lane>>,
    /// What those moved that are over.
    pub(super) past: Moved,
}

/// What lanes moved, in UDP bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
}

impl Moved {
    pub(super) fn and(self, stats: &ConnectionStats) -> Self {
        Self {
            sent: self.sent + stats.udp_tx.bytes,
            received: self.received + stats.udp_rx.bytes,
            lost: self.lost + stats.path.lost_bytes,
        }
    }
}

/// Bytes of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) sent: u64,
    /// Heads of IP, and of UDP or TCP, of what it sent.
    pub(crate) heads: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
}

impl Lane {
    pub(crate) fn new(number: u8, connection: Connection, thread: LaneThread, room: LaneRoom) -> Self {
        let (sending, begun, read) = (AtomicUsize::new(0), AtomicU32::new(0), AtomicU64::new(0));
        let (end, carries) = (LaneEnd::new(), AtomicBool::new(true));
        Self { number, connection, thread, sending, begun, read, end, carries, room, counted: Mutex::default() }
    }

    /// Carries nothing until [`Self::carry`]: the dialler may give it up before it hears that it was taken.
    pub(crate) fn not_yet(self) -> Self {
        Self { carries: AtomicBool::new(false), ..self }
    }

    /// The other end knows that it was taken.
    pub(crate) fn carry(&self) {
        self.carries.store(true, Ordering::Relaxed);
    }

    fn carries(&self) -> bool {
        self.carries.load(Ordering::Relaxed)
    }

    /// What the next piece's stream is to come before: pieces go one after another, and what was lost of an older one before
    /// what is new of a younger. All of them come after control frames, whose streams have the priority that is the default, 0.
    pub(super) fn next_priority(&self) -> i32 {
        // Once in a billion pieces the order of those under way is turned round.
        let number = self.begun.fetch_add(1, Ordering::Relaxed) & 0x3fff_ffff;
        -1 - i32::try_from(number).unwrap_or(0)
    }

    /// Wants to hold so much of what nobody reads.
    pub(crate) fn resize(&self, window: u64) {
        let tell = |window| self.connection.set_receive_window(crate::transport::window(window));
        self.room.resize(window, self.read.swap(0, Ordering::Relaxed), tell);
    }

    fn window(&self) -> u64 {
        self.room.window()
    }

    /// It is over: what it might have held is free.
    pub(crate) fn give_up_room(&self) {
        self.room.close();
    }

    /// Where the peer is, without the mapping of IPv4 into IPv6.
    pub(crate) fn remote(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    /// What was moved since the last call.
    pub(crate) fn count(&self) -> Counted {
        let stats = self.connection.stats();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = Counted {
            sent: stats.udp_tx.bytes.saturating_sub(counted.udp_tx.bytes),
            heads: DATAGRAM_OVERHEAD * stats.udp_tx.datagrams.saturating_sub(counted.udp_tx.datagrams),
            received: stats.udp_rx.bytes.saturating_sub(counted.udp_rx.bytes),
            lost: stats.path.lost_bytes.saturating_sub(counted.path.lost_bytes),
        };
        *counted = stats;
        moved
    }
}

/// An address as people write it.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Session {
    /// Takes a lane, so that whoever finds the session can open channels over it. To be started soon.
    pub(crate) fn hold(&self, lane: Lane) -> Arc<Lane> {
        let lane = Arc::new(lane);
        self.0.with_lanes(|lanes| lanes.present.push(Arc::clone(&lane)));
        lane
    }

    /// A retired lane is over: what it moved still counts.
    fn forget_lane(&self, lane: &Arc<Lane>) {
        lane.give_up_room();
        let stats = lane.connection.stats();
        self.0.with_lanes(|lanes| {
            lanes.present.retain(|other| !Arc::ptr_eq(other, lane));
            lanes.past = lanes.past.and(&stats);
        });
    }

    /// Starts the first lane, over whose first stream the peers have greeted one another.
    pub(crate) fn start(&self, lane: &Arc<Lane>, stream: (SendStream, RecvStream)) {
        self.start_lane(lane);
        let tasks = &self.0.shared.tasks;
        lane.thread.enter(|| {
            tasks.spawn("amst session reader", OnEnd::Expected, control_stream::read(self.clone(), stream.1));
            tasks.spawn("amst session writer", OnEnd::Expected, control_stream::write(self.clone(), stream.0));
            tasks.spawn("amst scaling", OnEnd::Expected, scaling::run(self.clone()));
            tasks.spawn("amst channels", OnEnd::Expected, channels::accept(self.clone(), Arc::clone(lane)));
        });
    }

    /// Takes and starts a further lane.
    pub(crate) fn add_lane(&self, lane: Lane) -> Arc<Lane> {
        let lane = self.hold(lane);
        self.share_window();
        self.start_lane(&lane);
        if self.channel_count() > 0 {
            self.widen(&lane);
        }
        let watching = channels::none(self.clone(), Arc::clone(&lane));
        lane.thread.enter(|| self.0.shared.tasks.spawn("amst lane streams", OnEnd::Expected, watching));
        lane
    }

    /// Lets a lane hold what a session with a channel needs, as far as there is memory for it.
    pub(super) fn widen(&self, lane: &Lane) {
        lane.resize(self.least_window().max(lane.window()));
    }

    /// What each lane of a session with a channel is to hold at least.
    pub(crate) fn least_window(&self) -> u64 {
        let lanes = u64::try_from(self.lanes().len()).unwrap_or(u64::MAX);
        MIN_WINDOW / lanes.max(1)
    }

    /// Makes all lanes one flow, that of the first.
    pub(crate) fn share_window(&self) {
        let lanes = self.lanes();
        if let Some((first, others)) = lanes.split_first() {
            others.iter().for_each(|lane| adapter::join(&lane.connection, &first.connection));
        }
    }

    /// Starts a lane. One that comes after the session's end is closed at once.
    fn start_lane(&self, lane: &Arc<Lane>) {
        if let Some(closed) = self.closed() {
            let code = Code::of(&closed.reason);
            lane.connection.close(code.into(), code.words());
        }
        // One that was remembered needs its room from the first.
        lane.connection.set_send_window(crate::transport::send_window(self.0.scaling.streams()));
        let tasks = &self.0.shared.tasks;
        lane.thread.enter(|| {
            tasks.spawn("amst pieces", OnEnd::Expected, pieces::accept(self.clone(), Arc::clone(lane)));
            tasks.spawn("amst lane", OnEnd::Expected, watch(self.clone(), Arc::clone(lane)));
        });
    }

    /// The lane that sends the fewest pieces now; counted in.
    pub(super) fn pick_lane(&self) -> Option<LanePick> {
        self.0.with_lanes(|lanes| {
            let in_use = lanes.present.iter().filter(|lane| lane.carries() && !lane.end.is_retiring());
            let lane = in_use.min_by_key(|lane| lane.sending.load(Ordering::Relaxed))?;
            lane.sending.fetch_add(1, Ordering::Relaxed);
            Some(LanePick(Arc::clone(lane)))
        })
    }
}

/// A lane that sends one piece more, until dropped.
#[derive(Debug)]
pub(super) struct LanePick(pub(super) Arc<Lane>);

impl Drop for LanePick {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::Relaxed);
        self.0.end.look_again();
    }
}

/// The end of a lane that carries pieces and was not retired is the end of the session: what was under way on it is lost, and only the callers know what to do.
async fn watch(session: Session, lane: Arc<Lane>) {
    let error = lane.connection.closed().await;
    // One that is drained, or never carried anything, takes nothing with it, whatever ended it: what closes a connection may be lost.
    let agreed = lane.end.is_drained() || !lane.carries();
    if !agreed {
        session.close(reason(&error));
    }
    crate::telemetry::lane_ended(&session, &lane);
    if agreed {
        session.forget_lane(&lane);
    }
}

/// What the end of a connection means.
pub(crate) fn reason(error: &ConnectionError) -> CloseReason {
    match error {
        ConnectionError::ApplicationClosed(close) => Code::read(close.error_code).as_reason(&close.reason),
        ConnectionError::TimedOut => CloseReason::TimedOut,
        ConnectionError::Reset => CloseReason::PeerRestarted,
        ConnectionError::LocallyClosed => CloseReason::LocalShutdown,
        ConnectionError::ConnectionClosed(close) if Code::is_certificate_refusal(close.error_code) => {
            CloseReason::NotAMember
        }
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::CidsExhausted => CloseReason::Lost(error.to_string()),
    }
}
