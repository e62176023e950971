//! A conversation in a session.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::{Buf, Bytes, BytesMut};
use proto_model::PublicKey;
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::sync::mpsc;

use crate::{
    CloseReason, Closed, MAX_CONTROL_FRAME, Session,
    budget::ControlRoom,
    frames::{ChannelOpened, MAX_FRAME, Malformed},
    session::{ChannelState, send_piece},
};

/// One conversation: ordered control frames and unordered pieces, both ways. Its parts may be used by different tasks.
#[derive(Debug)]
pub struct Channel {
    /// Who is at the other end, by the handshake.
    pub peer: PublicKey,
    /// Sends control frames; dropped, the other end's receiver ends.
    pub control_tx: ControlSender,
    /// Receives control frames.
    pub control_rx: ControlReceiver,
    /// Sends pieces.
    pub pieces_tx: PieceSender,
    /// Receives pieces; dropped, the other end's sends fail.
    pub pieces_rx: PieceReceiver,
}

/// Sends control frames in order.
#[derive(Debug)]
pub struct ControlSender {
    session: Session,
    stream: SendStream,
    /// What is left of a frame; also of one whose sending was dropped half-way.
    pending: Vec<Bytes>,
}

/// Receives control frames in order.
#[derive(Debug)]
pub struct ControlReceiver {
    session: Session,
    stream: RecvStream,
    /// What came of frames that were not given out yet: at most one frame and what one read gives.
    buffer: BytesMut,
    /// Whether the other end has yet to take the channel, and until when it may.
    unopened: Option<(Arc<ChannelState>, Instant)>,
    /// For what lies there.
    _room: ControlRoom,
}

/// Sends pieces. Clones send on the same channel.
#[derive(Clone, Debug)]
pub struct PieceSender(Arc<SendingEnd>);

impl PieceSender {
    /// What pieces of this channel wait for, and how its session uses the path.
    #[must_use]
    pub fn path_use(&self) -> crate::PathUse {
        self.0.session.path_use(&self.0.channel)
    }

    /// Has each change of the session's streams and lanes said as an event of this span, as long as both live; first of all how many there are.
    pub fn tell(&self, span: &tracing::Span) {
        self.0.session.tell(&self.0.channel, span);
    }
}

/// Our sending end, until the last clone is dropped.
#[derive(Debug)]
struct SendingEnd {
    session: Session,
    channel: Arc<ChannelState>,
}

/// Receives pieces, in any order.
#[derive(Debug)]
pub struct PieceReceiver {
    session: Session,
    channel: Arc<ChannelState>,
    pieces: mpsc::Receiver<Piece>,
}

/// What has arrived on a channel.
#[derive(Clone, Debug)]
pub struct Arrivals(Arc<ChannelState>);

impl Arrivals {
    /// Bytes of payload so far, of pieces that are not whole too.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.arrived.load(Ordering::Relaxed)
    }
}

/// A piece that arrived whole. Its memory counts against the process's budget until the payload and all that was cut from
/// it are dropped.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The number that the sender gave it.
    pub number: u64,
    /// The bytes.
    pub payload: Bytes,
}

/// Why a control frame could not be sent or received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// It is larger than [`crate::MAX_CONTROL_FRAME`].
    #[error("a control frame of {0} bytes is too large")]
    TooLarge(usize),
    /// The other end gave the channel up, without finishing it.
    #[error("the other end gave the channel up")]
    Abandoned,
    /// The other end has no room for a further channel now, or does not answer.
    #[error("no room for a further channel now")]
    Busy,
    /// The session is over.
    #[error(transparent)]
    Session(#[from] Closed),
}

/// Why a piece could not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It is larger than [`crate::MAX_PIECE`].
    #[error("a piece of {0} bytes is too large")]
    TooLarge(usize),
    /// The other end takes no more pieces on this channel.
    #[error("the other end takes no more pieces")]
    NotWanted,
    /// The session is over.
    #[error(transparent)]
    Session(#[from] Closed),
}

impl ControlError {
    /// Whether the same on a new session may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::TooLarge(_) | Self::Abandoned => false,
            Self::Busy => true,
            Self::Session(closed) => closed.is_temporary(),
        }
    }
}

impl SendError {
    /// Whether the same on a new session may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::TooLarge(_) | Self::NotWanted => false,
            Self::Session(closed) => closed.is_temporary(),
        }
    }
}

impl ControlSender {
    pub(crate) fn new(session: Session, stream: SendStream) -> Self {
        Self { session, stream, pending: Vec::new() }
    }

