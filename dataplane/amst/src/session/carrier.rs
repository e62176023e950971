//! What carries a piece to the peer: a stream of its own on one of the session's lanes, which are QUIC connections, or the lane over TCP
//! where there is one that pays.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{SendStream, StoppedError, WriteError};

use super::{Lane, Session, lane::LanePick};
use crate::{
    SendError,
    frames::PieceHead,
    lane_thread::LaneThread,
    rate::Limiter,
    tcp::{Outcome, TcpLane},
    telemetry::{self, StreamError},
};

/// Chosen for one piece, and counted in until it is dropped.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A stream on this lane.
    Quic(LanePick),
    /// The lane over TCP, one piece after the other.
    Tcp(Arc<TcpLane>),
}

impl Carrier {
    /// Where its work is done.
    pub(super) fn thread(&self) -> &LaneThread {
        match self {
            Self::Quic(lane) => &lane.0.thread,
            Self::Tcp(lane) => lane.thread(),
        }
    }

    /// Sends a piece whose memory the peer has promised, and whose turn it is, where it goes by a stream.
    pub(super) async fn send(&self, session: &Session, head: PieceHead, payload: Bytes) -> Result<Outcome, SendError> {
        match self {
            Self::Quic(lane) => by_stream(session, &lane.0, head, payload).await,
            // What the peer took is said on the session: once that is over nothing more is heard of the piece.
            Self::Tcp(lane) => tokio::select! {
                biased;
                outcome = lane.send(head, payload) => outcome.ok_or_else(|| SendError::Session(session.reason())),
                closed = session.wait_closed() => Err(SendError::Session(closed)),
            },
        }
    }
}

impl Session {
    /// What is to carry the next piece; none once the session is over.
    pub(super) fn pick_carrier(&self) -> Option<Carrier> {
        self.tcp_lane_for_pieces().map(Carrier::Tcp).or_else(|| self.pick_lane().map(Carrier::Quic))
    }

    /// So many bytes of a piece are handed over together now: little, where a slow bound concerns the session.
    pub(crate) fn slice(&self) -> usize {
        self.limiters().iter().map(Limiter::slice).min().unwrap_or(usize::MAX)
    }
}

async fn by_stream(session: &Session, lane: &Lane, head: PieceHead, payload: Bytes) -> Result<Outcome, SendError> {
    let lost = |error| {
        telemetry::stream_error(StreamError::ConnectionLost);
        SendError::Session(session.lost(&error))
    };
    let mut stream = lane.connection.open_uni().await.map_err(lost)?;
    // Only a stream that is over has none.
    drop(stream.set_priority(lane.next_priority()));
    let written = write(session, &mut stream, head.encode(), payload).await;
    let stopped = match written {
        Ok(()) => {
            // Only a stream that the peer stopped cannot be finished, and that shows next.
            drop(stream.finish());
            match stream.stopped().await {
                Ok(stopped) => stopped,
                Err(StoppedError::ConnectionLost(error)) => return Err(lost(error)),
                Err(StoppedError::ZeroRttRejected) => return Err(SendError::Session(session.reason())),
            }
        }
        Err(WriteError::Stopped(code)) => Some(code),
        Err(WriteError::ConnectionLost(error)) => return Err(lost(error)),
        Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
            return Err(SendError::Session(session.reason()));
        }
    };
    let Some(code) = stopped else { return Ok(Outcome::Taken) };
    // What of it waits here is not sent any more. A stream that is over has nothing left.
    drop(stream.reset(code));
    Ok(Outcome::NotWanted)
}

/// Writes a piece, as fast as the bounds of what is sent allow.
async fn write(session: &Session, stream: &mut SendStream, head: Bytes, mut payload: Bytes) -> Result<(), WriteError> {
    let mut head = Some(head);
    loop {
        // Anew each time: a bound may have been lowered far since the piece began.
        let part = payload.split_to(session.slice().min(payload.len()));
        session.pass(part.len()).await;
        match head.take() {
            Some(head) => stream.write_all_chunks(&mut [head, part]).await?,
            None => stream.write_chunk(part).await?,
        }
        if payload.is_empty() {
            return Ok(());
        }
    }
}
