//! All there is between two nodes.

mod carrier;
mod channels;
mod control_stream;
mod info;
mod lane;
mod lane_count;
mod lane_end;
mod moves;
mod pieces;
mod ping;
mod scaling;
mod tcp_use;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use proto_model::PublicKey;
use tokio::sync::watch;

use crate::{
    Channel, CloseReason, Closed, MAX_PIECE, PathUse,
    budget::SendRoom,
    close::Code,
    congestion::{Snapshot, adapter},
    endpoint::Shared,
    frames::EARLY,
    lane_thread::LaneThread,
    path_use::{Part, Waiters},
    rate::{Limiter, ONE_BY_ONE_BELOW},
    slots::{Slot, Slots},
    telemetry,
};

pub(crate) use channels::ChannelState;
pub(crate) use control_stream::{FrameError, read_frame};
pub use info::SessionInfo;
pub(crate) use lane::{Counted, Lane, canonical, reason};
pub(crate) use lane_count::LaneDial;
pub(crate) use lane_end::LaneEnd;
pub(crate) use moves::Moves;
pub use moves::{MOVES, PastMove};
pub(crate) use pieces::{Fault, Place, send_piece};
pub use ping::PingError;
pub use tcp_use::TcpLaneInfo;

use control_stream::Outbox;
use lane::{Lanes, Moved};
use lane_count::Wanted;
use ping::Pings;
use scaling::Scaling;
use tcp_use::TcpUse;

/// A session with a peer. Clones are the same session. It lives while it is used, and some minutes longer.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peer: PublicKey,
    id: [u8; 16],
    /// Of the peer's run.
    instance: [u8; 16],
    /// That both ends have.
    features: u64,
    dialled: bool,
    opened: Instant,
    shared: Arc<Shared>,
    /// Which of the peer's sockets the first lane leads to; the others follow on.
    spread: u8,
    lanes: Mutex<Lanes>,
    wanted: Mutex<Wanted>,
    tcp: TcpUse,
    slots: Slots,
    scaling: Scaling,
    channels: Mutex<HashMap<u64, Arc<ChannelState>>>,
    next_channel: AtomicU64,
    /// What bounds what it sends: of its own, of the peer, of the endpoint.
    limiters: [Limiter; 3],
    /// Whose turn it is where pieces go one by one, and who of those that write waits for the bounds.
    line: Slots,
    passing: tokio::sync::Mutex<()>,
    /// Who of those that write waits for memory.
    making_room: tokio::sync::Mutex<()>,
    /// Pieces that wait for one of them.
    for_rate: Waiters,
    /// Of the last sample: how much of the congestion windows was used, and lost of what was sent.
    window_used: Part,
    lost: Part,
    outbox: Outbox,
    pings: Pings,
    last_used: Mutex<Instant>,
    closed: watch::Sender<Option<Closed>>,
}

/// Why a channel could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenChannelError {
    /// One end has no room for a further channel now.
    #[error("no room for a further channel now")]
    Busy,
    /// The session is over.
    #[error(transparent)]
    Session(#[from] Closed),
}

impl OpenChannelError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Session(closed) => closed.is_temporary(),
        }
    }
}

