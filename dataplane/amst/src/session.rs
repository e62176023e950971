//! All there is between two nodes.

use std::{net::SocketAddr, time::Duration};

use proto_model::PublicKey;

use crate::{Channel, Closed};

/// A session with a peer. Clones are the same session; it goes on while anybody uses it.
#[derive(Clone, Debug)]
pub struct Session {}

/// What a session is made of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Who is at the other end.
    pub peer: PublicKey,
    /// Where, as it is seen from here.
    pub remote: SocketAddr,
    /// Whether this end dialled.
    pub dialled: bool,
    /// QUIC connections.
    pub lanes: usize,
    /// Streams of pieces that it may send at once.
    pub streams: usize,
    /// What runs, whatever was asked for.
    pub congestion_algorithm: &'static str,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Bytes of a datagram that the path takes.
    pub mtu: u16,
    /// UDP bytes sent, of all lanes.
    pub bytes_sent: u64,
    /// UDP bytes received, of all lanes.
    pub bytes_received: u64,
    /// Bytes that were declared lost and sent again.
    pub bytes_lost: u64,
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

/// Why a ping was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Too many at once.
    #[error("too many pings at once")]
    Busy,
    /// The session is over.
    #[error(transparent)]
    Session(#[from] Closed),
}

impl Session {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> PublicKey {
        self.info().peer
    }

    /// Opens a channel; resolves when the other end has taken it.
    ///
    /// # Errors
    /// See [`OpenChannelError`].
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn open_channel(&self) -> Result<Channel, OpenChannelError> {
        Err(OpenChannelError::Busy)
    }

    /// Asks the peer's program for an answer, and measures how long that takes.
    ///
    /// # Errors
    /// See [`PingError`].
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn ping(&self) -> Result<Duration, PingError> {
        Err(PingError::Busy)
    }

    /// What the session is made of now.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        unreachable!("there is no session yet")
    }

    /// Why it is over, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        None
    }

    /// Waits for its end. Cancel safe.
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn wait_closed(&self) -> Closed {
        std::future::pending().await
    }
}
