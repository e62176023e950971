//! Why a session ended.

use std::fmt;

/// A session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is closed: {reason}")]
pub struct Closed {
    /// Why.
    pub reason: CloseReason,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// This end shuts down.
    LocalShutdown,
    /// The other end shuts down.
    PeerShutdown,
    /// Nothing was heard of the peer for too long.
    TimedOut,
    /// The peer started anew and knows nothing of this session.
    PeerRestarted,
    /// The roster has the peer no more.
    Revoked,
    /// The peer's roster does not have us.
    NotAMember,
    /// One end broke the protocol.
    Protocol(String),
    /// Nobody used it for long, or another session with the same peer took its place.
    Unused,
    /// The connection failed otherwise.
    Lost(String),
}

impl Closed {
    /// Whether dialling again may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self.reason {
            CloseReason::PeerShutdown
            | CloseReason::TimedOut
            | CloseReason::PeerRestarted
            | CloseReason::Unused
            | CloseReason::Lost(_) => true,
            CloseReason::LocalShutdown | CloseReason::Revoked | CloseReason::NotAMember | CloseReason::Protocol(_) => {
                false
            }
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalShutdown => f.write_str("this node shuts down"),
            Self::PeerShutdown => f.write_str("the peer shuts down"),
            Self::TimedOut => f.write_str("the peer has not been heard of"),
            Self::PeerRestarted => f.write_str("the peer started anew"),
            Self::Revoked => f.write_str("the roster has the peer no more"),
            Self::NotAMember => f.write_str("the peer does not take this node for a member of the fleet"),
            Self::Protocol(what) => write!(f, "the protocol was broken: {what}"),
            Self::Unused => f.write_str("it was not used"),
            Self::Lost(what) => write!(f, "the connection failed: {what}"),
        }
    }
}
