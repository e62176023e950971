//! One UDP port.

use std::{io, net::SocketAddr, time::Duration};

use dataplane_identity::Identity;
use foundation_runtime::{Clock, TaskGroup};
use proto_model::{ByteCount, PublicKey};

use crate::{Channel, Limits, Session, SettingsError, TransportSettings};

/// What an endpoint is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address; `[::]` means all addresses, also where the host has no IPv6.
    pub listen: SocketAddr,
    /// Sockets on the port, each with its thread: 0 for half the processors, at most 4.
    pub sockets: usize,
    /// Who this node is, and whom it trusts.
    pub identity: Identity,
    /// What can be changed later.
    pub settings: TransportSettings,
    /// What bounds the process.
    pub limits: Limits,
}

/// One UDP port of a node. Clones are the same port.
#[derive(Clone, Debug)]
pub struct Endpoint {}

/// A channel that a peer opened.
#[derive(Debug)]
pub struct IncomingChannel {
    /// The channel, with the peer's key.
    pub channel: Channel,
    /// Where the peer is seen.
    pub remote: SocketAddr,
}

/// How much of the receive budget is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// The budget.
    pub budget: ByteCount,
    /// Promised to peers, arriving, or held by who reads.
    pub promised: ByteCount,
}

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has it.
    #[error("UDP port {} is in use by another process; stop it, or give another --quic-listen", .0.port())]
    InUse(SocketAddr),
    /// The system refuses.
    #[error("cannot open UDP {listen}")]
    Io {
        /// The address.
        listen: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// The settings contradict one another.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The identity cannot be used for TLS.
    #[error("the node's identity cannot be used for TLS")]
    Tls(#[from] rustls::Error),
}

/// Why there is no session with a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The roster does not have the peer.
    #[error("the roster has no member with this key")]
    NotAMember,
    /// It is this node itself.
    #[error("a node does not dial itself")]
    Oneself,
    /// No address is known, and the peer has not dialled.
    #[error("no address of the peer is known")]
    NoAddress,
    /// None of the addresses led to the peer.
    #[error("the peer was not reached: {}", attempts(.0))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// The peer was reached, and refuses this node.
    #[error("the peer refuses this node: {0}")]
    Refused(String),
    /// This node shuts down.
    #[error("this node shuts down")]
    Shutdown,
}

impl DialError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NotAMember | Self::Oneself | Self::Refused(_) | Self::Shutdown => false,
            Self::NoAddress | Self::Unreachable(_) => true,
        }
    }
}

fn attempts(attempts: &[(SocketAddr, String)]) -> String {
    attempts.iter().map(|(address, reason)| format!("{address}: {reason}")).collect::<Vec<_>>().join("; ")
}

impl Endpoint {
    /// Opens the port. Its tasks and threads end with `tasks`.
    ///
    /// # Errors
    /// See [`BindError`].
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn bind(options: Options, clock: Clock, tasks: TaskGroup) -> Result<Self, BindError> {
        let _ = (clock, tasks);
        Err(BindError::InUse(options.listen))
    }

    /// The address, with the port that was chosen where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        unreachable!("there is no endpoint yet")
    }

    /// The session with a peer: the one there is, or a new one over the first of these addresses that answers. Callers at
    /// the same time share one dialling.
    ///
    /// # Errors
    /// See [`DialError`].
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn session(&self, peer: PublicKey, addresses: &[SocketAddr]) -> Result<Session, DialError> {
        let _ = (peer, addresses);
        Err(DialError::NoAddress)
    }

    /// The session with a peer, if there is one.
    #[must_use]
    pub fn present_session(&self, peer: &PublicKey) -> Option<Session> {
        let _ = peer;
        None
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        Vec::new()
    }

    /// The next channel that a peer opened; `None` when the endpoint has shut down. Cancel safe. At most 64 wait here; a
    /// peer that opens one more is told that this node is busy.
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn next_channel(&self) -> Option<IncomingChannel> {
        None
    }

    /// Changes the settings, live: streams in all sessions, lanes in those that are dialled from now on.
    ///
    /// # Errors
    /// The settings contradict one another; the old ones stay.
    pub fn retune(&self, settings: TransportSettings) -> Result<(), SettingsError> {
        settings.check()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> TransportSettings {
        TransportSettings::default()
    }

    /// How much of the receive budget is used.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        MemoryUse { budget: ByteCount::new(0), promised: ByteCount::new(0) }
    }

    /// Closes all sessions with a word to their peers, waits for that up to `grace`, and gives the port back.
    #[allow(clippy::unused_async, reason = "the signature comes first")]
    pub async fn shutdown(&self, grace: Duration) {
        let _ = grace;
    }
}
