//! [`SyncStatus`]: how a sync's runs are.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use proto_rpc::{
    agent,
    v1::{self as rpc, sync::State, sync_run::Result as RunResult},
};

use super::SyncId;
use crate::{
    InvalidField, TransferError, TransferId, TransferIssue, TransferProgress, from_timestamp,
    invalid_field::{at, each},
    to_timestamp,
};

/// How a sync is, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncState {
    /// Its sender has said nothing of it yet.
    Pending,
    /// The last run left nothing out.
    InStep,
    /// A run is under way.
    Running,
    /// A run is under way and waits.
    Waiting,
    /// The last run left entries out.
    WithIssues,
    /// The last run failed.
    Failed,
    /// An operator holds it.
    Paused,
    /// It does not run any more.
    Ended,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncResult {
    /// Everything is in step.
    Succeeded,
    /// Entries were left out.
    WithIssues,
    /// It failed.
    Failed,
    /// An operator stopped it.
    Cancelled,
}

/// One run that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncRun {
    /// Its number.
    pub number: u64,
    /// How it ended.
    pub result: SyncResult,
    /// When it began.
    pub start_time: DateTime<Utc>,
    /// When it ended.
    pub end_time: DateTime<Utc>,
    /// What it did, in numbers.
    pub progress: TransferProgress,
    /// Why it failed.
    pub error: Option<TransferError>,
    /// Entries that were left out; at most [`SyncRun::MAX_ISSUES`].
    pub issues: Vec<TransferIssue>,
    /// How many entries were left out.
    pub issue_count: u64,
    /// The transfer that it was.
    pub transfer: TransferId,
}

/// How the runs of a sync are, as its sender says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncStatus {
    /// The number of the newest run; 0 before the first.
    pub run: u64,
    /// Whether it is under way.
    pub running: bool,
    /// How far the one under way is.
    pub progress: Option<TransferProgress>,
    /// Why the run under way waits, or why none begins.
    pub error: Option<TransferError>,
    /// Runs that have ended, newest first; at most [`SyncStatus::MAX_RUNS`]. Only the first has its issues.
    pub runs: Vec<SyncRun>,
    /// When the next run is due.
    pub next_run_time: Option<DateTime<Utc>>,
    /// When the source was last found, or brought, in step.
    pub last_success_time: Option<DateTime<Utc>>,
    /// Runs that left nothing out.
    pub runs_succeeded: u64,
    /// Runs that left entries out.
    pub runs_with_issues: u64,
    /// Runs that failed.
    pub runs_failed: u64,
    /// Looks that found nothing changed.
    pub looks_unchanged: u64,
    /// Bytes before encoding, of all runs.
    pub bytes_encoded_in: u64,
    /// Bytes handed to the transport, of all runs.
    pub bytes_sent: u64,
    /// The newest request for a run that was met.
    pub met_run_request: u64,
}

/// What a sync's sender says to the control plane.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncReport {
    /// Which.
    pub sync: SyncId,
    /// How its runs are.
    pub status: SyncStatus,
}

impl SyncRun {
    /// Issues that are kept of a run: a person reads ten; the count of all is beside them.
    pub const MAX_ISSUES: usize = 100;
    /// The largest number of a run: databases have no unsigned numbers.
    pub const MAX_NUMBER: u64 = i64::MAX.cast_unsigned();

    /// A run's number, from another host.
    ///
    /// # Errors
    /// It is larger than [`SyncRun::MAX_NUMBER`].
    pub fn check_number(number: u64) -> Result<u64, &'static str> {
        if number <= Self::MAX_NUMBER { Ok(number) } else { Err("is larger than 2^63 - 1") }
    }
}

impl SyncStatus {
    /// Runs that are remembered: with five minutes between them, the last hours.
    pub const MAX_RUNS: usize = 20;

    /// How it is, while nobody holds it.
    #[must_use]
    pub fn state(&self) -> SyncState {
        match (self.running, &self.error, self.runs.first().map(|run| run.result)) {
            (true, Some(_), _) => SyncState::Waiting,
            (true, None, _) => SyncState::Running,
            (false, Some(_), _) | (false, None, Some(SyncResult::Failed)) => SyncState::Failed,
            (false, None, Some(SyncResult::WithIssues)) => SyncState::WithIssues,
            (false, None, Some(SyncResult::Succeeded | SyncResult::Cancelled)) => SyncState::InStep,
            (false, None, None) if self.last_success_time.is_some() => SyncState::InStep,
            (false, None, None) => SyncState::Pending,
        }
    }
}

