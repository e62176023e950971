//! Transfers: accepted with their grant in one transaction, moved by what their two ends report, ended once.
//!
//! A report is taken only from the node that has that role in that transfer. The report that ends an end is kept for good, and only then
//! acknowledged. Progress is written at most once a second and transfer (D13): the sender's, and in every fifth second the receiver's.

mod grant;
mod hold;
mod list;
mod report;
mod standing;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use proto_model::{NodeName, NodeUid, Revision, TransferId, TransferReport, TransferRole, TransferSpec, TransferState};
use sqlx::{PgConnection, Row, postgres::PgRow};

pub use grant::{Accepted, CreateTransfer, Granter, RefuseTransfer, create};
pub(crate) use grant::{Party, check_roots, find_party};
pub use hold::{CannotHold, pause, resume};
pub(crate) use list::newest_revision;
pub use list::{Job, Jobs, TransferFilter, TransferPage, active, changed, jobs, nodes_with_new_jobs, page};
pub(crate) use report::end_of_node;
pub use report::{HasEnded, Reported, cancel, end_overdue, expire, report, show_counters};
use report::{Moved, write_standing};
pub use standing::{Ends, Expiry, Pause, Standing};

use crate::{Db, Error};

/// A transfer as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// Its id.
    pub id: TransferId,
    /// What is asked for.
    pub spec: TransferSpec,
    /// Who sends.
    pub source: NodeUid,
    /// Who receives.
    pub destination: NodeUid,
    /// The sender's present name.
    pub source_name: NodeName,
    /// The receiver's present name.
    pub destination_name: NodeName,
    /// How far it is.
    pub standing: Standing,
    /// What the sender last reported.
    pub sender: Option<Box<TransferReport>>,
    /// What the receiver last reported.
    pub receiver: Option<Box<TransferReport>>,
    /// Who asked for it.
    pub created_by: String,
    /// The trace, in hexadecimal; empty where there is none.
    pub trace_id: String,
    /// Until when the grant lets it begin or go on.
    pub grant_expire_time: DateTime<Utc>,
    /// When it was accepted.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
    /// Of its last change.
    pub revision: Revision,
    /// At which it appeared.
    pub create_revision: Revision,
}

/// All that a [`Transfer`] is read from. The ends stand in the same row, so that both are of one moment.
macro_rules! select_transfers {
    ($rest:literal) => {
        concat!(
            "SELECT t.*, s.name AS source_name, d.name AS destination_name, se.report AS sender, re.report AS receiver \
             FROM transfers t JOIN nodes s ON s.uid = t.source JOIN nodes d ON d.uid = t.destination \
             LEFT JOIN transfer_ends se ON se.transfer = t.id AND se.role = 'sender' \
             LEFT JOIN transfer_ends re ON re.transfer = t.id AND re.role = 'receiver' ",
            $rest
        )
    };
}
use select_transfers;

/// One transfer.
///
/// # Errors
/// The database failed.
pub async fn find(db: &Db, id: TransferId) -> Result<Option<Transfer>, Error> {
    let select = sqlx::query(select_transfers!("WHERE t.id = $1")).bind(id.uuid());
    db.read(move |connection| {
        async move { select.fetch_optional(connection).await?.as_ref().map(read).transpose() }.boxed()
    })
    .await
}

