//! A conversation in a session.

use bytes::Bytes;
use proto_model::PublicKey;

use crate::Closed;

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
pub struct ControlSender {}

/// Receives control frames in order.
#[derive(Debug)]
pub struct ControlReceiver {}

/// Sends pieces. Clones send on the same channel.
#[derive(Clone, Debug)]
pub struct PieceSender {}

/// Receives pieces, in any order.
#[derive(Debug)]
pub struct PieceReceiver {}

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
    /// Sends a frame; waits while the other end does not read. Not cancel safe: a frame whose sending was dropped may
    /// still arrive, whole, or not at all; the channel stays usable.
    ///
    /// # Errors
    /// See [`ControlError`].
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), ControlError> {
        Err(ControlError::TooLarge(frame.len()))
    }

    /// Ends the stream of frames; the other end's [`ControlReceiver::recv`] gives `None` after the last one.
    pub fn finish(self) {}
}

impl ControlReceiver {
    /// The next frame; `None` when the other end finished. Cancel safe.
    ///
    /// # Errors
    /// See [`ControlError`].
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn recv(&mut self) -> Result<Option<Bytes>, ControlError> {
        Ok(None)
    }
}

impl PieceSender {
    /// Sends a piece: waits for credit from the receiver and for a free stream, and resolves when the peer's QUIC has
    /// acknowledged all of it. Call it as often at once as pieces should be under way. Dropped half-way, the piece is
    /// withdrawn or arrives whole.
    ///
    /// # Errors
    /// See [`SendError`]. After an error of the session the piece may have arrived.
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn send(&self, number: u64, payload: Bytes) -> Result<(), SendError> {
        let _ = number;
        Err(SendError::TooLarge(payload.len()))
    }
}

impl PieceReceiver {
    /// The next piece that has arrived; `None` when the channel or its session is over. Cancel safe.
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn recv(&mut self) -> Option<Piece> {
        None
    }
}
