//! Reading, and proofs. What is in the rows is handed on whatever was done to it: a row that was tampered with must be seen.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use control_plane_audit::Record;
use foundation_merkle::{
    Hash, NodeAddress, ProofError, consistency_needs, consistency_proof, inclusion_needs, inclusion_proof, leaf_hash,
    root_needs,
};
use serde_json::{Map, Value};
use sqlx::FromRow;

use super::{EventFilter, signed};
use crate::{Db, Error};

/// The log's head, as the last commit left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many events there are.
    pub size: u64,
    /// The tree's root.
    pub root: Hash,
    /// The signed checkpoint.
    pub checkpoint: String,
}

/// One event as it is stored: what this program wrote, unless somebody else changed it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// The leaf's index.
    pub sequence: u64,
    /// When.
    pub time: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// Of what.
    pub resource: String,
    /// `ok` or `refused`.
    pub outcome: String,
    /// What else is known of it.
    pub detail: Map<String, Value>,
    /// The trace.
    pub trace_id: String,
    /// The bytes that were hashed.
    pub leaf: Vec<u8>,
    /// Their hash, 32 bytes.
    pub leaf_hash: Vec<u8>,
}

/// In which order events are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// A proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
    /// The sizes are impossible, or a hash is missing.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl StoredEvent {
    /// The record that the columns say; absent where no such record could have been written.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        Some(Record {
            sequence: self.sequence,
            time: self.time,
            actor: self.actor.clone(),
            action: self.action.clone(),
            resource: self.resource.clone(),
            outcome: self.outcome.parse().ok()?,
            detail: self.detail.clone(),
            trace_id: self.trace_id.clone(),
        })
    }

    /// Whether columns, leaf and hash say the same.
    #[must_use]
    pub fn is_as_hashed(&self) -> bool {
        let record = self.record();
        record.is_some_and(|record| {
            record == record.clone().at_stored_precision()
                && record.leaf_bytes() == self.leaf
                && leaf_hash(&self.leaf).0.as_slice() == self.leaf_hash
        })
    }
}

#[derive(FromRow)]
struct EventRow {
    sequence: i64,
    time: DateTime<Utc>,
    actor: String,
    action: String,
    resource: String,
    outcome: String,
    detail: Value,
    trace_id: String,
    leaf: Vec<u8>,
    leaf_hash: Vec<u8>,
}

impl TryFrom<EventRow> for StoredEvent {
    type Error = Error;

    fn try_from(row: EventRow) -> Result<Self, Error> {
        let detail = match row.detail {
            Value::Object(detail) => detail,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
        };
        Ok(Self {
            sequence: u64::try_from(row.sequence).map_err(|_negative| Error::Damaged("audit event"))?,
            time: row.time,
            actor: row.actor,
            action: row.action,
            resource: row.resource,
            outcome: row.outcome,
            detail,
            trace_id: row.trace_id,
            leaf: row.leaf,
            leaf_hash: row.leaf_hash,
        })
    }
}

/// The columns, such that none of what SQL could put there makes the row unreadable: whoever drops a constraint must not go unseen.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT sequence,
                 LEAST(GREATEST(COALESCE(time, '-infinity'), '0001-01-01Z'), '9999-12-31Z') AS time,
                 COALESCE(actor, '') AS actor, COALESCE(action, '') AS action, COALESCE(resource, '') AS resource,
                 COALESCE(outcome, '') AS outcome, COALESCE(detail, 'null') AS detail,
                 COALESCE(trace_id, '') AS trace_id, COALESCE(leaf, '') AS leaf, COALESCE(leaf_hash, '') AS leaf_hash
             FROM audit_events ",
            $rest
        )
    };
}

const LIST_ASCENDING: &str = select!(
    "WHERE sequence >= $1 AND ($2::text IS NULL OR actor LIKE $2) AND ($3::text IS NULL OR action LIKE $3)
      AND ($4::text IS NULL OR resource LIKE $4) AND ($5::text IS NULL OR outcome LIKE $5)
      AND ($6::timestamptz IS NULL OR time >= $6) AND ($7::timestamptz IS NULL OR time < $7)
    ORDER BY sequence LIMIT $8"
);

