//! Reading syncs: pages, what changed after a revision, and what a node is an end of.

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use proto_model::{NodeUid, Revision, SyncId, SyncName, SyncState, TransferRole};
use proto_wire::Signed;
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{Sync, number, read, select_syncs};
use crate::{Db, Error, transfers::newest_revision};

/// Which syncs are meant; all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncFilter {
    /// In this state.
    pub state: Option<SyncState>,
    /// With this node, by name, at either end.
    pub node: Option<String>,
    /// Of this name.
    pub name: Option<SyncName>,
}

impl SyncFilter {
    /// Whether a sync is meant.
    #[must_use]
    pub fn matches(&self, sync: &Sync, now: DateTime<Utc>) -> bool {
        sync.delete_time.is_none()
            && self.state.is_none_or(|state| sync.state(now) == state)
            && self.name.as_ref().is_none_or(|name| *name == sync.name)
            && self.node.as_ref().is_none_or(|node| sync.end_names.iter().any(|name| name.as_str() == node))
    }
}

/// At most `limit` syncs in order of their names, after `after`. The filter is the caller's to apply: their states are not columns.
///
/// # Errors
/// The database failed.
pub async fn page(db: &Db, after: Option<SyncName>, limit: u32) -> Result<Vec<Sync>, Error> {
    let rows = sqlx::query(select_syncs!(
        "WHERE y.delete_time IS NULL AND ($1::text IS NULL OR y.name > $1) ORDER BY y.name LIMIT $2"
    ))
    .bind(after.map(String::from))
    .bind(i64::from(limit));
    db.read(move |connection| async move { rows.fetch_all(connection).await?.iter().map(read).collect() }.boxed()).await
}

/// What changed after a revision, in the order of the changes; deleted ones too.
///
/// # Errors
/// The database failed.
pub async fn changed(db: &Db, after: Revision, limit: u32) -> Result<Vec<Sync>, Error> {
    let rows = sqlx::query(select_syncs!("WHERE y.revision > $1 ORDER BY y.revision LIMIT $2"))
        .bind(after.value().cast_signed())
        .bind(i64::from(limit));
    db.read(move |connection| async move { rows.fetch_all(connection).await?.iter().map(read).collect() }.boxed()).await
}

/// How many syncs are in each state.
///
/// # Errors
/// The database failed.
pub async fn states(db: &Db) -> Result<Vec<(SyncState, i64)>, Error> {
    let now = db.clock().utc();
    let mut counts: Vec<(SyncState, i64)> = Vec::new();
    for sync in page(db, None, u32::MAX >> 1).await? {
        let state = sync.state(now);
        match counts.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    Ok(counts)
}

/// One sync, for one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncJob {
    /// Which.
    pub sync: SyncId,
    /// What the node does in it.
    pub role: TransferRole,
    /// The standing grant.
    pub grant: Signed,
    /// Whether it is held.
    pub pause: bool,
    /// Of the last change of what the ends should do.
    pub order: Revision,
    /// Runs that were asked for.
    pub run_request: u64,
    /// The least time between beginnings of runs, in milliseconds.
    pub every_ms: u64,
}

/// What one node is told of at once, whatever the limits are.
const MAX_JOBS: i64 = 100_000;

/// All syncs that a node is an end of.
///
/// # Errors
/// The database failed.
pub async fn jobs(db: &Db, node: NodeUid) -> Result<Vec<SyncJob>, Error> {
    let rows = sqlx::query(
        "SELECT y.id, y.source = $1 AS sends, y.grant_payload, y.grant_signature, y.pause_time IS NOT NULL AS pause, \
         y.job_revision, y.run_request, y.every_ms FROM syncs y \
         JOIN nodes s ON s.uid = y.source JOIN nodes d ON d.uid = y.destination \
         WHERE y.delete_time IS NULL AND (y.source = $1 OR y.destination = $1) \
         AND s.revoke_time IS NULL AND d.revoke_time IS NULL ORDER BY y.id LIMIT $2",
    )
    .bind(node.uuid())
    .bind(MAX_JOBS);
    db.read(move |connection| async move { rows.fetch_all(connection).await?.iter().map(read_job).collect() }.boxed())
        .await
}

fn read_job(row: &PgRow) -> Result<SyncJob, Error> {
    let signature: Vec<u8> = row.try_get("grant_signature")?;
    let signature = signature.try_into().map_err(|_length| Error::Damaged("sync"))?;
    let sends: bool = row.try_get("sends")?;
    Ok(SyncJob {
        sync: SyncId::new(row.try_get("id")?),
        role: if sends { TransferRole::Sender } else { TransferRole::Receiver },
        grant: Signed { payload: row.try_get("grant_payload")?, signature },
        pause: row.try_get("pause")?,
        order: Revision::new(number(row.try_get("job_revision")?)?),
        run_request: number(row.try_get("run_request")?)?,
        every_ms: number(row.try_get("every_ms")?)?,
    })
}

/// The nodes whose syncs changed after a revision, and how far that goes; none at the first reading.
///
/// # Errors
/// The database failed.
pub async fn nodes_with_new_jobs(db: &Db, after: Option<Revision>) -> Result<(Vec<NodeUid>, Revision), Error> {
    db.read(move |connection| {
        async move {
            let newest = newest_revision(connection).await?;
            let Some(after) = after.filter(|after| *after < newest) else { return Ok((Vec::new(), newest)) };
            let select = sqlx::query_as("SELECT source, destination FROM syncs WHERE job_revision > $1");
            let ends: Vec<(Uuid, Uuid)> = select.bind(after.value().cast_signed()).fetch_all(connection).await?;
            let nodes = ends.into_iter().flat_map(|(source, destination)| [source, destination]);
            Ok((nodes.map(NodeUid::new).collect(), newest))
        }
        .boxed()
    })
    .await
}
