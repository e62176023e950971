//! The channels of a session: how they open, what each has been granted, and how they end.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use foundation_listener::limit_hits;
use foundation_runtime::OnEnd;
use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Lane, Session,
    control_stream::{FrameError, read_frame},
};
use crate::{
    Channel, CloseReason, ControlReceiver, ControlSender, IncomingChannel, OpenChannelError, Piece, PieceReceiver,
    PieceSender,
    budget::{ControlRoom, Window, cost},
    frames::{ChannelOpened, OpenChannel},
    path_use::Waiters,
};

/// Above pieces, below the session's own stream.
const PRIORITY: i32 = 1;

/// Pieces that wait for their reader before those that read them off the wire wait too; their bytes are bounded by credit.
const MAX_WAITING_PIECES: usize = 64;

/// Credit that is kept of what a peer grants: far above what can be under way, and far below what a semaphore holds, so that no
/// number that a peer says makes giving some of it back a fault.
const MAX_CREDIT: usize = 1 << 40;

/// How long the answer to an opening is waited for, and the opening after its stream: only a program in trouble takes long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// One end of a channel, as the session keeps it.
#[derive(Debug)]
pub(crate) struct ChannelState {
    pub(crate) id: u64,
    /// The span that hears of changes of the session.
    pub(crate) follower: OnceLock<tracing::Id>,
    /// Pieces that wait for credit.
    pub(crate) for_credit: Waiters,
    /// What may be sent, in bytes of cost; closed when the other end takes no more.
    pub(crate) credit: Semaphore,
    /// The sum that the peer has granted so far.
    granted: Mutex<u64>,
    /// Bytes of payload that have arrived, of pieces that are not whole too.
    pub(crate) arrived: AtomicU64,
    receiving: Mutex<Receiving>,
    /// Cancelled when our receiver is gone.
    pub(super) gone: CancellationToken,
    ends: Mutex<Ends>,
}

#[derive(Debug)]
struct Receiving {
    window: Window,
    /// Where arrived pieces go; none once the receiver is gone.
    pieces: Option<mpsc::Sender<Piece>>,
}

/// What arrives on a new channel.
struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    room: ControlRoom,
}

/// Which ends of ours are in use.
#[derive(Clone, Copy, Debug)]
struct Ends {
    sender: bool,
    receiver: bool,
}

