//! [`TransferError`].

use chrono::{DateTime, SecondsFormat, Utc};
use proto_rpc::v1 as rpc;

use crate::TransferProgress;

/// Why a transfer waits or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferError {
    /// For example `GRANT_EXPIRED`.
    pub reason: String,
    /// In a sentence, with what to do.
    pub message: String,
}

impl TransferError {
    /// Longer reasons and messages are cut: they come from the other end.
    pub const MAX_TEXT_BYTES: usize = 2048;

    /// Why, for programs and for people.
    #[must_use]
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    /// The reason of a transfer that had not ended by its deadline.
    pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";

    /// Why an end waits that is told to hold a transfer.
    pub const PAUSED: &str = "PAUSED";

    /// The deadline passed; what was done by then is said.
    #[must_use]
    pub fn deadline_exceeded(deadline: DateTime<Utc>, done: &TransferProgress) -> Self {
        let TransferProgress { bytes_done, bytes_total, files_done, files_total, .. } = done;
        let more = if done.totals_final { "" } else { " or more" };
        let message = format!(
            "the deadline ({}) passed; by then {} of {}{more} bytes were verified, and {files_done} of {files_total}{more} entries in place",
            deadline.to_rfc3339_opts(SecondsFormat::Secs, true),
            bytes_done.bytes(),
            bytes_total.bytes(),
        );
        Self::new(Self::DEADLINE_EXCEEDED, message)
    }
}

/// A text of the other end, cut to its bound and made safe to show.
pub(crate) fn bounded_text(text: &str) -> String {
    let mut end = text.len().min(TransferError::MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    crate::escape_str(&text[..end])
}

impl From<rpc::TransferError> for TransferError {
    fn from(error: rpc::TransferError) -> Self {
        Self { reason: bounded_text(&error.reason), message: bounded_text(&error.message) }
    }
}

impl From<TransferError> for rpc::TransferError {
    fn from(error: TransferError) -> Self {
        Self { reason: error.reason, message: error.message }
    }
}