const LIST_DESCENDING: &str = select!(
    "WHERE sequence BETWEEN 0 AND $1 AND ($2::text IS NULL OR actor LIKE $2) AND ($3::text IS NULL OR action LIKE $3)
      AND ($4::text IS NULL OR resource LIKE $4) AND ($5::text IS NULL OR outcome LIKE $5)
      AND ($6::timestamptz IS NULL OR time >= $6) AND ($7::timestamptz IS NULL OR time < $7)
    ORDER BY sequence DESC LIMIT $8"
);

const STRETCH: &str = select!("WHERE sequence >= $1 AND sequence < $2 ORDER BY sequence LIMIT $3");

/// The log's head; absent before the fleet was made.
///
/// # Errors
/// The database failed.
pub async fn head(db: &Db) -> Result<Option<Head>, Error> {
    db.read(|connection| {
        Box::pin(async move {
            let row: Option<(i64, Vec<u8>, String)> =
                sqlx::query_as("SELECT size, root, checkpoint FROM audit_head").fetch_optional(connection).await?;
            let Some((size, root, checkpoint)) = row else { return Ok(None) };
            let damaged = || Error::Damaged("audit head");
            let size = u64::try_from(size).map_err(|_negative| damaged())?;
            let root = Hash::try_from(root.as_slice()).map_err(|_length| damaged())?;
            Ok(Some(Head { size, root, checkpoint }))
        })
    })
    .await
}

/// One event.
///
/// # Errors
/// The database failed.
pub async fn event(db: &Db, sequence: u64) -> Result<Option<StoredEvent>, Error> {
    let page = list(db, EventFilter::default(), Order::Ascending, Some(sequence), 1).await?;
    Ok(page.into_iter().next().filter(|event| event.sequence == sequence))
}

/// At most `limit` events from `from` on (with it), in this order; from the first or the last where `from` is absent.
///
/// # Errors
/// The database failed.
pub async fn list(
    db: &Db,
    filter: EventFilter,
    order: Order,
    from: Option<u64>,
    limit: u32,
) -> Result<Vec<StoredEvent>, Error> {
    let (statement, default) = match order {
        Order::Ascending => (LIST_ASCENDING, 0),
        Order::Descending => (LIST_DESCENDING, i64::MAX),
    };
    let from = from.map_or(default, |from| i64::try_from(from).unwrap_or(i64::MAX));
    db.read(move |connection| {
        Box::pin(async move {
            let rows: Vec<EventRow> = sqlx::query_as(statement)
                .bind(from)
                .bind(filter.actor)
                .bind(filter.action)
                .bind(filter.resource)
                .bind(filter.outcome)
                .bind(filter.since)
                .bind(filter.until)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await?;
            rows.into_iter().map(StoredEvent::try_from).collect()
        })
    })
    .await
}

/// The sequence number of the last row, whether the head covers it or not.
///
/// # Errors
/// The database failed.
pub async fn newest_sequence(db: &Db) -> Result<Option<u64>, Error> {
    let newest: Option<i64> = db
        .read(|connection| {
            Box::pin(async move {
                Ok(sqlx::query_scalar("SELECT max(sequence) FROM audit_events").fetch_one(connection).await?)
            })
        })
        .await?;
    newest.map(|newest| u64::try_from(newest).map_err(|_negative| Error::Damaged("audit event"))).transpose()
}

/// The first event at or after a time; the log's times never go back.
///
/// # Errors
/// The database failed.
pub async fn first_at(db: &Db, time: DateTime<Utc>) -> Result<Option<u64>, Error> {
    let page = list(db, EventFilter::since(time), Order::Ascending, None, 1).await?;
    Ok(page.first().map(|event| event.sequence))
}

/// Reads a stretch of the log in order, some rows at a time; also rows that bear a number twice, so that none hides behind another.
#[derive(Debug)]
pub struct LogReader {
    db: Db,
    next: u64,
    end: u64,
    /// The number of the row that was read last, and how many rows of that number were.
    last: Option<(u64, u32)>,
}

