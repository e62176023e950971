//! Pieces on the wire: one unidirectional stream each, a head of 20 bytes and the payload.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use foundation_runtime::OnEnd;
use futures::FutureExt;
use quinn::{ReadError, ReadExactError, RecvStream, VarInt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{ChannelState, Lane, Session, carrier::Carrier, lane_end::Receiving};
use crate::{
    CloseReason, MAX_PIECE, Piece, SendError,
    budget::{SendRoom, cost},
    frames::{PIECE_HEAD, PieceHead},
    pool::Buffer,
    slots::Slot,
    tcp::Outcome,
    telemetry::{self, StreamError, StreamGauge},
};

/// With what code a receiver stops a stream whose piece nobody wants.
const NOT_WANTED: VarInt = VarInt::from_u32(1);

/// Sends a piece; see [`crate::PieceSender::send`].
pub(crate) async fn send_piece(
    session: &Session,
    channel: &Arc<ChannelState>,
    number: u64,
    payload: Bytes,
) -> Result<(), SendError> {
    let bytes = payload.len();
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_PIECE).ok_or(SendError::TooLarge(bytes))?;
    let price = u32::try_from(cost(length)).map_err(|_longer| SendError::TooLarge(bytes))?;
    let ended = || session.closed().map_or(SendError::NotWanted, SendError::Session);
    let waiting = channel.for_credit.wait();
    let credit = channel.credit.acquire_many(price).await.map_err(|_closed| ended())?;
    drop(waiting);
    let slot = session.slots().acquire(channel.id).await.ok_or_else(ended)?;
    let room = session.send_room(u64::from(price)).await.ok_or_else(ended)?;
    let carrier = session.pick_carrier().ok_or_else(ended)?;
    credit.forget();
    // From its first byte on the piece goes whole, even if the caller leaves: the receiver has promised memory for it. It goes on
    // the lane's own thread, so that nobody elsewhere has to be woken for each packet.
    let thread = carrier.thread().clone();
    let (answer, answered) = oneshot::channel();
    let asked = CancellationToken::new();
    let _until_the_caller_leaves = asked.clone().drop_guard();
    let head = PieceHead { channel: channel.id, number, length };
    let work = carry(session.clone(), Arc::clone(channel), (carrier, slot, room), (head, payload), asked);
    thread.enter(|| {
        session.shared().tasks.spawn("amst send", OnEnd::Expected, async move {
            // Who asked may have gone.
            drop(answer.send(work.await));
        });
    });
    answered.await.unwrap_or_else(|_aborted| Err(ended()))
}

async fn carry(
    session: Session,
    channel: Arc<ChannelState>,
    (carrier, _slot, _room): (Carrier, Slot, SendRoom),
    (head, payload): (PieceHead, Bytes),
    asked: CancellationToken,
) -> Result<(), SendError> {
    // On the lane over TCP one goes after the other anyway.
    let turn = match &carrier {
        Carrier::Quic(_) => asked.run_until_cancelled(session.turn(channel.id)).await,
        Carrier::Tcp(_) => Some(None).filter(|_| !asked.is_cancelled()),
    };
    let Some(_turn) = turn else {
        // Nothing of it was sent, and nobody waits for it any more.
        channel.give_back(head.length);
        return Err(SendError::NotWanted);
    };
    let _open = StreamGauge::sending(session.shared());
    let mut outcome = carrier.send(&session, head, payload.clone()).await?;
    if outcome == Outcome::Back {
        // The lane over TCP is over, and the peer does not have the piece: its credit holds for another way.
        let lane = session.pick_lane().map(Carrier::Quic).ok_or_else(|| SendError::Session(session.reason()))?;
        drop(carrier);
        let _turn = session.turn(channel.id).await;
        outcome = lane.send(&session, head, payload).await?;
    }
    match outcome {
        Outcome::Taken => Ok(()),
        Outcome::NotWanted => {
            telemetry::stream_error(StreamError::NotWanted);
            Err(session.closed().map_or(SendError::NotWanted, SendError::Session))
        }
        Outcome::Back => Err(SendError::Session(session.reason())),
    }
}

/// Takes the pieces of a lane, until the session ends.
pub(super) async fn accept(session: Session, lane: Arc<Lane>) {
    // How many there are at once is bounded by the transport's limit on streams.
    loop {
        let stream = tokio::select! {
            biased;
            stream = lane.connection.accept_uni() => stream,
            // All that will ever come was taken up before.
            () = lane.end.peer_retired() => return lane.end.accepted(),
        };
        let Ok(stream) = stream else { return };
        lane.carry();
        let (session, reading) = (session.clone(), Receiving::begin(&lane));
        let lane = Arc::clone(&lane);
        session.clone().shared().tasks.spawn("amst receive", OnEnd::Expected, async move {
            let _open = StreamGauge::receiving(session.shared());
            if let Err(fault) = receive(&session, (&lane, reading), stream).await {
                session.fault(fault);
            }
        });
    }
}

impl Session {
    /// Counts why a piece did not arrive, and draws the consequence.
    pub(crate) fn fault(&self, fault: Fault) {
        match fault {
            Fault::Ended => telemetry::stream_error(StreamError::ConnectionLost),
            Fault::Stalled => {
                telemetry::stream_error(StreamError::Stalled);
                self.close(CloseReason::Lost("a stream stalled".to_owned()));
            }
            Fault::Protocol(error) => {
                telemetry::stream_error(error);
                self.close(CloseReason::Protocol(error.as_str().to_owned()));
            }
        }
    }
}

/// Why a piece did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ended.
    Ended,
    /// Nothing came for the read time-out.
    Stalled,
    /// The peer did what it must not.
    Protocol(StreamError),
}