    /// Sends a frame; waits while the other end does not read. Not cancel safe: a frame whose sending was dropped may
    /// arrive with the next one, whole, or not at all; the channel stays usable.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), ControlError> {
        let length = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= MAX_CONTROL_FRAME);
        let length = length.ok_or(ControlError::TooLarge(frame.len()))?;
        self.flush().await?;
        self.pending = vec![Bytes::copy_from_slice(&length.to_le_bytes()), Bytes::copy_from_slice(frame)];
        self.flush().await
    }

    /// Ends the stream of frames; the other end's [`ControlReceiver::recv`] gives `None` after the last one.
    pub fn finish(mut self) {
        // A stream that the other end stopped, or whose connection is over, needs no end.
        drop(self.stream.finish());
    }

    async fn flush(&mut self) -> Result<(), ControlError> {
        while !self.pending.is_empty() {
            // Cancel safe: what was written is gone from the list, and nothing else.
            let written = self.stream.write_chunks(&mut self.pending).await.map_err(|error| match error {
                WriteError::Stopped(_) => self.session.closed().map_or(ControlError::Abandoned, ControlError::Session),
                WriteError::ConnectionLost(error) => ControlError::Session(self.session.lost(&error)),
                WriteError::ClosedStream | WriteError::ZeroRttRejected => ControlError::Session(self.session.reason()),
            })?;
            self.pending.drain(..written.chunks);
        }
        Ok(())
    }
}

impl ControlReceiver {
    pub(crate) fn new(session: Session, stream: RecvStream, room: ControlRoom) -> Self {
        Self { session, stream, buffer: BytesMut::new(), unopened: None, _room: room }
    }

    /// The answer to the opening comes first.
    pub(crate) fn is_unopened(&mut self, channel: Arc<ChannelState>, until: Instant) {
        self.unopened = Some((channel, until));
    }

    /// The next frame; `None` when the other end finished. Cancel safe.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>, ControlError> {
        loop {
            if self.is_open()?
                && let Some(frame) = self.whole_frame()?
            {
                return Ok(Some(frame));
            }
            let until = self.unopened.as_ref().map(|(_, until)| *until);
            let read = self.stream.read_chunk(MAX_CONTROL_FRAME, true);
            let read = match until {
                Some(until) => tokio::time::timeout_at(until.into(), read).await.map_err(|_late| ControlError::Busy)?,
                None => read.await,
            };
            match read {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) | Err(ReadError::Reset(_)) => {
                    return Err(self.session.closed().map_or(ControlError::Abandoned, ControlError::Session));
                }
                Err(ReadError::ConnectionLost(error)) => return Err(self.session.lost(&error).into()),
                Err(ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => {
                    return Err(self.session.reason().into());
                }
            }
        }
    }

    /// Takes the answer to the opening, where it was not waited for.
    fn is_open(&mut self) -> Result<bool, ControlError> {
        let Some((channel, _)) = &self.unopened else { return Ok(true) };
        let Some(length) = self.buffer.first_chunk::<2>() else { return Ok(false) };
        let length = usize::from(u16::from_le_bytes(*length));
        let frame = match self.buffer.get(2..2 + length) {
            Some(frame) => ChannelOpened::decode(frame),
            None if length > MAX_FRAME => Err(Malformed),
            None => return Ok(false),
        };
        match frame {
            Ok(ChannelOpened::Taken { credit }) => channel.credit(credit),
            Ok(ChannelOpened::Busy) => return Err(ControlError::Busy),
            Err(error) => {
                self.session.close(CloseReason::Protocol(error.to_string()));
                return Err(self.session.reason().into());
            }
        }
        self.unopened = None;
        self.buffer.advance(2 + length);
        Ok(true)
    }

    fn whole_frame(&mut self) -> Result<Option<Bytes>, ControlError> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_CONTROL_FRAME {
            self.session.close(CloseReason::Protocol(format!("a control frame of {length} bytes")));
            return Err(self.session.reason().into());
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

impl PieceSender {
    pub(crate) fn new(session: Session, channel: Arc<ChannelState>) -> Self {
        Self(Arc::new(SendingEnd { session, channel }))
    }

    /// Sends a piece: waits for credit from the receiver and for a free stream, and resolves when the peer's QUIC has
    /// acknowledged all of it. Call it as often at once as pieces should be under way. Dropped before the piece has its
    /// stream, nothing is sent; dropped later, the piece arrives whole.
    ///
    /// # Errors
    /// See [`SendError`]. After an error of the session the piece may have arrived.
    pub async fn send(&self, number: u64, payload: Bytes) -> Result<(), SendError> {
        send_piece(&self.0.session, &self.0.channel, number, payload).await
    }

    /// The session that carries the channel.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.0.session
    }
}

impl Drop for SendingEnd {
    fn drop(&mut self) {
        self.session.sender_dropped(&self.channel);
    }
}

impl PieceReceiver {
    pub(crate) fn new(session: Session, channel: Arc<ChannelState>, pieces: mpsc::Receiver<Piece>) -> Self {
        Self { session, channel, pieces }
    }

    /// Counts what arrives, also while it is received.
    #[must_use]
    pub fn arrivals(&self) -> Arrivals {
        Arrivals(Arc::clone(&self.channel))
    }

    /// The next piece that has arrived; `None` when the session is over. Cancel safe.
    pub async fn recv(&mut self) -> Option<Piece> {
        self.pieces.recv().await
    }
}

impl Drop for PieceReceiver {
    fn drop(&mut self) {
        self.session.receiver_dropped(&self.channel);
    }
}