impl SyncState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::InStep,
        Self::Running,
        Self::Waiting,
        Self::WithIssues,
        Self::Failed,
        Self::Paused,
        Self::Ended,
    ];

    /// The name that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        State::from(self).as_str_name()
    }
}

impl From<SyncState> for State {
    fn from(state: SyncState) -> Self {
        match state {
            SyncState::Pending => Self::Pending,
            SyncState::InStep => Self::InStep,
            SyncState::Running => Self::Running,
            SyncState::Waiting => Self::Waiting,
            SyncState::WithIssues => Self::WithIssues,
            SyncState::Failed => Self::Failed,
            SyncState::Paused => Self::Paused,
            SyncState::Ended => Self::Ended,
        }
    }
}

impl FromStr for SyncState {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == upper)
            .ok_or_else(|| InvalidField::new("state", format!("is none of {}", Self::ALL.map(Self::as_str).join(", "))))
    }
}

impl fmt::Display for SyncState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl SyncResult {
    /// The word of it in metrics, in the audit log and on disk.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::WithIssues => "with_issues",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Succeeded, Self::WithIssues, Self::Failed, Self::Cancelled];

    fn from_number(number: i32) -> Result<Self, InvalidField> {
        match RunResult::try_from(number).unwrap_or(RunResult::Unspecified) {
            RunResult::Unspecified => Err(InvalidField::new("result", "says nothing")),
            RunResult::Succeeded => Ok(Self::Succeeded),
            RunResult::WithIssues => Ok(Self::WithIssues),
            RunResult::Failed => Ok(Self::Failed),
            RunResult::Cancelled => Ok(Self::Cancelled),
        }
    }
}

impl From<SyncResult> for RunResult {
    fn from(result: SyncResult) -> Self {
        match result {
            SyncResult::Succeeded => Self::Succeeded,
            SyncResult::WithIssues => Self::WithIssues,
            SyncResult::Failed => Self::Failed,
            SyncResult::Cancelled => Self::Cancelled,
        }
    }
}

impl TryFrom<rpc::SyncRun> for SyncRun {
    type Error = InvalidField;

    fn try_from(run: rpc::SyncRun) -> Result<Self, Self::Error> {
        let time = |field: &'static str, time: Option<prost_types::Timestamp>| {
            from_timestamp(time.ok_or_else(|| InvalidField::missing(field))?).map_err(at(field))
        };
        let progress = TransferProgress::try_from(run.progress.unwrap_or_default());
        Ok(Self {
            number: Self::check_number(run.number).map_err(at("number"))?,
            result: SyncResult::from_number(run.result)?,
            start_time: time("start_time", run.start_time)?,
            end_time: time("end_time", run.end_time)?,
            progress: progress.map_err(|field| field.within("progress"))?,
            error: run.error.map(TransferError::from),
            issues: run.issues.into_iter().take(Self::MAX_ISSUES).map(TransferIssue::from).collect(),
            issue_count: run.issue_count,
            transfer: TransferId::from_resource_name(&run.transfer).map_err(at("transfer"))?,
        })
    }
}

impl From<SyncRun> for rpc::SyncRun {
    fn from(run: SyncRun) -> Self {
        Self {
            number: run.number,
            result: RunResult::from(run.result).into(),
            start_time: Some(to_timestamp(run.start_time)),
            end_time: Some(to_timestamp(run.end_time)),
            progress: Some(run.progress.into()),
            error: run.error.map(Into::into),
            issues: run.issues.into_iter().map(Into::into).collect(),
            issue_count: run.issue_count,
            transfer: run.transfer.resource_name(),
        }
    }
}

impl TryFrom<rpc::SyncStatus> for SyncStatus {
    type Error = InvalidField;

