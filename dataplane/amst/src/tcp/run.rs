//! Drives one end of a lane over TCP: reads, writes, and looks whether anything moves.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use foundation_runtime::OnEnd;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::mpsc::error::TrySendError,
};
use tokio_rustls::TlsStream;

use super::{Outcome, Record, Socket, TcpLane, book::Work};
use crate::{
    CloseReason, MAX_PIECE, Session,
    frames::{PIECE_HEAD, PieceHead},
    session::{Fault, Place},
    telemetry::{self, StreamError, StreamGauge},
};

/// What is read at once of a piece that nobody wants.
const SKIP: usize = 16 * 1024;

/// Why an end of a lane is over.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    /// This end, or the session.
    Asked,
    /// The peer, between two pieces.
    HungUp,
    /// The connection.
    Broken(String),
    /// The peer broke the protocol.
    Protocol(&'static str),
    /// The same, in a piece.
    Piece(StreamError),
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Drives a lane until it is over, and says so.
pub(crate) async fn run(session: Session, lane: Arc<TcpLane>, stream: TlsStream<Socket>) {
    let cause = {
        let (reading, writing) = split(stream);
        tokio::select! {
            cause = read(&session, &lane, reading) => cause,
            cause = write(&session, &lane, writing) => cause,
            cause = watch(&session, &lane) => cause,
            () = lane.end.cancelled() => Cause::Asked,
            _closed = session.wait_closed() => Cause::Asked,
        }
    };
    // Nothing is read any more, so what was taken is final.
    lane.end.cancel();
    let taken = lane.book.end();
    match &cause {
        Cause::Asked | Cause::HungUp => {}
        Cause::Broken(reason) => {
            tracing::info!(peer = %session.peer().node_id(), remote = %lane.remote(), reason, "A lane over TCP broke");
        }
        Cause::Protocol(what) => session.close(CloseReason::Protocol((*what).to_owned())),
        Cause::Piece(error) => session.fault(Fault::Protocol(*error)),
    }
    session.tcp_lane_ended(&lane, taken, matches!(cause, Cause::Broken(_)));
}

async fn write(session: &Session, lane: &TcpLane, mut stream: WriteHalf<TlsStream<Socket>>) -> Cause {
    match write_all(session, lane, &mut stream).await {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

async fn write_all(
    session: &Session,
    lane: &TcpLane,
    stream: &mut WriteHalf<TlsStream<Socket>>,
) -> io::Result<std::convert::Infallible> {
    if lane.dialled() {
        stream.write_all(&Record::Use.encode()).await?;
    }
    loop {
        if session.goes_one_by_one() {
            lane.book.give_back();
        }
        match lane.book.try_next() {
            Some(Work::Answers(answers)) => stream.write_all(&answers).await?,
            Some(Work::Piece(head, mut payload)) => {
                stream.write_all(&Record::Piece(head).encode()).await?;
                loop {
                    // Anew each time: a bound may have been lowered far since the piece began.
                    let part = payload.split_to(session.slice().min(payload.len()));
                    lane.held_back.store(true, Relaxed);
                    session.pass(part.len()).await;
                    lane.held_back.store(false, Relaxed);
                    stream.write_all(&part).await?;
                    if payload.is_empty() {
                        break;
                    }
                }
            }
            None => {
                stream.flush().await?;
                lane.book.rings().await;
            }
        }
    }
}

async fn read(session: &Session, lane: &TcpLane, mut stream: ReadHalf<TlsStream<Socket>>) -> Cause {
    match read_all(session, lane, &mut stream).await {
        Ok(never) => match never {},
        Err(cause) => cause,
    }
}

async fn read_all(
    session: &Session,
    lane: &TcpLane,
    stream: &mut ReadHalf<TlsStream<Socket>>,
) -> Result<std::convert::Infallible, Cause> {
    const MALFORMED: Cause = Cause::Protocol("a malformed record on a lane over TCP");
    let mut body = [0; PIECE_HEAD];
    loop {
        let kind = match stream.read_u8().await {
            Ok(kind) => kind,
            // Nothing is half-way in either direction: a peer ends so what nobody uses.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && lane.book.under_way() == 0 => {
                return Err(Cause::HungUp);
            }
            Err(error) => return Err(error.into()),
        };
        let length = Record::body(kind).map_err(|_malformed| MALFORMED)?;
        stream.read_exact(&mut body[..length]).await?;
        match Record::decode(kind, &body[..length]).map_err(|_malformed| MALFORMED)? {
            Record::Use if lane.in_use.swap(true, Relaxed) => return Err(MALFORMED),
            Record::Use => {}
            Record::Piece(head) => {
                lane.half_way.store(true, Relaxed);
                let wanted = take(session, stream, head).await?;
                lane.half_way.store(false, Relaxed);
                lane.book
                    .answer(wanted)
                    .map_err(|_too_many| Cause::Protocol("it takes no answers on a lane over TCP"))?;
            }
            Record::Taken => lane.book.answered(Outcome::Taken).map_err(|_nothing| MALFORMED)?,
            Record::NotWanted => lane.book.answered(Outcome::NotWanted).map_err(|_nothing| MALFORMED)?,
        }
    }
}

/// Reads a piece; whether anybody wanted it.
async fn take(session: &Session, stream: &mut ReadHalf<TlsStream<Socket>>, head: PieceHead) -> Result<bool, Cause> {
    let _open = StreamGauge::receiving(session.shared());
    let place = match Place::find(session, head) {
        Ok(place) => place,
        Err(Fault::Protocol(error)) => return Err(Cause::Piece(error)),
        Err(Fault::Ended | Fault::Stalled) => return Err(Cause::Asked),
    };
    let Some(place) = place else {
        telemetry::stream_error(StreamError::NotWanted);
        skip(stream, head).await?;
        return Ok(false);
    };
    let mut place = place.or_again();
    let bytes = stream.read_exact(place.as_mut()).await?;
    place.count(bytes);
    let (pieces, piece) = place.whole();
    // A slow reader of one channel holds up no other: what it has not taken yet is bounded by its credit.
    if let Err(TrySendError::Full(piece)) = pieces.try_send(piece) {
        session.shared().tasks.spawn("amst tcp piece", OnEnd::Expected, async move {
            // A reader that has gone wants no more.
            drop(pieces.send(piece).await);
        });
    }
    Ok(true)
}

async fn skip(stream: &mut ReadHalf<TlsStream<Socket>>, head: PieceHead) -> io::Result<()> {
    let mut left = usize::try_from(head.length).unwrap_or(usize::MAX).min(MAX_PIECE);
    let mut scratch = vec![0; SKIP];
    while left > 0 {
        let part = left.min(SKIP);
        stream.read_exact(&mut scratch[..part]).await?;
        left -= part;
    }
    Ok(())
}

/// Finds out that nothing moves though it should: what was sent is not answered, or a piece does not go on.
async fn watch(session: &Session, lane: &TcpLane) -> Cause {
    let shared = session.shared();
    let silence = shared.limits.idle_timeout;
    let look = (silence / 8).clamp(Duration::from_millis(20), Duration::from_secs(1));
    let moved = || (lane.traffic.sent(), lane.traffic.received());
    let (mut before, mut since) = (moved(), shared.clock.now());
    loop {
        tokio::time::sleep(look).await;
        let now = shared.clock.now();
        let waits = lane.book.under_way() > 0 && !lane.held_back.load(Relaxed);
        let half_way = lane.half_way.load(Relaxed);
        if moved() != before || !(waits || half_way) {
            (before, since) = (moved(), now);
            continue;
        }
        let quiet = now.saturating_duration_since(since);
        let patience = if waits { silence } else { shared.settings().read_timeout };
        if quiet >= patience {
            if half_way {
                telemetry::stream_error(StreamError::Stalled);
            }
            return Cause::Broken(format!("nothing moves for {patience:?}"));
        }
    }
}
