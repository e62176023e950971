//! A lane over TCP with TLS: for a path that is so fast and so clean that QUIC's processor time is what bounds it. It carries pieces alone,
//! one after the other, and joins a session that lives on QUIC. When it breaks the session goes on: both ends say how many pieces they took of
//! it, and what was not taken goes by QUIC, for the same credit.

mod book;
mod record;
mod run;
mod socket;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{budget::LaneRoom, frames::PieceHead, lane_thread::LaneThread, session::Counted};

pub(crate) use book::Outcome;
pub(crate) use record::Record;
pub(crate) use run::run;
pub(crate) use socket::{Socket, Traffic};

use book::{Book, Job};

/// What a lane reads ahead of TLS, where the budget has it: some dozens of records for one call of the kernel.
pub(crate) const READ_AHEAD: u64 = 256 * 1024;

/// Of a segment: Ethernet's 1,500 bytes without the heads of IPv4 and TCP, and these.
const SEGMENT: u64 = 1448;
const SEGMENT_HEADS: u64 = 52;

/// One end of a lane over TCP.
#[derive(Debug)]
pub(crate) struct TcpLane {
    number: u8,
    /// Whether this end dialled it.
    dialled: bool,
    remote: SocketAddr,
    thread: LaneThread,
    book: Book,
    traffic: Arc<Traffic>,
    /// Whether the peer is known to have the lane.
    in_use: AtomicBool,
    /// Whether this end wants its pieces to go by it.
    wanted: AtomicBool,
    /// A bound of bandwidth holds a piece back.
    held_back: AtomicBool,
    /// A piece of the peer is half-way.
    half_way: AtomicBool,
    end: CancellationToken,
    counted: Mutex<(u64, u64)>,
    moved: Mutex<Instant>,
    _room: LaneRoom,
}

/// What a lane is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) number: u8,
    pub(crate) dialled: bool,
    pub(crate) remote: SocketAddr,
    pub(crate) thread: LaneThread,
    pub(crate) room: LaneRoom,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) now: Instant,
}

impl TcpLane {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            number: parts.number,
            dialled: parts.dialled,
            remote: parts.remote,
            thread: parts.thread,
            book: Book::default(),
            traffic: parts.traffic,
            // Who dialled has heard of the other end.
            in_use: AtomicBool::new(parts.dialled),
            wanted: AtomicBool::new(false),
            held_back: AtomicBool::new(false),
            half_way: AtomicBool::new(false),
            end: CancellationToken::new(),
            counted: Mutex::new((0, 0)),
            moved: Mutex::new(parts.now),
            _room: parts.room,
        }
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    pub(crate) fn dialled(&self) -> bool {
        self.dialled
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) fn thread(&self) -> &LaneThread {
        &self.thread
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Sends a piece; none where the session ended before it was heard of.
    pub(crate) async fn send(&self, head: PieceHead, payload: Bytes) -> Option<Outcome> {
        let (outcome, receiver) = oneshot::channel();
        self.book.send(Job { head, payload, outcome });
        receiver.await.ok()
    }

    /// Whether pieces of this end go by it.
    pub(crate) fn carries(&self) -> bool {
        self.wanted.load(Relaxed) && self.in_use.load(Relaxed) && !self.end.is_cancelled()
    }

    /// Has this end's pieces go by it, or by QUIC from the next one on.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Relaxed);
    }

    /// Ends it; pieces that the peer did not take go by QUIC.
    pub(crate) fn leave(&self) {
        self.end.cancel();
    }

    /// The peer says that the lane is over, and how much it took.
    pub(crate) fn peer_ended(&self, took: u64) -> Result<(), crate::frames::Malformed> {
        self.book.peer_ended(took)?;
        self.leave();
        Ok(())
    }

    /// The session is over: the peer says nothing more of what is under way.
    pub(crate) fn forget(&self) {
        self.leave();
        self.book.forget();
    }

    /// Whether it is over, and it is known of every piece what became of it.
    pub(crate) fn is_settled(&self) -> bool {
        self.book.is_settled()
    }

    /// What was moved since the last call, as of a connection of QUIC.
    pub(crate) fn count(&self) -> Counted {
        let now = (self.traffic.sent(), self.traffic.received());
        let before = std::mem::replace(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner), now);
        let sent = now.0.saturating_sub(before.0);
        Counted {
            sent,
            heads: sent.div_ceil(SEGMENT) * SEGMENT_HEADS,
            received: now.1.saturating_sub(before.1),
            lost: 0,
        }
    }

    /// How long no piece was under way in either direction.
    pub(crate) fn unused_for(&self, moved: &Counted, now: Instant) -> Duration {
        let mut last = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.sent + moved.received > 0 || self.book.under_way() > 0 {
            *last = now;
        }
        now.saturating_duration_since(*last)
    }
}

/// What is used of the connection once the greeting is over.
pub(crate) fn grow(stream: &mut TlsStream<Socket>, room: &LaneRoom) {
    room.resize(READ_AHEAD, 0, |bytes| {
        stream.get_mut().0.read_ahead(usize::try_from(bytes).unwrap_or(0));
    });
}