    fn try_from(status: rpc::SyncStatus) -> Result<Self, Self::Error> {
        let time = |field: &'static str, time: Option<prost_types::Timestamp>| {
            time.map(from_timestamp).transpose().map_err(at(field))
        };
        let progress = status.progress.map(TransferProgress::try_from).transpose();
        let mut runs = each("runs", status.runs.into_iter().take(Self::MAX_RUNS), SyncRun::try_from)?;
        if let (Some(first), Some(last)) = (runs.first_mut(), status.last_run) {
            *first = SyncRun::try_from(last).map_err(|field| field.within("last_run"))?;
        }
        Ok(Self {
            run: SyncRun::check_number(status.run).map_err(at("run"))?,
            running: status.running,
            progress: progress.map_err(|field| field.within("progress"))?,
            error: status.error.map(TransferError::from),
            runs,
            next_run_time: time("next_run_time", status.next_run_time)?,
            last_success_time: time("last_success_time", status.last_success_time)?,
            runs_succeeded: status.runs_succeeded,
            runs_with_issues: status.runs_with_issues,
            runs_failed: status.runs_failed,
            looks_unchanged: status.looks_unchanged,
            bytes_encoded_in: status.bytes_encoded_in,
            bytes_sent: status.bytes_sent,
            met_run_request: status.met_run_request,
        })
    }
}

impl From<SyncStatus> for rpc::SyncStatus {
    fn from(status: SyncStatus) -> Self {
        let without_issues = |run: &SyncRun| rpc::SyncRun::from(SyncRun { issues: Vec::new(), ..run.clone() });
        Self {
            run: status.run,
            running: status.running,
            progress: status.progress.map(Into::into),
            error: status.error.map(Into::into),
            last_run: status.runs.first().cloned().map(Into::into),
            runs: status.runs.iter().map(without_issues).collect(),
            next_run_time: status.next_run_time.map(to_timestamp),
            last_success_time: status.last_success_time.map(to_timestamp),
            runs_succeeded: status.runs_succeeded,
            runs_with_issues: status.runs_with_issues,
            runs_failed: status.runs_failed,
            looks_unchanged: status.looks_unchanged,
            bytes_encoded_in: status.bytes_encoded_in,
            bytes_sent: status.bytes_sent,
            met_run_request: status.met_run_request,
        }
    }
}

impl TryFrom<agent::SyncReport> for SyncReport {
    type Error = InvalidField;

    fn try_from(report: agent::SyncReport) -> Result<Self, Self::Error> {
        let status = SyncStatus::try_from(report.status.unwrap_or_default());
        Ok(Self {
            sync: report.sync_id.parse().map_err(at("sync_id"))?,
            status: status.map_err(|field| field.within("status"))?,
        })
    }
}

impl From<SyncReport> for agent::SyncReport {
    fn from(report: SyncReport) -> Self {
        Self { sync_id: report.sync.to_string(), status: Some(report.status.into()) }
    }
}

#[cfg(test)]
mod tests {
    use crate::from_unix_ms;

    use super::*;

    #[test]
    fn a_report_survives_the_wire_and_says_how_the_sync_is() {
        let sync = SyncId::from_parts(1, &[1; 10]);
        let issue = TransferIssue { path: b"a\xff".to_vec(), reason: "X".into(), message: "y".into() };
        let run = SyncRun {
            number: 7,
            result: SyncResult::WithIssues,
            start_time: from_unix_ms(1).unwrap(),
            end_time: from_unix_ms(2).unwrap(),
            progress: TransferProgress::default(),
            error: None,
            issues: vec![issue],
            issue_count: 1,
            transfer: sync.run(7),
        };
        let status = SyncStatus { run: 7, runs: vec![run], runs_with_issues: 1, ..SyncStatus::default() };
        assert_eq!(status.state(), SyncState::WithIssues);
        let report = SyncReport { sync, status };
        assert_eq!(SyncReport::try_from(agent::SyncReport::from(report.clone())), Ok(report.clone()));
        // A number that no database holds would make the sync unreadable there.
        let mut huge = report;
        huge.status.runs[0].number = SyncRun::MAX_NUMBER + 1;
        let refused = SyncReport::try_from(agent::SyncReport::from(huge.clone())).unwrap_err();
        assert!(refused.field.contains("runs") && refused.to_string().contains("2^63"), "{refused}");
        (huge.status.runs, huge.status.run) = (Vec::new(), u64::MAX);
        let refused = SyncReport::try_from(agent::SyncReport::from(huge)).unwrap_err();
        assert_eq!(refused.field, "status.run");
        assert_eq!(SyncStatus::default().state(), SyncState::Pending);
        assert_eq!("in_step".parse(), Ok(SyncState::InStep));
    }
}