impl LogReader {
    /// From `first` up to `end`, without it.
    #[must_use]
    pub fn new(db: Db, first: u64, end: u64) -> Self {
        Self { db, next: first, end, last: None }
    }

    /// At most `limit` rows; none at the end.
    ///
    /// # Errors
    /// The database failed.
    pub async fn read(&mut self, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        if self.next >= self.end && self.last.is_none() {
            return Ok(Vec::new());
        }
        // The last row is read again: if another bears its number, that one is seen too.
        let (from, again) = self.last.unwrap_or((self.next, 0));
        let (from, end) = (signed(from)?, i64::try_from(self.end).unwrap_or(i64::MAX));
        let limit = i64::from(limit) + i64::from(again);
        let rows: Vec<EventRow> = self
            .db
            .read(move |connection| {
                Box::pin(async move {
                    Ok(sqlx::query_as(STRETCH).bind(from).bind(end).bind(limit).fetch_all(connection).await?)
                })
            })
            .await?;
        let events = rows.into_iter().skip(usize::try_from(again).unwrap_or(usize::MAX));
        let events = events.map(StoredEvent::try_from).collect::<Result<Vec<_>, _>>()?;
        for event in &events {
            self.last = match self.last {
                Some((last, count)) if last == event.sequence => Some((last, count.saturating_add(1))),
                Some(_) | None => Some((event.sequence, 1)),
            };
            self.next = event.sequence.saturating_add(1);
        }
        Ok(events)
    }
}

/// The hashes of the full subtrees that the first `size` events make, largest first: what a frontier is made of.
///
/// # Errors
/// The database failed, or the tree is not whole.
pub async fn left_of(db: &Db, size: u64) -> Result<Vec<Hash>, ProveError> {
    let needs = root_needs(size);
    let nodes = nodes(db, needs.clone()).await?;
    let found = needs.into_iter().map(|address| nodes.get(&address).copied().ok_or(ProofError::Missing { address }));
    Ok(found.collect::<Result<_, _>>()?)
}

/// Proves that event `sequence` is in the log's first `size` events.
///
/// # Errors
/// The database failed, or there is no such event.
pub async fn prove_inclusion(db: &Db, size: u64, sequence: u64) -> Result<Vec<Hash>, ProveError> {
    let nodes = nodes(db, inclusion_needs(size, sequence)?).await?;
    Ok(inclusion_proof(size, sequence, |address| nodes.get(&address).copied())?)
}

/// Proves that the log of `first` events is the beginning of the log of `second` events.
///
/// # Errors
/// The database failed, or the sizes are impossible.
pub async fn prove_consistency(db: &Db, first: u64, second: u64) -> Result<Vec<Hash>, ProveError> {
    let nodes = nodes(db, consistency_needs(first, second)?).await?;
    Ok(consistency_proof(first, second, |address| nodes.get(&address).copied())?)
}

async fn nodes(db: &Db, wanted: Vec<NodeAddress>) -> Result<HashMap<NodeAddress, Hash>, Error> {
    let mut levels = Vec::with_capacity(wanted.len());
    let mut indexes = Vec::with_capacity(wanted.len());
    for address in wanted {
        levels.push(i16::from(address.level));
        indexes.push(signed(address.index)?);
    }
    let rows: Vec<(i16, i64, Vec<u8>)> = db
        .read(move |connection| {
            Box::pin(async move {
                Ok(sqlx::query_as(
                    "SELECT level, index, hash FROM audit_nodes
                     JOIN UNNEST($1::smallint[], $2::bigint[]) AS wanted (level, index) USING (level, index)",
                )
                .bind(levels)
                .bind(indexes)
                .fetch_all(connection)
                .await?)
            })
        })
        .await?;
    let damaged = || Error::Damaged("node of the audit tree");
    rows.into_iter()
        .map(|(level, index, hash)| {
            let level = u8::try_from(level).map_err(|_range| damaged())?;
            let index = u64::try_from(index).map_err(|_negative| damaged())?;
            Ok((NodeAddress { level, index }, Hash::try_from(hash.as_slice()).map_err(|_length| damaged())?))
        })
        .collect()
}
