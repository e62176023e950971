//! [`TransferReport`].

use chrono::{DateTime, Utc};
use proto_rpc::agent as rpc;

use crate::{
    Digest, InvalidField, PlannedChange, TimeSpent, TransferError, TransferId, TransferIssue, TransferPathInfo,
    TransferProgress, TransferRole, TransferState, from_timestamp,
    invalid_field::{at, each},
    to_timestamp,
};

/// A transfer's progress or end, as one of its ends sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct TransferReport {
    /// Which transfer.
    pub transfer: TransferId,
    /// Who reports.
    pub role: TransferRole,
    /// How far.
    pub state: TransferState,
    /// Why it waits or failed.
    pub error: Option<TransferError>,
    /// How far, in numbers.
    pub progress: TransferProgress,
    /// Entries left out; at most [`TransferIssue::MAX_REPORTED`].
    pub issues: Vec<TransferIssue>,
    /// How many entries were left out.
    pub issue_count: u64,
    /// BLAKE3 of the tree that arrived; at the end.
    pub tree_digest: Option<Digest>,
    /// What carries it, while something does.
    pub path: Option<TransferPathInfo>,
    /// For a dry run; at most [`PlannedChange::MAX_REPORTED`].
    pub planned_changes: Vec<PlannedChange>,
    /// When this end began.
    pub start_time: Option<DateTime<Utc>>,
    /// When it ended.
    pub end_time: Option<DateTime<Utc>>,
    /// What held this end up.
    pub time_spent: TimeSpent,
}

impl TransferReport {
    /// The first report of a transfer.
    #[must_use]
    pub fn new(transfer: TransferId, role: TransferRole) -> Self {
        Self {
            transfer,
            role,
            state: TransferState::Pending,
            error: None,
            progress: TransferProgress::default(),
            issues: Vec::new(),
            issue_count: 0,
            tree_digest: None,
            path: None,
            planned_changes: Vec::new(),
            start_time: None,
            end_time: None,
            time_spent: TimeSpent::default(),
        }
    }
}

impl TryFrom<rpc::TransferReport> for TransferReport {
    type Error = InvalidField;

    fn try_from(report: rpc::TransferReport) -> Result<Self, Self::Error> {
        let progress = report.progress.map(TransferProgress::try_from).transpose();
        let path = report.path.map(TransferPathInfo::try_from).transpose();
        let changes = report.planned_changes.into_iter().take(PlannedChange::MAX_REPORTED);
        Ok(Self {
            transfer: report.transfer_id.parse().map_err(at("transfer_id"))?,
            role: TransferRole::from_number(report.role)?,
            state: TransferState::from_number(report.state)?,
            error: report.error.map(TransferError::from),
            progress: progress.map_err(|error| error.within("progress"))?.unwrap_or_default(),
            issues: report.issues.into_iter().take(TransferIssue::MAX_REPORTED).map(TransferIssue::from).collect(),
            issue_count: report.issue_count,
            tree_digest: Digest::from_optional_text(&report.tree_digest).map_err(at("tree_digest"))?,
            path: path.map_err(|error| error.within("path"))?,
            planned_changes: each("planned_changes", changes, PlannedChange::try_from)?,
            start_time: report.start_time.map(from_timestamp).transpose().map_err(at("start_time"))?,
            end_time: report.end_time.map(from_timestamp).transpose().map_err(at("end_time"))?,
            time_spent: report.time_spent.into(),
        })
    }
}

impl From<TransferReport> for rpc::TransferReport {
    fn from(report: TransferReport) -> Self {
        Self {
            transfer_id: report.transfer.to_string(),
            role: rpc::TransferRole::from(report.role).into(),
            state: proto_rpc::v1::transfer::State::from(report.state).into(),
            error: report.error.map(Into::into),
            progress: Some(report.progress.into()),
            issues: report.issues.into_iter().map(Into::into).collect(),
            issue_count: report.issue_count,
            tree_digest: report.tree_digest.map(String::from).unwrap_or_default(),
            path: report.path.map(Into::into),
            planned_changes: report.planned_changes.into_iter().map(Into::into).collect(),
            start_time: report.start_time.map(to_timestamp),
            end_time: report.end_time.map(to_timestamp),
            time_spent: (&report.time_spent).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_wire() {
        let transfer = TransferId::from_parts(1_700_000_000_000, &[9; 10]);
        let report = TransferReport {
            state: TransferState::SucceededInPart,
            issues: vec![TransferIssue { path: b"a\xff".to_vec(), reason: "UNREADABLE".into(), message: "no".into() }],
            issue_count: 1,
            tree_digest: Some(Digest::blake3(b"x")),
            ..TransferReport::new(transfer, TransferRole::Sender)
        };
        assert_eq!(TransferReport::try_from(rpc::TransferReport::from(report.clone())), Ok(report));
    }

    #[test]
    fn a_bad_number_is_named_with_its_path() {
        let transfer = TransferId::from_parts(1, &[9; 10]);
        let mut message = rpc::TransferReport::from(TransferReport::new(transfer, TransferRole::Receiver));
        message.progress.as_mut().expect("there").rate_bytes_per_second = f64::NAN;
        assert_eq!(TransferReport::try_from(message).expect_err("refused").field, "progress.rate_bytes_per_second");
    }
}