/// The same, its row locked until the transaction ends.
async fn lock(connection: &mut PgConnection, id: TransferId) -> Result<Option<Transfer>, Error> {
    let row = sqlx::query(select_transfers!("WHERE t.id = $1 FOR NO KEY UPDATE OF t"));
    let row = row.bind(id.uuid()).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &PgRow) -> Result<Transfer, Error> {
    let damaged = || Error::Damaged("transfer");
    let state = state_of(row.try_get("state")?).ok_or_else(damaged)?;
    let reason: String = row.try_get("error_reason")?;
    let error = (!reason.is_empty())
        .then(|| Ok::<_, sqlx::Error>(proto_model::TransferError { reason, message: row.try_get("error_message")? }))
        .transpose()?;
    Ok(Transfer {
        id: TransferId::new(row.try_get("id")?),
        spec: read_spec(row)?,
        source: NodeUid::new(row.try_get("source")?),
        destination: NodeUid::new(row.try_get("destination")?),
        source_name: row.try_get::<String, _>("source_name")?.parse().map_err(|_bad| damaged())?,
        destination_name: row.try_get::<String, _>("destination_name")?.parse().map_err(|_bad| damaged())?,
        standing: Standing {
            state,
            error,
            start_time: row.try_get("start_time")?,
            end_time: row.try_get("end_time")?,
            pause: read_pause(row)?,
        },
        sender: report::decode(row.try_get("sender")?)?,
        receiver: report::decode(row.try_get("receiver")?)?,
        created_by: row.try_get("created_by")?,
        trace_id: row.try_get("trace_id")?,
        grant_expire_time: row.try_get("grant_expire_time")?,
        create_time: row.try_get("create_time")?,
        update_time: row.try_get("update_time")?,
        revision: revision(row.try_get("revision")?)?,
        create_revision: revision(row.try_get("create_revision")?)?,
    })
}

/// Who holds it. What has ended is held by nobody, whatever a server of the previous version left in the row.
fn read_pause(row: &PgRow) -> Result<Option<Pause>, Error> {
    let since: Option<DateTime<Utc>> = row.try_get("pause_time")?;
    let ended: Option<DateTime<Utc>> = row.try_get("end_time")?;
    let Some(since) = since.filter(|_| ended.is_none()) else { return Ok(None) };
    Ok(Some(Pause { by: row.try_get("paused_by")?, reason: row.try_get("pause_reason")?, since }))
}

fn read_spec(row: &PgRow) -> Result<TransferSpec, Error> {
    let name = |column| row.try_get::<String, _>(column).map(|name| format!("nodes/{name}"));
    let spec = proto_rpc::v1::TransferSpec {
        source_node: name("source_name")?,
        source_paths: row.try_get("source_paths")?,
        destination_node: name("destination_name")?,
        destination_path: row.try_get("destination_path")?,
        delete: row.try_get("delete_extraneous")?,
        exclude: row.try_get("exclude")?,
        checksum: row.try_get("checksum")?,
        dry_run: row.try_get("dry_run")?,
        max_bytes: row.try_get::<i64, _>("max_bytes")?.cast_unsigned(),
        deadline: row.try_get::<Option<DateTime<Utc>>, _>("deadline")?.map(proto_model::to_timestamp),
    };
    TransferSpec::try_from(spec).map_err(|_bad| Error::Damaged("transfer"))
}

fn revision(value: i64) -> Result<Revision, Error> {
    u64::try_from(value).map(Revision::new).map_err(|_negative| Error::Damaged("revision"))
}

/// The word of a state in the table and in metrics.
#[must_use]
pub fn state_word(state: TransferState) -> &'static str {
    match state {
        TransferState::Pending => "pending",
        TransferState::Running => "running",
        TransferState::Waiting => "waiting",
        TransferState::Succeeded => "succeeded",
        TransferState::SucceededInPart => "succeeded_in_part",
        TransferState::Failed => "failed",
        TransferState::Cancelled => "cancelled",
        TransferState::Paused => "paused",
    }
}

/// The state of a row; PAUSED is none: see the migration.
fn state_of(word: &str) -> Option<TransferState> {
    [
        TransferState::Pending,
        TransferState::Running,
        TransferState::Waiting,
        TransferState::Succeeded,
        TransferState::SucceededInPart,
        TransferState::Failed,
        TransferState::Cancelled,
    ]
    .into_iter()
    .find(|state| state_word(*state) == word)
}

fn role_word(role: TransferRole) -> &'static str {
    match role {
        TransferRole::Sender => "sender",
        TransferRole::Receiver => "receiver",
    }
}

fn role_of(word: &str) -> Option<TransferRole> {
    [TransferRole::Sender, TransferRole::Receiver].into_iter().find(|role| role_word(*role) == word)
}
