//! Appending, by the commit of what is audited.

use chrono::{DateTime, SubsecRound as _, Utc};
use control_plane_audit::{Outcome, Record};
use foundation_merkle::{Checkpoint, Frontier, Hash, NodeAddress, leaf_hash};
use serde_json::Value;
use sqlx::{FromRow, PgConnection};

use super::{AuditKey, signed};
use crate::{Context, Error, Event, Unaudited};

/// The head row, locked.
#[derive(FromRow)]
struct LockedHead {
    origin: String,
    verifier_key: String,
    size: i64,
    frontier: Vec<u8>,
    checkpoint: String,
    time: DateTime<Utc>,
}

/// A transaction that recorded nothing must have written nothing: it would have a transaction id.
pub(crate) async fn require_no_change(transaction: &mut Unaudited, name: &'static str) -> Result<(), Error> {
    let changed: bool = sqlx::query_scalar("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        .fetch_one(transaction.connection())
        .await?;
    if changed { Err(Error::Unaudited(name)) } else { Ok(()) }
}

/// A head as it was signed: known only once it is committed.
pub(crate) type SignedHead = (Checkpoint, String);

/// Appends the events, and signs the new head. The lock is the transaction's last.
pub(crate) async fn append(
    transaction: &mut Unaudited,
    key: &AuditKey,
    context: &Context,
    events: &[Event],
) -> Result<SignedHead, Error> {
    let now = transaction.now();
    append_on(transaction.connection(), now, key, None, context, events).await
}

/// The same, where the transaction is not one of [`crate::Db`]'s; the log may go on under another origin.
pub(crate) async fn append_on(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    key: &AuditKey,
    new_origin: Option<String>,
    context: &Context,
    events: &[Event],
) -> Result<SignedHead, Error> {
    let head: Option<LockedHead> =
        sqlx::query_as("SELECT origin, verifier_key, size, frontier, checkpoint, time FROM audit_head FOR UPDATE")
            .fetch_optional(&mut *connection)
            .await?;
    let head = head.ok_or_else(|| Error::AuditTampered("its head is gone".to_owned()))?;
    if head.verifier_key != key.verifier().to_string() {
        return Err(Error::AuditTampered("its head names another key".to_owned()));
    }
    // Servers' clocks differ a little; the log's times never go back.
    let time = now.max(head.time).trunc_subsecs(3);
    let mut frontier = frontier(&head)?;
    key.require_signed(&head.origin, &head.checkpoint, &frontier)?;
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
    let (origin, root) = (new_origin.unwrap_or(head.origin), frontier.root());
    let checkpoint = key.sign(&origin, frontier.size(), root)?;
    sqlx::query("UPDATE audit_head SET size = $1, frontier = $2, root = $3, checkpoint = $4, time = $5, origin = $6")
        .bind(signed(frontier.size())?)
        .bind(frontier.roots().iter().flat_map(|hash| hash.0).collect::<Vec<u8>>())
        .bind(root.0.as_slice())
        .bind(&checkpoint)
        .bind(time)
        .bind(&origin)
        .execute(connection)
        .await?;
    Ok((Checkpoint { origin, size: frontier.size(), root }, checkpoint))
}

fn frontier(head: &LockedHead) -> Result<Frontier, Error> {
    let damaged = || Error::Damaged("audit head");
    let hashes: Option<Vec<Hash>> = head.frontier.chunks(32).map(|bytes| Hash::try_from(bytes).ok()).collect();
    let size = u64::try_from(head.size).map_err(|_negative| damaged())?;
    Frontier::from_parts(size, hashes.ok_or_else(damaged)?).map_err(|_count| damaged())
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
