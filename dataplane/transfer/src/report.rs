//! What an end of a transfer says of itself, kept up to date for whoever watches.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use metrics::Unit;
use proto_model::{Digest, TransferError, TransferId, TransferPathInfo, TransferReport, TransferRole, TransferState};
use tokio::sync::watch;

use crate::tally::{Rate, Tally, float};

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
            report.time_spent = tally.attribution.times();
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

/// Counts a transfer among those that run here, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    clock: Clock,
    start: Instant,
    standing: Mutex<Counting>,
}

/// How a transfer that runs here stands, for who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// It is worked on.
    Running,
    /// The other end is away.
    Waiting,
    /// An operator holds it.
    Paused,
}

impl Counted {
    pub(crate) fn new(clock: &Clock) -> Self {
        active(Counting::Running).increment(1.0);
        Self { clock: clock.clone(), start: clock.now(), standing: Mutex::new(Counting::Running) }
    }

    /// It waits for the other end, is held, or goes on.
    pub(crate) fn set(&self, now: Counting) {
        let before = std::mem::replace(&mut *self.standing(), now);
        if before != now {
            active(before).decrement(1.0);
            active(now).increment(1.0);
        }
    }

    fn standing(&self) -> MutexGuard<'_, Counting> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an end.
    pub(crate) fn ended(&self, report: &TransferReport) {
        let outcome = match report.state {
            TransferState::Succeeded => "succeeded",
            TransferState::SucceededInPart => "succeeded_in_part",
            TransferState::Cancelled => "cancelled",
            TransferState::Failed
            | TransferState::Pending
            | TransferState::Running
            | TransferState::Waiting
            | TransferState::Paused => "failed",
        };
        metrics::counter!("dwcp_transfers_total", "outcome" => outcome).increment(1);
        let took = self.clock.now().duration_since(self.start);
        metrics::histogram!("dwcp_transfer_duration_seconds").record(took.as_secs_f64());
        metrics::histogram!("dwcp_transfer_size_bytes").record(float(report.progress.bytes_total.bytes()));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        active(*self.standing()).decrement(1.0);
    }
}

fn active(standing: Counting) -> metrics::Gauge {
    let state = match standing {
        Counting::Running => "running",
        Counting::Waiting => "waiting",
        Counting::Paused => "paused",
    };
    metrics::gauge!("dwcp_transfers_active", "state" => state)
}

/// What the metrics of this crate mean.
pub(crate) fn describe() {
    metrics::describe_gauge!("dwcp_transfers_active", "Transfers that go on, by state.");
    metrics::describe_counter!("dwcp_transfers_total", "Transfers that ended, by outcome.");
    metrics::describe_counter!(
        "dwcp_transfer_no_space_total",
        "Attempts that ended because a file system is full, by which."
    );
    metrics::describe_histogram!(
        "dwcp_transfer_duration_seconds",
        Unit::Seconds,
        "From the beginning of a transfer to its end."
    );
    metrics::describe_histogram!("dwcp_transfer_size_bytes", Unit::Bytes, "Bytes of all files of a transfer.");
}

/// Says how a transfer ended, where it ended.
pub(crate) fn state_of(tally: &Tally) -> TransferState {
    if tally.issue_count() == 0 { TransferState::Succeeded } else { TransferState::SucceededInPart }
}
