//! Reading transfers: pages, what changed after a revision, and the jobs of a node.

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use proto_model::{NodeUid, Revision, TransferId, TransferRole, TransferState};
use proto_wire::Signed;
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{Transfer, read, role_of, select_transfers, state_word};
use crate::{Db, Error};

/// Jobs that are told to one node at a time: with so many waiting, the rest come when these have ended.
const MAX_JOBS: i64 = 10_000;

/// Which transfers are meant; all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferFilter {
    /// In this state.
    pub state: Option<TransferState>,
    /// With this node, by name, at either end.
    pub node: Option<String>,
}

/// Where a page begins: after this transfer, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferPage {
    /// When it was accepted.
    pub create_time: DateTime<Utc>,
    /// Which it is.
    pub id: TransferId,
}

impl TransferFilter {
    /// Whether a transfer is meant.
    #[must_use]
    pub fn matches(&self, transfer: &Transfer) -> bool {
        self.state.is_none_or(|state| transfer.standing.present() == state)
            && self.node.as_ref().is_none_or(|node| {
                [&transfer.source_name, &transfer.destination_name].iter().any(|name| name.as_str() == node)
            })
    }
}

/// A page, newest first.
///
/// # Errors
/// The database failed.
pub async fn page(
    db: &Db,
    filter: &TransferFilter,
    after: Option<TransferPage>,
    limit: u32,
) -> Result<Vec<Transfer>, Error> {
    let filter = filter.clone();
    db.read(move |connection| async move { read_page(connection, &filter, after, limit).await }.boxed()).await
}

async fn read_page(
    connection: &mut PgConnection,
    filter: &TransferFilter,
    after: Option<TransferPage>,
    limit: u32,
) -> Result<Vec<Transfer>, Error> {
    let rows = sqlx::query(select_transfers!(
        "WHERE ($1::timestamptz IS NULL OR (t.create_time, t.id) < ($1, $2)) AND ($3::text IS NULL OR $3 = \
         CASE WHEN t.pause_time IS NOT NULL AND t.end_time IS NULL THEN 'paused' ELSE t.state END) \
         AND ($4::text IS NULL OR s.name = $4 OR d.name = $4) ORDER BY t.create_time DESC, t.id DESC LIMIT $5"
    ))
    .bind(after.map(|after| after.create_time))
    .bind(after.map(|after| after.id.uuid()))
    .bind(filter.state.map(state_word))
    .bind(filter.node.as_deref())
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// What changed after a revision, in the order of the changes.
///
/// # Errors
/// The database failed.
pub async fn changed(db: &Db, after: Revision, limit: u32) -> Result<Vec<Transfer>, Error> {
    let rows = sqlx::query(select_transfers!("WHERE t.revision > $1 ORDER BY t.revision LIMIT $2"))
        .bind(after.value().cast_signed())
        .bind(i64::from(limit));
    db.read(move |connection| async move { rows.fetch_all(connection).await?.iter().map(read).collect() }.boxed()).await
}

/// The newest revision: whoever reads it, and then what stands after an older one, misses nothing.
///
/// # Errors
/// The database failed.
pub(crate) async fn newest_revision(connection: &mut PgConnection) -> Result<Revision, Error> {
    let value: i64 = sqlx::query_scalar("SELECT value FROM revision_counter").fetch_one(connection).await?;
    super::revision(value)
}

/// How many transfers are in each state that has not ended.
///
/// # Errors
/// The database failed.
pub async fn active(db: &Db) -> Result<Vec<(String, i64)>, Error> {
    let count = sqlx::query_as(
        "SELECT CASE WHEN pause_time IS NOT NULL THEN 'paused' ELSE state END AS shown, count(*) FROM transfers \
         WHERE end_time IS NULL GROUP BY shown",
    );
    db.read(move |connection| async move { Ok(count.fetch_all(connection).await?) }.boxed()).await
}

/// One transfer, for one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The transfer.
    pub transfer: TransferId,
    /// What the node does in it.
    pub role: TransferRole,
    /// The signed grant.
    pub grant: Signed,
    /// Of the request that made it.
    pub traceparent: String,
    /// Whether it is to be stopped.
    pub cancel: bool,
    /// Whether it is held.
    pub pause: bool,
    /// Of the last change of what the ends should do.
    pub order: Revision,
}

