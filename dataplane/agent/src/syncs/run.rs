//! One sync that this node sends: waits for its next run, looks whether anything changed, runs, and says how it went.

use std::{io, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use dataplane_transfer::{Look, Order, Sent};
use foundation_listener::limit_hits;
use foundation_runtime::Cancelled;
use proto_model::{
    SyncId, SyncReport, SyncResult, SyncRun, SyncState, SyncStatus, TransferError, TransferReport, TransferRole,
    TransferState,
};
use proto_wire::sync::OpenSync;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Syncer,
    kept::{Kept, Wanted},
    schedule::{Schedule, share, spread},
    show_counters,
};
use crate::turns::Turn;

/// How often it is looked whether something is due, whatever the clock did meanwhile, and the lag is told.
const LOOK: Duration = Duration::from_secs(5);
/// A source that does not change is compared with the destination all the same after so long: what others deleted there comes back.
const COMPARE_AFTER: TimeDelta = TimeDelta::hours(1);
/// How long a run that could not be kept, or had another attempt in its way, waits.
const AGAIN: Duration = Duration::from_secs(1);
/// A run whose number was used before takes another at once, more than twice the one before, up to this: a receiver that never agrees must not use
/// up all numbers that there are.
const MAX_GUESS: u64 = SyncRun::MAX_NUMBER / 4;

pub(super) struct Runner {
    syncer: Syncer,
    id: SyncId,
    kept: Kept,
    wanted: watch::Receiver<Wanted>,
    deleted: CancellationToken,
    not_before: Option<DateTime<Utc>>,
    /// How much later its second run is due, so that syncs that were made together do not stay together.
    spread: Duration,
    /// When the last run over the wire ended; none since the start.
    compared: Option<DateTime<Utc>>,
    /// What was last said of it.
    said: Option<SyncStatus>,
}

/// Why the wait for a run ended.
enum Due {
    Now,
    Over,
}

impl Runner {
    pub(super) fn new(
        syncer: Syncer,
        id: SyncId,
        kept: Kept,
        wanted: watch::Receiver<Wanted>,
        deleted: CancellationToken,
    ) -> Self {
        let spread = if kept.began.is_none() { spread(kept.wanted.every, share(id)) } else { Duration::ZERO };
        Self { syncer, id, kept, wanted, deleted, not_before: None, spread, compared: None, said: None }
    }

    /// Runs until the sync is deleted, or the agent stops.
    pub(super) async fn run(mut self, after_start: bool) {
        show_counters(self.name());
        if after_start {
            let now = self.syncer.0.clock.utc();
            let schedule = self.schedule().after_start(self.kept.wanted.every, share(self.id), now);
            self.not_before = schedule.not_before;
        }
        if let Err(error) = self.keep().await {
            self.unkept(&error);
        }
        while let Due::Now = self.until_due().await {
            // A run that goes on is the same one.
            let number = self.kept.status.run + u64::from(self.kept.under_way.is_none());
            let span = tracing::info_span!("sync run", dwcp.sync = self.name(), dwcp.sync.run = number);
            Box::pin(self.once()).instrument(span).await;
        }
    }

