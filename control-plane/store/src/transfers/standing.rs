//! How far a transfer is, as a pure function of what its ends report.
//!
//! The sender leads: its reports move the state, and its first end is the transfer's. The receiver's reports are kept beside it and
//! decide only where the sender can no longer be heard. What has ended never moves again, but for one thing: that the deadline passed was
//! said without the sender, and the sender had succeeded by then.

use chrono::{DateTime, SecondsFormat, Utc};
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
    /// Who holds it; `state` is what its ends do meanwhile.
    pub pause: Option<Pause>,
}

/// A transfer is held.
#[derive(Clone, Debug, PartialEq)]
pub struct Pause {
    /// By whom.
    pub by: String,
    /// Why; empty where nothing was said.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// Why a transfer ends without a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The grant's time is over.
    GrantExpired,
    /// The deadline passed.
    DeadlineExceeded(DateTime<Utc>),
    /// One of its ends is out of the fleet.
    NodeRevoked,
}

/// What the two ends of a transfer last reported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends<'a> {
    /// The sender's word.
    pub sender: Option<&'a TransferReport>,
    /// The receiver's.
    pub receiver: Option<&'a TransferReport>,
}

impl Standing {
    /// A transfer that was just accepted.
    #[must_use]
    pub fn accepted() -> Self {
        Self { state: TransferState::Pending, error: None, start_time: None, end_time: None, pause: None }
    }

    /// The state as it is shown: PAUSED, where somebody holds it.
    #[must_use]
    pub fn present(&self) -> TransferState {
        if self.pause.is_some() && !self.state.is_end() { TransferState::Paused } else { self.state }
    }

    /// Whether the sender has said that it stands still.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.reason == TransferError::PAUSED)
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
            // An end that is told to pause waits.
            TransferState::Paused => TransferState::Waiting,
            TransferState::Running
            | TransferState::Waiting
            | TransferState::Succeeded
            | TransferState::SucceededInPart
            | TransferState::Failed
            | TransferState::Cancelled => report.state,
        };
        let ended = state.is_end();
        let began = self
            .start_time
            .or(report.start_time)
            .or((state != TransferState::Pending && self.pause.is_none()).then_some(now));
        let next = Self {
            state,
            error: report.error.clone(),
            start_time: began,
            end_time: ended.then(|| report.end_time.unwrap_or(now)),
            pause: self.pause.clone().filter(|_| !ended),
        };
        (next != *self).then_some(next)
    }

    /// The sender had succeeded by the deadline, and could not say so until it was said to have passed; `None` for anything else.
    #[must_use]
    pub fn on_late_success(&self, report: &TransferReport, deadline: DateTime<Utc>) -> Option<Self> {
        let passed = self.error.as_ref().is_some_and(|error| error.reason == TransferError::DEADLINE_EXCEEDED);
        let succeeded = matches!(report.state, TransferState::Succeeded | TransferState::SucceededInPart);
        let in_time = report.end_time.is_some_and(|end| end <= deadline);
        let is_the_senders = report.role == TransferRole::Sender;
        (self.state == TransferState::Failed && passed && succeeded && in_time && is_the_senders).then(|| Self {
            state: report.state,
            error: report.error.clone(),
            start_time: report.start_time.or(self.start_time),
            end_time: report.end_time,
            pause: None,
        })
    }

    /// An operator stops it; `None` when it has ended.
    #[must_use]
    pub fn on_cancel(&self, now: DateTime<Utc>) -> Option<Self> {
        (!self.state.is_end()).then_some(Self {
            state: TransferState::Cancelled,
            error: None,
            start_time: self.start_time,
            end_time: Some(now),
            pause: None,
        })
    }

    /// It can no longer go on. The receiver's own end counts then; without one it failed.
    #[must_use]
    pub fn on_expiry(&self, expiry: Expiry, ends: Ends<'_>, now: DateTime<Utc>) -> Option<Self> {
        if self.state.is_end() {
            return None;
        }
        let receiver = ends.receiver.filter(|report| report.state.is_end());
        let failure = || {
            Some(match (expiry, &self.pause) {
                (Expiry::GrantExpired, Some(Pause { by, since, .. })) => {
                    let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
                    let message = format!(
                        "the grant's time was over while the transfer was paused (by {by}, since {since}); create the transfer again"
                    );
                    TransferError::new("GRANT_EXPIRED", message)
                }
                (Expiry::GrantExpired, None) => {
                    let message =
                        "the grant's time is over and the sender has not reported an end; create the transfer again";
                    TransferError::new("GRANT_EXPIRED", message)
                }
                (Expiry::DeadlineExceeded(deadline), _) => {
                    let done = ends.sender.map(|report| report.progress).unwrap_or_default();
                    TransferError::deadline_exceeded(deadline, &done)
                }
                (Expiry::NodeRevoked, _) => {
                    TransferError::new("NODE_REVOKED", "one of the two nodes was removed from the fleet")
                }
            })
        };
        Some(Self {
            state: receiver.map_or(TransferState::Failed, |report| report.state),
            error: receiver.map_or_else(failure, |report| report.error.clone()),
            start_time: self.start_time,
            end_time: Some(receiver.and_then(|report| report.end_time).unwrap_or(now)),
            pause: None,
        })
    }
}
