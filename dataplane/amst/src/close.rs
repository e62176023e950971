//! Why a session ended.

use std::fmt;

use quinn::{TransportErrorCode, VarInt};

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
    /// Whether dialling again may help; where it is this node that shuts down, once it is back.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self.reason {
            CloseReason::LocalShutdown
            | CloseReason::PeerShutdown
            | CloseReason::TimedOut
            | CloseReason::PeerRestarted
            | CloseReason::Unused
            | CloseReason::Lost(_) => true,
            CloseReason::Revoked | CloseReason::NotAMember | CloseReason::Protocol(_) => false,
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

/// What one end tells the other when it closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// It shuts down.
    Shutdown,
    /// Its roster does not have the other.
    NotAMember,
    /// The other broke the protocol.
    Protocol,
    /// The session was not used.
    Unused,
    /// No room for the session.
    Busy,
    /// It noticed that the other, or the connection, was gone.
    Gone,
    /// Not the session ends, but one of its lanes, of which both were done.
    LaneEnd,
}

impl Code {
    pub(crate) fn of(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::LocalShutdown | CloseReason::PeerShutdown => Self::Shutdown,
            CloseReason::Revoked | CloseReason::NotAMember => Self::NotAMember,
            CloseReason::Protocol(_) => Self::Protocol,
            CloseReason::Unused => Self::Unused,
            CloseReason::TimedOut | CloseReason::PeerRestarted | CloseReason::Lost(_) => Self::Gone,
        }
    }

    /// By the number on the wire; an unknown one is as good as a loss.
    pub(crate) fn read(code: VarInt) -> Self {
        match code.into_inner() {
            0 => Self::Shutdown,
            1 => Self::NotAMember,
            2 => Self::Protocol,
            3 => Self::Unused,
            4 => Self::Busy,
            6 => Self::LaneEnd,
            _ => Self::Gone,
        }
    }

    /// What it means to the end that is told.
    pub(crate) fn as_reason(self, words: &[u8]) -> CloseReason {
        match self {
            Self::Shutdown => CloseReason::PeerShutdown,
            Self::NotAMember => CloseReason::NotAMember,
            Self::Protocol => CloseReason::Protocol(proto_model::escape(words)),
            Self::Unused => CloseReason::Unused,
            Self::Busy => CloseReason::Lost("the peer has no room for a further session".to_owned()),
            Self::Gone => CloseReason::Lost("the peer lost the connection".to_owned()),
            // Where it was agreed on, nobody asks.
            Self::LaneEnd => CloseReason::Protocol("a lane ended that was in use".to_owned()),
        }
    }

    /// In words, for whoever looks at packets.
    pub(crate) fn words(self) -> &'static [u8] {
        match self {
            Self::Shutdown => b"shutting down",
            Self::NotAMember => b"not a member",
            Self::Protocol => b"protocol broken",
            Self::Unused => b"unused",
            Self::Busy => b"busy",
            Self::Gone => b"gone",
            Self::LaneEnd => b"lane retired",
        }
    }

    /// Whether QUIC's own code says that the peer refused our certificate: 0x100 and a TLS alert about certificates, or about the signature
    /// in one (RFC 8446 6.2).
    pub(crate) fn is_certificate_refusal(code: TransportErrorCode) -> bool {
        /// What a certificate of another CA of the same name gets.
        const DECRYPT_ERROR: u64 = 51;
        u64::from(code).checked_sub(0x100).is_some_and(|alert| matches!(alert, 42..=49 | DECRYPT_ERROR))
    }
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(match code {
            Code::Shutdown => 0,
            Code::NotAMember => 1,
            Code::Protocol => 2,
            Code::Unused => 3,
            Code::Busy => 4,
            Code::Gone => 5,
            Code::LaneEnd => 6,
        })
    }
}