impl Inner {
    fn with_lanes<T>(&self, work: impl FnOnce(&mut Lanes) -> T) -> T {
        work(&mut self.lanes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Session {
    pub(crate) fn new(shared: &Arc<Shared>, origin: Origin) -> Self {
        let now = shared.clock.now();
        let settings = shared.settings();
        let remembered = shared.registry().profiles.of(&origin.peer);
        let scaling = Scaling::new(shared, &settings, &origin, remembered);
        Self(Arc::new(Inner {
            peer: origin.peer,
            id: origin.id,
            instance: origin.instance,
            features: origin.features,
            dialled: origin.dialled,
            opened: now,
            shared: Arc::clone(shared),
            spread: origin.spread,
            lanes: Mutex::default(),
            wanted: Mutex::default(),
            tcp: TcpUse::default(),
            slots: Slots::new(usize::try_from(scaling.streams()).unwrap_or(usize::MAX), shared.clock.clone()),
            scaling,
            channels: Mutex::default(),
            next_channel: AtomicU64::new(if origin.dialled { 0 } else { 1 }),
            limiters: shared.limiters.of(&origin.peer, settings.pacing_rate),
            line: Slots::new(1, shared.clock.clone()),
            passing: tokio::sync::Mutex::default(),
            making_room: tokio::sync::Mutex::default(),
            for_rate: Waiters::default(),
            window_used: Part::default(),
            lost: Part::default(),
            outbox: Outbox::default(),
            pings: Pings::default(),
            last_used: Mutex::new(now),
            closed: watch::Sender::new(None),
        }))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        self.0.peer
    }

    /// Opens a channel; resolves when the other end has taken it.
    ///
    /// # Errors
    /// See [`OpenChannelError`].
    pub async fn open_channel(&self) -> Result<Channel, OpenChannelError> {
        channels::open(self).await
    }

    /// Opens a channel without waiting for the other end: frames travel behind the opening, so that they cost no round trip more. Whether
    /// the other end has taken it shows at the first [`crate::ControlReceiver::recv`]; until that is called, pieces wait.
    ///
    /// # Errors
    /// See [`OpenChannelError`].
    pub async fn open_channel_early(&self) -> Result<Channel, OpenChannelError> {
        channels::open_early(self).await
    }

    /// Whether the other end's program takes what follows the opening of a channel before that is answered ([`crate::EARLY`]).
    #[must_use]
    pub fn is_early(&self) -> bool {
        self.0.features & EARLY != 0
    }

    /// What the congestion control knows of the path; none when the session is over.
    #[must_use]
    pub fn congestion(&self) -> Option<Snapshot> {
        self.lanes().first().and_then(|lane| adapter::snapshot(&lane.connection))
    }

    /// Why it is over, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.0.closed.borrow().clone()
    }

    /// Waits for its end. Cancel safe.
    pub async fn wait_closed(&self) -> Closed {
        let mut closed = self.0.closed.subscribe();
        // The sender lives in `self`, so the channel cannot be closed without a reason.
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or(Closed { reason: CloseReason::LocalShutdown })
    }

    /// Ends it for everybody, with a word to the peer.
    pub(crate) fn close(&self, reason: CloseReason) {
        let first = self.0.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            closed.get_or_insert(Closed { reason: reason.clone() });
            first
        });
        if !first {
            return;
        }
        tracing::info!(peer = %self.0.peer.node_id(), %reason, "Session closed");
        self.remember();
        let code = Code::of(&reason);
        for lane in self.lanes() {
            lane.connection.close(code.into(), code.words());
            lane.give_up_room();
        }
        self.forget_tcp();
        self.0.slots.close();
        self.0.line.close();
        self.0.pings.clear();
        self.0.outbox.close();
        for channel in self.take_channels() {
            channel.session_closed();
        }
        self.0.shared.forget(self);
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.0.id
    }

    pub(crate) fn instance(&self) -> [u8; 16] {
        self.0.instance
    }

    pub(crate) fn dialled(&self) -> bool {
        self.0.dialled
    }

