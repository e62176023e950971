//! What carries a piece to the peer. Today it is a stream of its own on one of the session's lanes, which are QUIC connections; whoever
//! sends knows only that it was taken, or is not wanted.

use bytes::Bytes;
use quinn::{SendStream, StoppedError, WriteError};

use super::{Lane, Session, lane::LanePick};
use crate::{
    SendError,
    frames::PieceHead,
    lane_thread::LaneThread,
    rate::Limiter,
    telemetry::{self, StreamError},
};

/// Chosen for one piece, and counted in until it is dropped.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A stream on this lane.
    Quic(LanePick),
}

/// What became of a piece that went whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The peer has all of it.
    Taken,
    /// The peer's channel takes no more pieces.
    NotWanted,
}

impl Carrier {
    /// Where its work is done.
    pub(super) fn thread(&self) -> &LaneThread {
        match self {
            Self::Quic(lane) => &lane.0.thread,
        }
    }

    /// Sends a piece whose memory the peer has promised.
    pub(super) async fn send(&self, session: &Session, head: PieceHead, payload: Bytes) -> Result<Delivery, SendError> {
        match self {
            Self::Quic(lane) => by_stream(session, &lane.0, head, payload).await,
        }
    }
}

impl Session {
    /// What is to carry the next piece; none once the session is over.
    pub(super) fn pick_carrier(&self) -> Option<Carrier> {
        self.pick_lane().map(Carrier::Quic)
    }

    /// So many bytes of a piece are handed over together now: little, where a slow bound concerns the session.
    pub(super) fn slice(&self) -> usize {
        self.limiters().iter().map(Limiter::slice).min().unwrap_or(usize::MAX)
    }
}

async fn by_stream(
    session: &Session,
    lane: &Lane,
    head: PieceHead,
    payload: Bytes,
) -> Result<Delivery, SendError> {
    let lost = |error| {
        telemetry::stream_error(StreamError::ConnectionLost);
        SendError::Session(session.lost(&error))
    };
    let mut stream = lane.connection.open_uni().await.map_err(lost)?;
    // Only a stream that is over has none.
    drop(stream.set_priority(lane.next_priority()));
    let written = write(session, head.channel, &mut stream, head.encode(), payload).await;
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
    Ok(stopped.map_or(Delivery::Taken, |_code| Delivery::NotWanted))
}

/// Writes a piece, as fast as the bounds of what is sent allow.
async fn write(
    session: &Session,
    channel: u64,
    stream: &mut SendStream,
    head: Bytes,
    mut payload: Bytes,
) -> Result<(), WriteError> {
    let _turn = session.turn(channel).await;
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
