//! Why an attempt, or the whole transfer, does not go on.

use std::io;

use proto_model::TransferError;
use proto_wire::{
    frames::{Abort, BadFrame},
    manifest::BadPage,
    piece::BadPiece,
};

use crate::{confine::Space, link::LinkError, reason::end};

/// Why this attempt ends without success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct Stop {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Whether another attempt may succeed.
    pub(crate) temporary: bool,
    /// Whether the other end already knows: it said so, or it is gone.
    pub(crate) known_there: bool,
}

impl Stop {
    /// For good.
    pub(crate) fn final_(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), temporary: false, known_there: false }
    }

    /// Until another attempt.
    pub(crate) fn temporary(reason: &str, message: impl Into<String>) -> Self {
        Self { temporary: true, ..Self::final_(reason, message) }
    }

    /// The peer does not keep to the protocol.
    pub(crate) fn violation(message: impl Into<String>) -> Self {
        Self::final_(end::PROTOCOL_VIOLATION, message)
    }

    /// This host's own folder or disk fails for good.
    pub(crate) fn local(what: &str, error: &io::Error) -> Self {
        Self::final_(end::LOCAL_FAILURE, format!("{what}: {error}"))
    }

    /// A file system fails. A full one is waited for: whoever frees some of it lets the transfer go on.
    pub(crate) fn of_file_system(what: &str, place: &'static str, space: Option<Space>, error: &io::Error) -> Self {
        if !is_full(error) {
            return Self::local(&format!("{what} cannot be used"), error);
        }
        metrics::counter!("dwcp_transfer_no_space_total", "where" => place).increment(1);
        let message = if space.is_some_and(|space| space.no_inodes) {
            format!(
                "{what}: its file system has no inodes left; remove some files there, and the transfer goes on by itself"
            )
        } else {
            format!("{what}: {error}; free some space there, and the transfer goes on by itself")
        };
        Self::temporary(end::NO_SPACE, message)
    }

    /// The same, for this host's own people, with the name of the other end where it is to blame.
    pub(crate) fn naming(self, peer: &str) -> Self {
        let message = match self.reason.as_str() {
            end::PROTOCOL_VIOLATION if self.known_there => {
                format!("{peer} says that this host does not keep to the protocol: {}", self.message)
            }
            end::PROTOCOL_VIOLATION => format!("{peer} does not keep to the protocol: {}", self.message),
            end::CORRUPTED | end::TREE_MISMATCH | end::STALLED | end::MANIFEST_TOO_LARGE => {
                format!("with {peer}: {}", self.message)
            }
            _ => return self,
        };
        Self { message, ..self }
    }

    pub(crate) fn to_abort(&self) -> Abort {
        Abort { reason: self.reason.clone(), message: self.message.clone(), temporary: self.temporary }
    }

    pub(crate) fn to_error(&self) -> TransferError {
        TransferError::new(self.reason.clone(), self.message.clone())
    }
}

/// Whether the file system, or the quota, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<Abort> for Stop {
    fn from(abort: Abort) -> Self {
        Self { reason: abort.reason, message: abort.message, temporary: abort.temporary, known_there: true }
    }
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        let stop = Self::final_(end::PEER_UNREACHABLE, error.message);
        Self { temporary: error.temporary, known_there: true, ..stop }
    }
}

impl From<BadFrame> for Stop {
    fn from(error: BadFrame) -> Self {
        Self::violation(error.to_string())
    }
}

impl From<BadPage> for Stop {
    fn from(error: BadPage) -> Self {
        Self::violation(error.to_string())
    }
}

impl From<BadPiece> for Stop {
    fn from(error: BadPiece) -> Self {
        Self::violation(error.to_string())
    }
}