/// Jobs, and how far they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jobs {
    /// In the order of their changes.
    pub jobs: Vec<Job>,
    /// What changed up to here is among them.
    pub until: Revision,
    /// Whether there are more after it.
    pub more: bool,
}

/// What a node should move, as far as it changed after a revision; with none, all of it. A job goes on until the end of its node was
/// stored; one that ended without success is told as to be stopped. A receiver whose end did not come is told until it does, so that
/// what a crash kept it from saying is said.
///
/// # Errors
/// The database failed.
pub async fn jobs(db: &Db, node: NodeUid, after: Option<Revision>) -> Result<Jobs, Error> {
    let now = db.clock().utc();
    db.read(move |connection| read_jobs(connection, node, after, now).boxed()).await
}

async fn read_jobs(
    connection: &mut PgConnection,
    node: NodeUid,
    after: Option<Revision>,
    now: DateTime<Utc>,
) -> Result<Jobs, Error> {
    let newest = newest_revision(connection).await?;
    let rows = sqlx::query(
        "SELECT t.id, e.role, t.grant_payload, t.grant_signature, t.traceparent, t.end_time IS NOT NULL AND t.state IN ('failed', 'cancelled') AS stop, \
         t.pause_time IS NOT NULL AND t.end_time IS NULL AS pause, t.job_revision FROM transfers t \
         CROSS JOIN LATERAL (VALUES ('sender', t.source), ('receiver', t.destination)) AS e (role, node) \
         LEFT JOIN transfer_ends x ON x.transfer = t.id AND x.role = e.role \
         WHERE (t.source = $1 OR t.destination = $1) AND e.node = $1 AND t.job_revision > $2 AND t.grant_expire_time > $3 \
         AND NOT coalesce(x.ended, false) AND (t.end_time IS NULL OR e.role = 'receiver' OR t.state IN ('failed', 'cancelled')) \
         ORDER BY t.job_revision, e.role LIMIT $4",
    )
    .bind(node.uuid())
    .bind(after.map_or(-1, |after| after.value().cast_signed()))
    .bind(now)
    .bind(MAX_JOBS)
    .fetch_all(connection)
    .await?;
    let more = i64::try_from(rows.len()).is_ok_and(|count| count == MAX_JOBS);
    let until = match rows.last() {
        // The other end of the last one may be cut off: it comes again.
        Some(last) if more => super::revision(last.try_get::<i64, _>("job_revision")? - 1)?,
        Some(_) | None => newest,
    };
    Ok(Jobs { jobs: rows.iter().map(read_job).collect::<Result<_, Error>>()?, until, more })
}

fn read_job(row: &PgRow) -> Result<Job, Error> {
    let damaged = || Error::Damaged("transfer");
    let role: &str = row.try_get("role")?;
    let signature: Vec<u8> = row.try_get("grant_signature")?;
    Ok(Job {
        transfer: TransferId::new(row.try_get("id")?),
        role: role_of(role).ok_or_else(damaged)?,
        grant: Signed {
            payload: row.try_get("grant_payload")?,
            signature: signature.try_into().map_err(|_length| damaged())?,
        },
        traceparent: row.try_get("traceparent")?,
        cancel: row.try_get("stop")?,
        pause: row.try_get("pause")?,
        order: super::revision(row.try_get("job_revision")?)?,
    })
}

/// The nodes whose jobs changed after a revision, and how far that goes; none at the first reading.
///
/// # Errors
/// The database failed.
pub async fn nodes_with_new_jobs(db: &Db, after: Option<Revision>) -> Result<(Vec<NodeUid>, Revision), Error> {
    db.read(move |connection| {
        async move {
            let newest = newest_revision(connection).await?;
            let Some(after) = after.filter(|after| *after < newest) else { return Ok((Vec::new(), newest)) };
            let select = sqlx::query_as("SELECT source, destination FROM transfers WHERE job_revision > $1");
            let ends: Vec<(Uuid, Uuid)> = select.bind(after.value().cast_signed()).fetch_all(connection).await?;
            let nodes = ends.into_iter().flat_map(|(source, destination)| [source, destination]);
            Ok((nodes.map(NodeUid::new).collect(), newest))
        }
        .boxed()
    })
    .await
}