    /// When it was opened.
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.0.opened
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.0.with_lanes(|lanes| lanes.present.clone())
    }

    pub(crate) fn lane_count(&self) -> usize {
        self.0.with_lanes(|lanes| lanes.present.iter().filter(|lane| !lane.end.is_retiring()).count())
    }

    /// By all lanes, also those over TCP and those that are over.
    fn moved_bytes(&self) -> Moved {
        let quic = self
            .0
            .with_lanes(|lanes| lanes.present.iter().fold(lanes.past, |sum, lane| sum.and(&lane.connection.stats())));
        let (sent, received) = self.0.tcp.bytes();
        Moved { sent: quic.sent + sent, received: quic.received + received, ..quic }
    }

    pub(crate) fn spread(&self) -> u8 {
        self.0.spread
    }

    /// Of the slowest lane.
    fn round_trip(&self) -> Duration {
        self.lanes().iter().map(|lane| lane.connection.rtt()).max().unwrap_or_default()
    }

    /// Counts what a lane moved since it was last asked, and has the bounds take note of it.
    pub(crate) fn count(&self, lane: &Lane) -> Counted {
        let moved = telemetry::count(lane);
        self.settle_bounds(&moved);
        moved
    }

    /// Has the bounds take note of what was sent.
    fn settle_bounds(&self, moved: &Counted) {
        self.0.limiters.iter().for_each(|limiter| limiter.settle(moved.sent + moved.heads));
    }

    /// The lowest bound that concerns it, in bits a second.
    fn rate_limit(&self) -> Option<u64> {
        self.lowest_bound().map(|(bits, _)| bits)
    }

    /// The same, with its key.
    fn lowest_bound(&self) -> Option<(u64, &'static str)> {
        const KEYS: [&str; 3] = ["transport.pacing_rate", "bandwidth.peers", "bandwidth.total"];
        let bounds = self.0.limiters.iter().zip(KEYS);
        bounds.filter_map(|(limiter, key)| Some((limiter.bits()?, key))).min()
    }

    /// Waits for a piece's turn, where pieces go one by one. Channels take turns.
    pub(crate) async fn turn(&self, channel: u64) -> Option<Slot> {
        if self.goes_one_by_one() { self.0.line.acquire(channel).await } else { None }
    }

    /// Whether a bound is so low that pieces go one by one.
    pub(crate) fn goes_one_by_one(&self) -> bool {
        self.rate_limit().is_some_and(|bits| bits < ONE_BY_ONE_BELOW)
    }

    /// Waits until so many bytes of a piece may go by all bounds. Of each session one waits, so that sessions share by turns.
    pub(crate) async fn pass(&self, bytes: usize) {
        if self.rate_limit().is_none() {
            return;
        }
        let _waiting = self.0.for_rate.wait();
        let _place = self.0.passing.lock().await;
        for limiter in &self.0.limiters {
            limiter.pass(bytes).await;
        }
    }

    /// Waits for memory for a piece that is to be sent; none once the session is over.
    async fn send_room(&self, bytes: u64) -> Option<SendRoom> {
        let taking = async {
            let _place = self.0.making_room.lock().await;
            self.0.shared.send_budget.take(self.peer(), bytes).await
        };
        tokio::select! {
            room = taking => Some(room),
            _closed = self.wait_closed() => None,
        }
    }

    /// What the pieces of a channel wait for, and how the path is used.
    pub(crate) fn path_use(&self, channel: &ChannelState) -> PathUse {
        let busy = self.threads().iter().map(LaneThread::busy).fold(0.0, f64::max);
        // Pieces that are under way are half sent, one with another: where that fills the path, further ones need not begin.
        let under_way = self.0.slots.used().saturating_mul(MAX_PIECE / 2);
        let window = self.congestion().map_or(0, |congestion| congestion.window);
        let fills = u64::try_from(under_way).is_ok_and(|bytes| bytes >= window.saturating_mul(2));
        PathUse {
            waits_for_credit: channel.for_credit.any() && !fills,
            waits_for_rate: self.0.for_rate.any(),
            window_used: self.0.window_used.get(),
            lost: self.0.lost.get(),
            lane_busy: busy,
        }
    }

    /// That drive its lanes, each once.
    fn threads(&self) -> Vec<LaneThread> {
        let mut threads: Vec<LaneThread> = Vec::new();
        let tcp = self.tcp_lane().map(|lane| lane.thread().clone());
        for thread in self.lanes().iter().map(|lane| lane.thread.clone()).chain(tcp) {
            if !threads.iter().any(|known| known.is_same(&thread)) {
                threads.push(thread);
            }
        }
        threads
    }

    pub(crate) fn limiters(&self) -> &[Limiter; 3] {
        &self.0.limiters
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.0.slots
    }

    /// How long nobody had a channel.
    pub(crate) fn unused_for(&self) -> Duration {
        let now = self.0.shared.clock.now();
        let mut last = self.0.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        if self.channel_count() > 0 {
            *last = now;
        }
        now.saturating_duration_since(*last)
    }

    /// The reason of the end, for who noticed it by an error.
    pub(crate) fn reason(&self) -> Closed {
        self.closed().unwrap_or(Closed { reason: CloseReason::Lost("the connection ended".to_owned()) })
    }

    /// The reason of the end, for who noticed it by a connection's.
    pub(crate) fn lost(&self, error: &quinn::ConnectionError) -> Closed {
        self.closed().unwrap_or_else(|| Closed { reason: reason(error) })
    }

    /// Fails once it is over.
    pub(crate) fn check_open(&self) -> Result<(), Closed> {
        self.closed().map_or(Ok(()), Err)
    }

    pub(crate) fn channel_count(&self) -> usize {
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take_channels(&self) -> Vec<Arc<ChannelState>> {
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.drain().map(|(_, channel)| channel).collect()
    }
}

/// Where a session comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) peer: PublicKey,
    pub(crate) id: [u8; 16],
    pub(crate) instance: [u8; 16],
    /// That both ends have.
    pub(crate) features: u64,
    pub(crate) dialled: bool,
    pub(crate) spread: u8,
}