impl ChannelState {
    /// Takes news of the sum of all credit. A smaller sum is older news.
    pub(crate) fn credit(&self, total: u64) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let more = total.saturating_sub(*granted);
        let room = MAX_CREDIT.saturating_sub(self.credit.available_permits());
        *granted += more;
        self.credit.add_permits(usize::try_from(more).unwrap_or(usize::MAX).min(room));
    }

    /// Credit of a piece that was not sent.
    pub(super) fn give_back(&self, length: u32) {
        let room = MAX_CREDIT.saturating_sub(self.credit.available_permits());
        self.credit.add_permits(usize::try_from(cost(length)).unwrap_or(usize::MAX).min(room));
    }

    /// The other end takes no more pieces.
    pub(super) fn not_wanted(&self) {
        self.credit.close();
    }

    pub(super) fn session_closed(&self) {
        self.credit.close();
        let mut receiving = self.receiving();
        receiving.pieces = None;
        receiving.window.close();
    }

    /// A piece begins to arrive: where it goes, if it is wanted.
    pub(super) fn admit(&self, cost: u64) -> Result<Option<mpsc::Sender<Piece>>, crate::budget::NoCredit> {
        let mut receiving = self.receiving();
        let Some(pieces) = receiving.pieces.clone() else { return Ok(None) };
        receiving.window.admit(cost)?;
        Ok(Some(pieces))
    }

    fn receiving(&self) -> MutexGuard<'_, Receiving> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// A piece's memory is free again.
    pub(super) fn release(&self, channel: &ChannelState, cost: u64) {
        let now = self.0.shared.clock.now();
        let grant = channel.receiving().window.release(cost, now, || self.round_trip());
        if let Some(total) = grant {
            self.0.outbox.credit(channel.id, total);
        }
    }

    /// Whether a piece of any channel waits for credit.
    pub(super) fn waits_for_credit(&self) -> bool {
        let channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.values().any(|channel| channel.for_credit.any())
    }

    /// A piece did not come whole, and will come again for the same credit.
    pub(super) fn withdraw(channel: &ChannelState, cost: u64) {
        channel.receiving().window.withdraw(cost);
    }

    /// Does something with a channel that is still open here; what comes for others is late, and harmless.
    pub(super) fn with_channel(&self, id: u64, work: impl FnOnce(&ChannelState)) {
        if let Some(channel) = self.channel(id) {
            work(&channel);
        }
    }

    pub(super) fn channel(&self, id: u64) -> Option<Arc<ChannelState>> {
        self.0.channels.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// A new channel with its window; the credit to grant with its opening. None where there is no room.
    fn register(&self, id: u64) -> Option<(Arc<ChannelState>, Incoming, u64)> {
        let Some((mut window, room)) = self.0.shared.budget.open_window(self.peer()) else {
            limit_hits::hit("limits.receive_budget");
            return None;
        };
        let credit = window.settle()?;
        let (sender, receiver) = mpsc::channel(MAX_WAITING_PIECES);
        let state = Arc::new(ChannelState {
            id,
            follower: OnceLock::new(),
            for_credit: Waiters::default(),
            credit: Semaphore::new(0),
            granted: Mutex::new(0),
            arrived: AtomicU64::new(0),
            receiving: Mutex::new(Receiving { window, pieces: Some(sender) }),
            gone: CancellationToken::new(),
            ends: Mutex::new(Ends { sender: true, receiver: true }),
        });
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        // Both ends may open as many.
        let most = usize::try_from(self.0.shared.limits.channels_per_session).ok()?.saturating_mul(2);
        if channels.len() >= most || channels.contains_key(&id) {
            limit_hits::hit("limits.channels_per_session");
            return None;
        }
        channels.insert(id, Arc::clone(&state));
        drop(channels);
        if self.closed().is_some() {
            // It closed in between, and may have missed the new one.
            state.session_closed();
        }
        // Before the other end hears that it may send.
        self.lanes().iter().for_each(|lane| self.widen(lane));
        Some((state, Incoming { pieces: receiver, room }, credit))
    }

    /// Our receiver is gone.
    pub(crate) fn receiver_dropped(&self, channel: &ChannelState) {
        {
            let mut receiving = channel.receiving();
            receiving.pieces = None;
            receiving.window.close();
        }
        channel.gone.cancel();
        if !self.0.outbox.not_wanted(channel.id) {
            self.close(CloseReason::Protocol("it opens channels and takes no answers".to_owned()));
        }
        self.end(channel, |ends| ends.receiver = false);
    }

    /// The last of our senders is gone.
    pub(crate) fn sender_dropped(&self, channel: &ChannelState) {
        self.end(channel, |ends| ends.sender = false);
    }

    fn end(&self, channel: &ChannelState, change: impl FnOnce(&mut Ends)) {
        let mut ends = channel.ends.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut ends);
        if !ends.sender && !ends.receiver {
            self.0.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel.id);
            *self.0.last_used.lock().unwrap_or_else(PoisonError::into_inner) = self.0.shared.clock.now();
        }
    }

    fn assemble(&self, state: Arc<ChannelState>, incoming: Incoming, stream: (SendStream, RecvStream)) -> Channel {
        // A closed connection shows at the first use.
        drop(stream.0.set_priority(PRIORITY));
        Channel {
            peer: self.peer(),
            control_tx: ControlSender::new(self.clone(), stream.0),
            control_rx: ControlReceiver::new(self.clone(), stream.1, incoming.room),
            pieces_tx: PieceSender::new(self.clone(), Arc::clone(&state)),
            pieces_rx: PieceReceiver::new(self.clone(), state, incoming.pieces),
        }
    }
}

/// Opens a channel, and waits until the peer has taken it.
pub(super) async fn open(session: &Session) -> Result<Channel, OpenChannelError> {
    let Opening { state, incoming, withdraw, stream: (send, mut receive) } = begin(session).await?;
    let answer = async { Ok(ChannelOpened::decode(&read_frame(&mut receive).await?)?) };
    match tokio::time::timeout(OPEN_TIMEOUT, answer).await {
        Ok(Ok(ChannelOpened::Taken { credit })) => {
            state.credit(credit);
            withdraw.keep();
            Ok(session.assemble(state, incoming, (send, receive)))
        }
        // It has no room.
        Ok(Ok(ChannelOpened::Busy)) | Err(_) => Err(OpenChannelError::Busy),
        Ok(Err(error)) => Err(session.not_opened(error)),
    }
}

/// Opens a channel without waiting: what is said at once travels behind the opening, and the answer shows at the first frame that is
/// received. Pieces wait for it.
pub(super) async fn open_early(session: &Session) -> Result<Channel, OpenChannelError> {
    let Opening { state, incoming, withdraw, stream } = begin(session).await?;
    withdraw.keep();
    let mut channel = session.assemble(Arc::clone(&state), incoming, stream);
    channel.control_rx.is_unopened(state, session.0.shared.clock.now() + OPEN_TIMEOUT);
    Ok(channel)
}

