//! The audit log in the database: appended to under the lock of its head, read in order, proven from the stored full subtrees.

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound as _, Utc};
use control_plane_audit::{Outcome, Record};
use ed25519_dalek::SigningKey;
use foundation_merkle::{
    Checkpoint, Frontier, Hash, NodeAddress, ProofError, VerifierKey, consistency_needs, consistency_proof,
    inclusion_needs, inclusion_proof, leaf_hash,
};
use proto_model::{Filter, FilterTerm};
use serde_json::{Map, Value};
use sqlx::{FromRow, PgConnection};

use crate::{Context, Db, Error, Event, Unaudited};

/// The key that signs the log's head.
pub struct AuditKey {
    key: SigningKey,
    verifier: VerifierKey,
}

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

/// One event, as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Its fields.
    pub record: Record,
    /// The bytes that were hashed.
    pub leaf: Vec<u8>,
    /// Their hash.
    pub leaf_hash: Hash,
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

/// A filter names what events do not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be filtered by: actor, action, resource or outcome is expected")]
pub struct FilterKeyError(pub String);

/// Which events are listed; each that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    actor: Option<String>,
    action: Option<String>,
    resource: Option<String>,
    outcome: Option<String>,
}

impl AuditKey {
    /// A key under its name.
    ///
    /// # Errors
    /// The name cannot stand in a signed note.
    pub fn new(name: &str, key: SigningKey) -> Result<Self, foundation_merkle::CheckpointError> {
        let verifier = VerifierKey::new(name, key.verifying_key())?;
        Ok(Self { key, verifier })
    }

    /// What verifies its signatures.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    pub(crate) fn sign(&self, origin: &str, size: u64, root: Hash) -> Result<String, Error> {
        Checkpoint { origin: origin.to_owned(), size, root }
            .sign(self.verifier.name(), &self.key)
            .map_err(|_unfit_name| Error::Damaged("name of the audit log"))
    }
}

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditKey({})", self.verifier)
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Appending

/// The head row, locked.
#[derive(FromRow)]
struct LockedHead {
    origin: String,
    verifier_key: String,
    size: i64,
    frontier: Vec<u8>,
    time: DateTime<Utc>,
}

