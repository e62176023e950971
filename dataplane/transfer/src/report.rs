//! What an end of a transfer says of itself, kept up to date for whoever watches.

use std::{
    sync::{Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use proto_model::{Digest, TransferError, TransferId, TransferPathInfo, TransferReport, TransferRole, TransferState};
use tokio::sync::watch;

use crate::tally::{Rate, Tally};

/// How often numbers are made new.
pub(crate) const EVERY: Duration = Duration::from_millis(500);

/// Publishes the report of one end.
#[derive(Debug)]
pub(crate) struct Reporter {
    clock: Clock,
    start: DateTime<Utc>,
    sender: watch::Sender<TransferReport>,
    rate: Mutex<Rate>,
}

impl Reporter {
    pub(crate) fn new(clock: Clock, sender: watch::Sender<TransferReport>) -> Self {
        let start = clock.utc();
        Self { clock, start, sender, rate: Mutex::default() }
    }

    /// A first report, and where its successors appear.
    pub(crate) fn begin(clock: Clock, id: TransferId, role: TransferRole) -> (Self, watch::Receiver<TransferReport>) {
        let (sender, receiver) = watch::channel(TransferReport::new(id, role));
        (Self::new(clock, sender), receiver)
    }

    /// The state and the numbers as they are now.
    pub(crate) fn say(
        &self,
        state: TransferState,
        tally: &Tally,
        path: Option<TransferPathInfo>,
        error: Option<TransferError>,
    ) {
        let done = tally.bytes_done.load(Relaxed);
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner).at(self.clock.now(), done);
        let rate = if state == TransferState::Running { rate } else { 0.0 };
        self.sender.send_modify(|report| {
            report.state = state;
            report.error = error;
            report.progress = tally.progress(rate);
            report.path = path.or(report.path.take());
            report.issue_count = tally.issue_count();
            report.start_time = Some(self.start);
        });
    }

    /// The end.
    pub(crate) fn end(
        &self,
        state: TransferState,
        tally: &Tally,
        error: Option<TransferError>,
        tree_digest: Option<Digest>,
    ) -> TransferReport {
        self.say(state, tally, None, error);
        self.sender.send_modify(|report| {
            report.issues = tally.issues();
            report.planned_changes = tally.planned();
            report.tree_digest = tree_digest;
            report.end_time = Some(self.clock.utc());
            report.progress.eta = None;
        });
        self.sender.borrow().clone()
    }

    /// The last report.
    pub(crate) fn last(&self) -> TransferReport {
        self.sender.borrow().clone()
    }
}

/// How many transfers run, as a metric, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted(TransferRole);

impl Counted {
    pub(crate) fn new(role: TransferRole) -> Self {
        metrics::gauge!("dwcp_transfers_active", "role" => role_label(role)).increment(1.0);
        Self(role)
    }

    /// Counts an end.
    pub(crate) fn ended(&self, report: &TransferReport) {
        let outcome = match report.state {
            TransferState::Succeeded => "succeeded",
            TransferState::SucceededInPart => "succeeded_in_part",
            TransferState::Cancelled => "cancelled",
            TransferState::Failed | TransferState::Pending | TransferState::Running | TransferState::Waiting => {
                "failed"
            }
        };
        metrics::counter!("dwcp_transfers_total", "role" => role_label(self.0), "outcome" => outcome).increment(1);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("dwcp_transfers_active", "role" => role_label(self.0)).decrement(1.0);
    }
}

fn role_label(role: TransferRole) -> &'static str {
    match role {
        TransferRole::Sender => "send",
        TransferRole::Receiver => "receive",
    }
}

/// Says how a transfer ended, where it ended.
pub(crate) fn state_of(tally: &Tally) -> TransferState {
    if tally.issue_count() == 0 { TransferState::Succeeded } else { TransferState::SucceededInPart }
}
