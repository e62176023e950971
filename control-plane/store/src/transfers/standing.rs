//! How far a transfer is, as a pure function of what its ends report.
//!
//! The sender leads: its reports move the state, and its first end is the transfer's. The receiver's reports are kept beside it and
//! decide only where the sender can no longer be heard. What has ended never moves again.

use chrono::{DateTime, Utc};
use proto_model::{TransferError, TransferReport, TransferRole, TransferState};

/// A transfer's state, with what goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The state.
    pub state: TransferState,
    /// Why it waits or failed.
    pub error: Option<TransferError>,
    /// When the sender began.
    pub start_time: Option<DateTime<Utc>>,
    /// When it ended.
    pub end_time: Option<DateTime<Utc>>,
}

/// Why a transfer ends without a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The grant's time is over.
    GrantExpired,
    /// One of its ends is out of the fleet.
    NodeRevoked,
}

impl Standing {
    /// A transfer that was just accepted.
    #[must_use]
    pub fn accepted() -> Self {
        Self { state: TransferState::Pending, error: None, start_time: None, end_time: None }
    }

    /// What a report makes of it; `None` when it changes nothing. A report may be late: it is taken as if it came in time.
    #[must_use]
    pub fn on_report(&self, report: &TransferReport, now: DateTime<Utc>) -> Option<Self> {
        if self.state.is_end() || report.role == TransferRole::Receiver {
            return None;
        }
        // A sender that has begun does not go back to "not begun", whatever order its reports were made in.
        let state = match report.state {
            TransferState::Pending => self.state,
            TransferState::Running
            | TransferState::Waiting
            | TransferState::Succeeded
            | TransferState::SucceededInPart
            | TransferState::Failed
            | TransferState::Cancelled => report.state,
        };
        let ended = state.is_end();
        let began = self.start_time.or(report.start_time).or((state != TransferState::Pending).then_some(now));
        let next = Self {
            state,
            error: report.error.clone(),
            start_time: began,
            end_time: ended.then(|| report.end_time.unwrap_or(now)),
        };
        (next != *self).then_some(next)
    }

    /// An operator stops it; `None` when it has ended.
    #[must_use]
    pub fn on_cancel(&self, now: DateTime<Utc>) -> Option<Self> {
        (!self.state.is_end()).then_some(Self {
            state: TransferState::Cancelled,
            error: None,
            start_time: self.start_time,
            end_time: Some(now),
        })
    }

    /// It can no longer go on. The receiver's own end counts then; without one it failed.
    #[must_use]
    pub fn on_expiry(&self, expiry: Expiry, receiver: Option<&TransferReport>, now: DateTime<Utc>) -> Option<Self> {
        if self.state.is_end() {
            return None;
        }
        let receiver = receiver.filter(|report| report.state.is_end());
        let (reason, message) = match expiry {
            Expiry::GrantExpired => (
                "GRANT_EXPIRED",
                "the grant's time is over and the sender has not reported an end; create the transfer again",
            ),
            Expiry::NodeRevoked => ("NODE_REVOKED", "one of the two nodes was removed from the fleet"),
        };
        let failure = || Some(TransferError { reason: reason.to_owned(), message: message.to_owned() });
        Some(Self {
            state: receiver.map_or(TransferState::Failed, |report| report.state),
            error: receiver.map_or_else(failure, |report| report.error.clone()),
            start_time: self.start_time,
            end_time: Some(receiver.and_then(|report| report.end_time).unwrap_or(now)),
        })
    }
}