/// A transaction that recorded nothing must have written nothing: it would have a transaction id.
pub(crate) async fn require_no_change(transaction: &mut Unaudited, name: &'static str) -> Result<(), Error> {
    let changed: bool = sqlx::query_scalar("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        .fetch_one(transaction.connection())
        .await?;
    if changed { Err(Error::Unaudited(name)) } else { Ok(()) }
}

/// Appends the events, signs the new head. The lock is the transaction's last.
pub(crate) async fn append(
    transaction: &mut Unaudited,
    key: &AuditKey,
    context: &Context,
    events: &[Event],
) -> Result<(), Error> {
    let now = transaction.now();
    append_on(transaction.connection(), now, key, context, events).await
}

/// The same, where the transaction is not one of [`Db`]'s.
pub(crate) async fn append_on(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    key: &AuditKey,
    context: &Context,
    events: &[Event],
) -> Result<(), Error> {
    let head: LockedHead =
        sqlx::query_as("SELECT origin, verifier_key, size, frontier, time FROM audit_head FOR UPDATE")
            .fetch_one(&mut *connection)
            .await?;
    if head.verifier_key != key.verifier().to_string() {
        return Err(Error::NoAuditKey);
    }
    // Servers' clocks differ a little; the log's times never go back.
    let time = now.max(head.time).trunc_subsecs(3);
    let mut frontier = frontier(&head)?;
    let (mut rows, mut nodes) = (EventRows::default(), NodeRows::default());
    for event in events {
        let record = Record {
            sequence: frontier.size(),
            time,
            actor: proto_model::escape_str(&context.actor.to_string()),
            action: event.action.to_owned(),
            resource: proto_model::escape_str(&event.resource),
            outcome: if event.refused { Outcome::Refused } else { Outcome::Ok },
            detail: event.detail.clone(),
            trace_id: event.trace_id.clone().unwrap_or_else(|| context.trace_id.clone()),
        };
        let leaf = record.leaf_bytes();
        let hash = leaf_hash(&leaf);
        rows.push(record, leaf, hash)?;
        for (address, hash) in frontier.append(hash) {
            nodes.push(address, hash)?;
        }
    }
    rows.insert(connection).await?;
    nodes.insert(connection).await?;
    let root = frontier.root();
    let checkpoint = key.sign(&head.origin, frontier.size(), root)?;
    sqlx::query("UPDATE audit_head SET size = $1, frontier = $2, root = $3, checkpoint = $4, time = $5")
        .bind(signed(frontier.size())?)
        .bind(frontier.roots().iter().flat_map(|hash| hash.0).collect::<Vec<u8>>())
        .bind(root.0.as_slice())
        .bind(checkpoint)
        .bind(time)
        .execute(connection)
        .await?;
    Ok(())
}

fn frontier(head: &LockedHead) -> Result<Frontier, Error> {
    let damaged = || Error::Damaged("audit head");
    let hashes: Option<Vec<Hash>> = head.frontier.chunks(32).map(|bytes| Hash::try_from(bytes).ok()).collect();
    let size = u64::try_from(head.size).map_err(|_negative| damaged())?;
    Frontier::from_parts(size, hashes.ok_or_else(damaged)?).map_err(|_count| damaged())
}

fn signed(number: u64) -> Result<i64, Error> {
    i64::try_from(number).map_err(|_too_large| Error::Damaged("size of the audit log"))
}

#[derive(Default)]
struct EventRows {
    sequences: Vec<i64>,
    times: Vec<DateTime<Utc>>,
    actors: Vec<String>,
    actions: Vec<String>,
    resources: Vec<String>,
    outcomes: Vec<&'static str>,
    details: Vec<Value>,
    trace_ids: Vec<String>,
    leaves: Vec<Vec<u8>>,
    hashes: Vec<Vec<u8>>,
}

impl EventRows {
    fn push(&mut self, record: Record, leaf: Vec<u8>, hash: Hash) -> Result<(), Error> {
        self.sequences.push(signed(record.sequence)?);
        self.times.push(record.time);
        self.actors.push(record.actor);
        self.actions.push(record.action);
        self.resources.push(record.resource);
        self.outcomes.push(record.outcome.as_str());
        self.details.push(Value::Object(record.detail));
        self.trace_ids.push(record.trace_id);
        self.leaves.push(leaf);
        self.hashes.push(hash.0.to_vec());
        Ok(())
    }

    async fn insert(self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO audit_events
                 (sequence, time, actor, action, resource, outcome, detail, trace_id, leaf, leaf_hash)
             SELECT * FROM UNNEST($1::bigint[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[],
                                  $7::jsonb[], $8::text[], $9::bytea[], $10::bytea[])",
        )
        .bind(self.sequences)
        .bind(self.times)
        .bind(self.actors)
        .bind(self.actions)
        .bind(self.resources)
        .bind(self.outcomes)
        .bind(self.details)
        .bind(self.trace_ids)
        .bind(self.leaves)
        .bind(self.hashes)
        .execute(&mut *connection)
        .await?;
        Ok(())
    }
}

#[derive(Default)]
struct NodeRows {
    levels: Vec<i16>,
    indexes: Vec<i64>,
    hashes: Vec<Vec<u8>>,
}

impl NodeRows {
    fn push(&mut self, address: NodeAddress, hash: Hash) -> Result<(), Error> {
        self.levels.push(i16::from(address.level));
        self.indexes.push(signed(address.index)?);
        self.hashes.push(hash.0.to_vec());
        Ok(())
    }

    async fn insert(self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO audit_nodes (level, index, hash)
             SELECT * FROM UNNEST($1::smallint[], $2::bigint[], $3::bytea[])",
        )
        .bind(self.levels)
        .bind(self.indexes)
        .bind(self.hashes)
        .execute(&mut *connection)
        .await?;
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

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
        let damaged = || Error::Damaged("audit event");
        let detail = match row.detail {
            Value::Object(detail) => detail,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
        };
        let record = Record {
            sequence: u64::try_from(row.sequence).map_err(|_negative| damaged())?,
            time: row.time,
            actor: row.actor,
            action: row.action,
            resource: row.resource,
            outcome: row.outcome.parse().map_err(|_unknown| damaged())?,
            detail,
            trace_id: row.trace_id,
        };
        let leaf_hash = Hash::try_from(row.leaf_hash.as_slice()).map_err(|_length| damaged())?;
        Ok(Self { record, leaf: row.leaf, leaf_hash })
    }
}

impl EventFilter {
    /// Whether an event is meant.
    fn add(&mut self, term: &FilterTerm) -> Result<(), FilterKeyError> {
        let place = match term.key.as_str() {
            "actor" => &mut self.actor,
            "action" => &mut self.action,
            "resource" => &mut self.resource,
            "outcome" => &mut self.outcome,
            _ => return Err(FilterKeyError(term.key.clone())),
        };
        let mut pattern = String::new();
        for c in term.value.chars() {
            if matches!(c, '\\' | '%' | '_') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        if term.prefix {
            pattern.push('%');
        }
        *place = Some(pattern);
        Ok(())
    }
}

impl TryFrom<&Filter> for EventFilter {
    type Error = FilterKeyError;

    fn try_from(filter: &Filter) -> Result<Self, FilterKeyError> {
        let mut events = Self::default();
        filter.terms().iter().try_for_each(|term| events.add(term))?;
        Ok(events)
    }
}

const LIST_ASCENDING: &str = "
    SELECT * FROM audit_events
    WHERE sequence >= $1 AND ($2::text IS NULL OR actor LIKE $2) AND ($3::text IS NULL OR action LIKE $3)
      AND ($4::text IS NULL OR resource LIKE $4) AND ($5::text IS NULL OR outcome LIKE $5)
    ORDER BY sequence LIMIT $6";

const LIST_DESCENDING: &str = "
    SELECT * FROM audit_events
    WHERE sequence <= $1 AND ($2::text IS NULL OR actor LIKE $2) AND ($3::text IS NULL OR action LIKE $3)
      AND ($4::text IS NULL OR resource LIKE $4) AND ($5::text IS NULL OR outcome LIKE $5)
    ORDER BY sequence DESC LIMIT $6";

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
    Ok(page.into_iter().next().filter(|event| event.record.sequence == sequence))
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
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await?;
            rows.into_iter().map(StoredEvent::try_from).collect()
        })
    })
    .await
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