/// A channel that the peer has not taken yet.
struct Opening {
    state: Arc<ChannelState>,
    incoming: Incoming,
    withdraw: Withdraw,
    stream: (SendStream, RecvStream),
}

async fn begin(session: &Session) -> Result<Opening, OpenChannelError> {
    session.check_open()?;
    let id = session.0.next_channel.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    let (state, incoming, credit) = session.register(id).ok_or(OpenChannelError::Busy)?;
    let withdraw = Withdraw { session: session.clone(), state: Arc::clone(&state), armed: true };
    let lane = session.lanes().first().cloned().ok_or_else(|| session.reason())?;
    let opening = async {
        let (mut send, receive) = lane.connection.open_bi().await.map_err(|_ended| FrameError::Ended)?;
        let frame = OpenChannel { channel: id, credit }.encode();
        send.write_chunk(frame).await.map_err(|_ended| FrameError::Ended)?;
        Ok((send, receive))
    };
    match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
        Ok(Ok(stream)) => Ok(Opening { state, incoming, withdraw, stream }),
        // Over the streams that the peer allows.
        Err(_) => Err(OpenChannelError::Busy),
        Ok(Err(error)) => Err(session.not_opened(error)),
    }
}

impl Session {
    /// Why a channel did not open.
    fn not_opened(&self, error: FrameError) -> OpenChannelError {
        match error {
            FrameError::Malformed(error) => {
                self.close(CloseReason::Protocol(error.to_string()));
                self.reason().into()
            }
            FrameError::Ended => match self.closed() {
                Some(closed) => closed.into(),
                None => OpenChannelError::Busy,
            },
        }
    }
}

/// Takes back a channel that did not open.
struct Withdraw {
    session: Session,
    state: Arc<ChannelState>,
    armed: bool,
}

impl Withdraw {
    fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for Withdraw {
    fn drop(&mut self) {
        if self.armed {
            self.session.receiver_dropped(&self.state);
            self.session.sender_dropped(&self.state);
        }
    }
}

/// Takes channels that the peer opens, until the session ends.
pub(super) async fn accept(session: Session, lane: Arc<Lane>) {
    // The streams that may wait for their opening are bounded by the transport's limit on streams.
    while let Ok(stream) = lane.connection.accept_bi().await {
        let session = session.clone();
        session.clone().0.shared.tasks.spawn("amst channel", OnEnd::Expected, async move {
            if tokio::time::timeout(OPEN_TIMEOUT, take(&session, stream)).await.is_err() {
                tracing::debug!(peer = %session.peer().node_id(), "a stream was opened for a channel, and then nothing came");
            }
        });
    }
}

/// Channels are opened on the first lane alone: on another one nobody would read what is sent.
pub(super) async fn none(session: Session, lane: Arc<Lane>) {
    if lane.connection.accept_bi().await.is_ok() {
        session.close(CloseReason::Protocol("a channel on a lane that is not the first".to_owned()));
    }
}

async fn take(session: &Session, (mut send, mut receive): (SendStream, RecvStream)) {
    let frame = read_frame(&mut receive).await.and_then(|frame| Ok(OpenChannel::decode(&frame)?));
    let open = match frame {
        Ok(open) => open,
        Err(FrameError::Ended) => return,
        Err(FrameError::Malformed(error)) => return session.close(CloseReason::Protocol(error.to_string())),
    };
    // The other end's numbers have the parity that ours have not.
    if open.channel % 2 == u64::from(!session.dialled()) {
        return session.close(CloseReason::Protocol("a channel of the wrong parity".to_owned()));
    }
    let place = session.0.shared.incoming.try_reserve();
    let registered = if place.is_ok() {
        session.register(open.channel)
    } else {
        limit_hits::hit("limits.waiting_channels");
        None
    };
    let (Ok(place), Some((state, incoming, credit))) = (place, registered) else {
        // Who asks may have gone.
        drop(send.write_chunk(ChannelOpened::Busy.encode()).await);
        return;
    };
    state.credit(open.credit);
    if send.write_chunk(ChannelOpened::Taken { credit }.encode()).await.is_err() {
        session.receiver_dropped(&state);
        session.sender_dropped(&state);
        return;
    }
    let channel = session.assemble(state, incoming, (send, receive));
    place.send(IncomingChannel { remote: session.info().remote, channel });
}