    fn name(&self) -> &str {
        self.kept.wanted.name.as_str()
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            began: self.kept.began,
            failures: self.kept.failures,
            not_before: self.not_before,
            spread: self.spread,
        }
    }

    /// Waits until a run may begin.
    async fn until_due(&mut self) -> Due {
        loop {
            self.take_wanted().await;
            let now = self.syncer.0.clock.utc();
            self.heed_clock(now);
            let asked = self.kept.wanted.run_request > self.kept.status.met_run_request;
            let next = match (asked, self.kept.under_way) {
                (true, _) => now,
                // What a stop or a crash interrupted goes on.
                (false, Some(_)) => self.not_before.unwrap_or(now).max(now),
                (false, None) => self.schedule().next(self.kept.wanted.every, now),
            };
            self.kept.status.next_run_time = (!self.kept.wanted.pause).then_some(next);
            self.kept.status.error = self.cannot_run();
            self.say();
            let may_run = !self.kept.wanted.pause && self.kept.status.error.is_none();
            if may_run && next <= now && !self.deleted.is_cancelled() {
                return Due::Now;
            }
            let left = (next - now).to_std().unwrap_or_default();
            let nap = if may_run { left.min(LOOK) } else { LOOK };
            tokio::select! {
                biased;
                () = self.deleted.cancelled() => return Due::Over,
                () = self.syncer.0.tasks.cancelled() => return Due::Over,
                changed = self.wanted.changed() => if changed.is_err() { return Due::Over },
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// A clock that was set back: what was to come by the former one does not hold the sync up.
    fn heed_clock(&mut self, now: DateTime<Utc>) {
        let mut schedule = self.schedule();
        schedule.heed_clock(now);
        (self.kept.began, self.not_before) = (schedule.began, schedule.not_before);
        self.compared = self.compared.filter(|compared| *compared <= now);
    }

    /// Why no run can begin, whoever asks.
    fn cannot_run(&self) -> Option<TransferError> {
        let error = self.syncer.0.transfers.standing(&self.kept.wanted.grant).err()?;
        // One of another epoch is renewed by the control plane, and in force until then.
        (error.reason != "GRANT_OF_OTHER_EPOCH").then_some(error)
    }

    async fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        if wanted == self.kept.wanted {
            return;
        }
        if wanted.grant != self.kept.wanted.grant {
            // It may leave out other files, or compare more than times and sizes.
            self.kept.look = None;
        }
        self.kept.wanted = wanted;
        if let Err(error) = self.keep().await {
            self.unkept(&error);
        }
    }

    /// One look, and a run where there is something to say to the receiver.
    async fn once(&mut self) {
        let Some(turn) = self.look_turn().await else { return };
        // Those that wait for one another are due one after the other the next time, too.
        let began = self.syncer.0.clock.utc();
        if self.kept.began.is_some() {
            self.spread = Duration::ZERO;
        }
        let request = self.kept.wanted.run_request;
        let asked = request > self.kept.status.met_run_request;
        let resumed = self.kept.under_way.is_some();
        let (transfers, grant) = (self.syncer.0.transfers.clone(), self.kept.wanted.grant.clone());
        let look = self.syncer.0.tasks.blocking("look at a sync's source", move || transfers.look(&grant)).await;
        drop(turn);
        let look = match look {
            Err(Cancelled) => return,
            Ok(look) => look.and_then(|look| self.as_mounted(look)),
        };
        let due_to_compare = self.compared.is_none_or(|compared| began - compared >= COMPARE_AFTER);
        if let Ok(look) = &look
            && !(resumed || asked || due_to_compare)
            && self.kept.look == Some(look.digest)
        {
            return self.unchanged(began);
        }
        self.kept.began = Some(began);
        if !resumed {
            self.kept.status.run += 1;
            self.kept.under_way = Some(began);
        }
        self.kept.status.running = true;
        let report = match look {
            Ok(look) => {
                let sent = Box::pin(self.send(look.source)).await;
                let Some(report) = sent else {
                    // It goes on; not at once, whatever kept it.
                    tokio::time::sleep(AGAIN).await;
                    return;
                };
                // Seen before the run: what changed during it is seen by the next look.
                let in_step = report.state == TransferState::Succeeded && look.is_settled;
                self.kept.look = in_step.then_some(look.digest);
                if matches!(report.state, TransferState::Succeeded | TransferState::SucceededInPart) {
                    (self.kept.mount, self.kept.overwrite) = (look.mount, look.overwrite);
                }
                report
            }
            Err(error) => {
                let mut report = TransferReport::new(self.id.run(self.kept.status.run), TransferRole::Sender);
                (report.state, report.error) = (TransferState::Failed, Some(error));
                report
            }
        };
        self.ended(&report, request, began).await;
    }

    /// A turn to look through a source; none where the sync ends meanwhile.
    async fn look_turn(&self) -> Option<Turn> {
        let looks = &self.syncer.0.looks;
        if let Some(turn) = looks.try_next() {
            return Some(turn);
        }
        limit_hits::hit("limits.sync_looks");
        tokio::select! {
            turn = looks.next() => turn,
            () = self.deleted.cancelled() => None,
            () = self.syncer.0.tasks.cancelled() => None,
        }
    }

    /// A source whose mount is missing is another folder: it is not run, unless somebody asked for it since.
    fn as_mounted(&self, look: Look) -> Result<Look, TransferError> {
        let missing = self.kept.mount.as_ref().and_then(|mount| mount.missing(look.mount.as_ref()));
        match missing {
            Some(missing) if look.overwrite <= self.kept.overwrite => Err(missing),
            Some(_) | None => Ok(look),
        }
    }

    fn unchanged(&mut self, began: DateTime<Utc>) {
        self.kept.began = Some(began);
        self.kept.failures = 0;
        self.kept.status.looks_unchanged += 1;
        self.kept.status.last_success_time = Some(began);
        metrics::counter!("dwcp_sync_looks_unchanged_total", "sync" => self.name().to_owned()).increment(1);
    }

    /// Sends until the run has ended; none where the agent stops, or what is under way cannot be kept.
    async fn send(&mut self, source: proto_wire::sync::SyncSource) -> Option<TransferReport> {
        loop {
            if let Err(error) = self.keep().await {
                // Without its number on disk a run may not begin: it could be taken for another one.
                self.unkept(&error);
                self.kept.under_way = None;
                self.kept.failures += 1;
                self.kept.status.running = false;
                return None;
            }
            let open = OpenSync { grant: self.kept.wanted.grant.clone(), run: self.kept.status.run, source };
            let report = Box::pin(self.send_once(open)).await?;
            let used = report.error.as_ref().is_some_and(|error| error.reason == "ALREADY_FINISHED");
            // What was kept of earlier runs was lost here: the receiver knows better.
            match number_after(self.kept.status.run) {
                Some(number) if used && !self.deleted.is_cancelled() => self.kept.status.run = number,
                Some(_) | None => return Some(report),
            }
        }
    }

    async fn send_once(&mut self, open: OpenSync) -> Option<TransferReport> {
        let run = self.id.run(open.run);
        self.order(run);
        let (reports, mut watched) = watch::channel(TransferReport::new(run, TransferRole::Sender));
        let (movers, transfers) = (self.syncer.0.movers.clone(), self.syncer.0.transfers.clone());
        let deleted = self.deleted.clone();
        let sending = movers.send_run(open, reports, &deleted);
        tokio::pin!(sending);
        let mut cancelled = false;
        let sent = loop {
            tokio::select! {
                sent = &mut sending => break sent,
                changed = watched.changed() => {
                    if changed.is_err() {
                        break (&mut sending).await;
                    }
                    let report = watched.borrow_and_update().clone();
                    self.under_way(&report);
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        break (&mut sending).await;
                    }
                    let before = self.kept.wanted.grant.clone();
                    self.take_wanted().await;
                    if self.kept.wanted.grant != before {
                        transfers.renew(run, self.kept.wanted.grant.clone());
                    }
                    self.order(run);
                    self.say();
                }
                () = self.deleted.cancelled(), if !cancelled => {
                    cancelled = true;
                    transfers.cancel(run, TransferRole::Sender);
                }
            }
        };
        self.syncer.0.transfers.forget_order(run, TransferRole::Sender);
        self.syncer.0.transfers.forget_renewal(run);
        match sent {
            Some(Sent::Ended(report)) => Some(report),
            // It goes on under its number.
            Some(Sent::Interrupted(_)) | None => None,
        }
    }

    fn order(&self, run: proto_model::TransferId) {
        let order = Order { number: self.kept.wanted.order, pause: self.kept.wanted.pause };
        self.syncer.0.transfers.order(run, TransferRole::Sender, order);
    }

    fn under_way(&mut self, report: &TransferReport) {
        self.kept.status.progress = Some(report.progress);
        self.kept.status.error = if report.state == TransferState::Waiting { report.error.clone() } else { None };
        self.say();
    }

    /// A run has ended: that is on disk before the next begins.
    async fn ended(&mut self, report: &TransferReport, request: u64, began: DateTime<Utc>) {
        let now = self.syncer.0.clock.utc();
        let result = match report.state {
            TransferState::Succeeded => SyncResult::Succeeded,
            TransferState::SucceededInPart => SyncResult::WithIssues,
            TransferState::Cancelled => SyncResult::Cancelled,
            TransferState::Failed
            | TransferState::Pending
            | TransferState::Running
            | TransferState::Waiting
            | TransferState::Paused => SyncResult::Failed,
        };
        let kept = &mut self.kept;
        let start_time = kept.under_way.take().unwrap_or(began);
        let run = SyncRun {
            number: kept.status.run,
            result,
            start_time,
            end_time: now,
            progress: report.progress,
            error: report.error.clone(),
            issues: report.issues.iter().take(SyncRun::MAX_ISSUES).cloned().collect(),
            issue_count: report.issue_count,
            transfer: self.id.run(kept.status.run),
        };
        let status = &mut kept.status;
        (status.running, status.progress, status.error) = (false, None, None);
        status.bytes_encoded_in += report.progress.bytes_encoded_in.bytes();
        status.bytes_sent += report.progress.bytes_sent.bytes();
        match result {
            SyncResult::Succeeded => {
                status.runs_succeeded += 1;
                status.last_success_time = Some(began);
            }
            SyncResult::WithIssues => status.runs_with_issues += 1,
            SyncResult::Failed => status.runs_failed += 1,
            SyncResult::Cancelled => {}
        }
        if let Some(last) = status.runs.first_mut() {
            last.issues.clear();
        }
        log(self.kept.wanted.name.as_str(), &run);
        self.kept.status.runs.insert(0, run);
        self.kept.status.runs.truncate(SyncStatus::MAX_RUNS);
        self.kept.failures = if result == SyncResult::Failed { self.kept.failures.saturating_add(1) } else { 0 };
        self.kept.status.met_run_request = self.kept.status.met_run_request.max(request);
        self.compared = Some(now);
        metrics::counter!("dwcp_sync_runs_total", "sync" => self.name().to_owned(), "result" => result.word())
            .increment(1);
        if let Err(error) = self.keep().await {
            self.unkept(&error);
        }
        self.say();
    }

    async fn keep(&self) -> io::Result<()> {
        if self.deleted.is_cancelled() {
            return Ok(());
        }
        let (folder, id, kept) = (self.syncer.0.folder.clone(), self.id, self.kept.clone());
        let kept = self.syncer.0.tasks.blocking("keep a sync", move || folder.keep(id, &kept)).await;
        kept.unwrap_or_else(|Cancelled| Err(io::Error::other("the agent is stopping")))
    }

    fn unkept(&self, error: &io::Error) {
        tracing::error!(component = "sync", sync = self.name(), %error, "What is kept of a sync cannot be written");
    }

    /// Says how it is, to the control plane and to whoever looks at this node.
    fn say(&mut self) {
        if self.deleted.is_cancelled() {
            return;
        }
        let status = &self.kept.status;
        let state = if self.kept.wanted.pause { SyncState::Paused } else { status.state() };
        self.syncer.say_state(self.id, self.name().to_owned(), state);
        if let Some(success) = status.last_success_time {
            let lag = (self.syncer.0.clock.utc() - success).to_std().unwrap_or_default();
            metrics::gauge!("dwcp_sync_lag_seconds", "sync" => self.name().to_owned()).set(lag.as_secs_f64());
        }
        if self.said.as_ref() != Some(status) {
            let said = status.clone();
            self.syncer.0.control.sync(SyncReport { sync: self.id, status: said.clone() });
            self.said = Some(said);
        }
    }
}

/// The number to try after one that was used before; none where that leads nowhere.
fn number_after(used: u64) -> Option<u64> {
    (used <= MAX_GUESS).then(|| used * 2 + 1)
}

fn log(sync: &str, run: &SyncRun) {
    let (result, issues, sent) = (run.result.word(), run.issue_count, run.progress.bytes_sent.bytes());
    let (number, deleted) = (run.number, run.progress.files_deleted);
    match &run.error {
        Some(TransferError { reason, message }) => {
            tracing::warn!(component = "sync", sync, run = number, result, reason, message, "a run of a sync ended");
        }
        None => tracing::info!(
            component = "sync",
            sync,
            run = number,
            result,
            issues,
            sent,
            deleted,
            "a run of a sync ended"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_says_of_every_number_that_it_was_used_does_not_use_up_the_numbers() {
        let mut number = 1;
        let mut tries = 0;
        while let Some(next) = number_after(number) {
            assert!(next > number);
            (number, tries) = (next, tries + 1);
        }
        assert!(tries > 32, "what was lost is made up for at once");
        assert!(number <= SyncRun::MAX_NUMBER / 2, "{number}");
        assert_eq!(number_after(u64::MAX), None);
    }
}
