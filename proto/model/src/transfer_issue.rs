//! [`TransferIssue`].

use proto_rpc::v1 as rpc;

use crate::{escape, transfer_error::bounded_text, unescape};

/// An entry that was left out of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferIssue {
    /// Its path, as it is.
    pub path: Vec<u8>,
    /// For example `UNREADABLE`.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

impl TransferIssue {
    /// How many of them a report carries; the number of all is counted beside them.
    pub const MAX_REPORTED: usize = 1000;
}

impl From<rpc::TransferIssue> for TransferIssue {
    fn from(issue: rpc::TransferIssue) -> Self {
        Self { path: unescape(&issue.path), reason: bounded_text(&issue.reason), message: bounded_text(&issue.message) }
    }
}

impl From<TransferIssue> for rpc::TransferIssue {
    fn from(issue: TransferIssue) -> Self {
        Self { path: escape(&issue.path), reason: issue.reason, message: issue.message }
    }
}