async fn receive(session: &Session, (lane, reading): (&Lane, Receiving), mut stream: RecvStream) -> Result<(), Fault> {
    let patience = session.shared().settings().read_timeout;
    let mut head = [0; PIECE_HEAD];
    within(patience, stream.read_exact(&mut head)).await?.map_err(|error| match error {
        ReadExactError::FinishedEarly(_) => Fault::Protocol(StreamError::Truncated),
        ReadExactError::ReadError(error) => fault(&error),
    })?;
    let head = PieceHead::decode(&head);
    let Some(mut place) = Place::find(session, head)? else { return not_wanted(stream) };
    let (gone, channel) = (place.gone(), Arc::clone(&place.promise.channel));
    let read = read_unordered(&mut stream, place.as_mut(), patience, &channel.arrived);
    // What nobody wants any more is not sent to its end.
    let Some(read) = gone.run_until_cancelled(read).await else { return not_wanted(stream) };
    read?;
    lane.read.fetch_add(u64::from(head.length), Ordering::Relaxed);
    drop(reading);
    let (pieces, piece) = place.whole();
    // A reader that has gone wants no more.
    drop(pieces.send(piece).await);
    Ok(())
}

/// Fills `buffer` with what stands after the head, in whatever order it comes: waiting for lost packets would cost memory in
/// quinn for all that came after them.
async fn read_unordered(
    stream: &mut RecvStream,
    buffer: &mut [u8],
    patience: Duration,
    arrived: &AtomicU64,
) -> Result<(), Fault> {
    let mut missing = buffer.len();
    // In order as far as it goes: what came twice before the head was read stands in quinn twice, only reading in order drops it,
    // and quinn, once it has given a byte twice, subtracts below zero.
    let mut ordered = true;
    loop {
        let chunk = if ordered {
            let Some(chunk) = stream.read_chunk(usize::MAX, true).now_or_never() else {
                ordered = false;
                continue;
            };
            chunk
        } else {
            within(patience, stream.read_chunk(usize::MAX, false)).await?
        };
        let Some(chunk) = chunk.map_err(|error| fault(&error))? else { break };
        let begin = usize::try_from(chunk.offset).ok().and_then(|offset| offset.checked_sub(PIECE_HEAD));
        let place = begin.and_then(|begin| buffer.get_mut(begin..begin + chunk.bytes.len()));
        place.ok_or(Fault::Protocol(StreamError::TooLarge))?.copy_from_slice(&chunk.bytes);
        arrived.fetch_add(u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        // quinn gives every byte once.
        missing = missing.saturating_sub(chunk.bytes.len());
    }
    if missing == 0 { Ok(()) } else { Err(Fault::Protocol(StreamError::Truncated)) }
}

fn not_wanted(mut stream: RecvStream) -> Result<(), Fault> {
    telemetry::stream_error(StreamError::NotWanted);
    // A stream that is over needs no stopping.
    drop(stream.stop(NOT_WANTED));
    Ok(())
}

async fn within<T>(patience: Duration, future: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::time::timeout(patience, future).await.map_err(|_elapsed| Fault::Stalled)
}

fn fault(error: &ReadError) -> Fault {
    match error {
        ReadError::Reset(_) => Fault::Protocol(StreamError::Truncated),
        ReadError::ConnectionLost(_)
        | ReadError::ClosedStream
        | ReadError::IllegalOrderedRead
        | ReadError::ZeroRttRejected => Fault::Ended,
    }
}

/// Where a piece arrives: memory that was promised for it.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    pieces: mpsc::Sender<Piece>,
    buffer: Buffer,
    promise: Promise,
}

impl Place {
    /// Where the piece with this head is to arrive; none where nobody wants it.
    pub(crate) fn find(session: &Session, head: PieceHead) -> Result<Option<Self>, Fault> {
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        if length > MAX_PIECE {
            return Err(Fault::Protocol(StreamError::TooLarge));
        }
        let Some(channel) = session.channel(head.channel) else { return Ok(None) };
        let price = cost(head.length);
        let admitted = channel.admit(price).map_err(|_over| Fault::Protocol(StreamError::NoCredit))?;
        let Some(pieces) = admitted else { return Ok(None) };
        let promise = Promise { session: session.clone(), channel, cost: price, comes_again: false };
        let buffer = session.shared().pool.take(length);
        Ok(Some(Self { number: head.number, pieces, buffer, promise }))
    }

    /// Dropped before it is whole, the piece comes again for the same credit.
    pub(crate) fn or_again(mut self) -> Self {
        self.promise.comes_again = true;
        self
    }

    /// Cancelled when nobody takes it any more.
    fn gone(&self) -> CancellationToken {
        self.promise.channel.gone.clone()
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut()
    }

    /// So much of it has arrived.
    pub(crate) fn count(&self, bytes: usize) {
        self.promise.channel.arrived.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// All of it was written: the piece, and who is to have it.
    pub(crate) fn whole(mut self) -> (mpsc::Sender<Piece>, Piece) {
        self.promise.comes_again = false;
        let payload = Bytes::from_owner(Arrived { buffer: self.buffer, _promise: self.promise });
        (self.pieces, Piece { number: self.number, payload })
    }
}

/// Memory that was promised, until dropped.
struct Promise {
    session: Session,
    channel: Arc<ChannelState>,
    cost: u64,
    comes_again: bool,
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.comes_again {
            Session::withdraw(&self.channel, self.cost);
        } else {
            self.session.release(&self.channel, self.cost);
        }
    }
}

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise").field("cost", &self.cost).finish_non_exhaustive()
    }
}

/// A payload with the promise that it fulfils.
#[derive(Debug)]
struct Arrived {
    buffer: Buffer,
    _promise: Promise,
}

impl AsRef<[u8]> for Arrived {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}
