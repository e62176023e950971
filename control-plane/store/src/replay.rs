//! Revocations that a restore has forgotten, as agents give them back (D12).
//!
//! A node that was revoked after the backup was made stays revoked: agents hold the entry that this fleet's own key signed. Nothing else
//! than a revocation is taken from them, and none that a later decision has overtaken.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message as _;
use proto_model::{Epoch, NodeName, NodeRef, Revision, RosterEntry};
use proto_rpc::agent;
use proto_wire::{Signed, roster as wire};
use sqlx::types::Json;

use crate::{
    Actor, Context, Db, Error, Event, Keys, Tx,
    node::column,
    nodes::{self, Node, NodeState},
    roster,
};

/// Why the node is out, for people.
const REASON: &str = "was deleted after the backup that was restored";

/// Takes what an agent gives back; how many nodes were revoked by it.
///
/// # Errors
/// The database failed.
pub async fn revocations(db: &Db, keys: &Arc<Keys>, entries: &[Signed], reporter: &NodeName) -> Result<u64, Error> {
    let mut revoked = 0;
    for signed in entries {
        let Ok(entry) = wire::open_entry(&keys.roster().verifying_key(), signed) else { continue };
        // One of this epoch is in the roster already.
        if !entry.revoked || entry.epoch >= keys.epoch() {
            continue;
        }
        let (keys, context) =
            (Arc::clone(keys), Context { actor: Actor::Node(reporter.to_string()), ..Context::system() });
        let done =
            db.write("replay-revocation", context, move |tx| Box::pin(async move { revoke(tx, &keys, &entry).await }));
        revoked += u64::from(done.await?);
    }
    Ok(revoked)
}

async fn revoke(tx: &mut Tx, keys: &Keys, entry: &RosterEntry) -> Result<bool, Error> {
    let done = match nodes::lock(tx.unaudited(), &NodeRef::Uid(entry.uid)).await? {
        Some(node) if node.revoke_time.is_some() || decided_since(tx, entry).await? => false,
        Some(mut node) => {
            node.revoke_time = Some(tx.now());
            node.state = NodeState::Revoked;
            node.state_reason = REASON.to_owned();
            node.connected = false;
            nodes::store_decided(tx, keys, &mut node).await?;
            true
        }
        None => insert(tx, keys, entry).await?,
    };
    if !done {
        tx.discard();
        return Ok(false);
    }
    let epoch_and_sequence = format!("{}.{}", entry.epoch, entry.sequence);
    tx.audit(
        Event::new("node.revocation_replayed", entry.name.resource_name())
            .with("uid", entry.uid.to_string())
            .with("roster_entry", epoch_and_sequence),
    );
    Ok(true)
}

/// Whether an operator decided something of the node in this epoch.
async fn decided_since(tx: &mut Tx, entry: &RosterEntry) -> Result<bool, Error> {
    let (epoch, sequence): (i64, i64) =
        sqlx::query_as("SELECT roster_epoch, roster_sequence FROM nodes WHERE uid = $1")
            .bind(entry.uid.uuid())
            .fetch_one(tx.connection())
            .await?;
    let damaged = |_negative| Error::Damaged("roster entry");
    let epoch = Epoch::new(u64::try_from(epoch).map_err(damaged)?);
    let sequence = u64::try_from(sequence).map_err(damaged)?;
    Ok((epoch, sequence) > (entry.epoch, entry.sequence.value()))
}

/// A node that joined and was revoked after the backup was made: its row says no more than that it is out. False where its key is
/// another node's meanwhile: then an operator has let the host in again.
async fn insert(tx: &mut Tx, keys: &Keys, entry: &RosterEntry) -> Result<bool, Error> {
    let now = tx.now();
    let used: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM nodes WHERE public_key = $1)")
        .bind(entry.public_key.as_bytes().as_slice())
        .fetch_one(tx.connection())
        .await?;
    if used {
        return Ok(false);
    }
    let revision = tx.next_revision().await?;
    let node = revoked_node(entry, now, revision);
    let signed = roster::sign(keys, &node);
    sqlx::query(
        "INSERT INTO nodes (uid, name, holds_name, public_key, node_id, labels, relay, version, certificate, \
             certificate_expire_time, create_time, update_time, revoke_time, state, state_reason, facts, revision, \
             create_revision, roster_epoch, roster_sequence, roster_payload, roster_signature) \
         VALUES ($1, $2, NOT EXISTS (SELECT FROM nodes WHERE name = $2 AND holds_name), $3, $4, $5, $6, 1, '', $7, $7, $7, \
             $7, $8, $9, $10, $11, $11, $12, $11, $13, $14)",
    )
    .bind(node.uid.uuid())
    .bind(node.name.as_str())
    .bind(node.public_key.as_bytes().as_slice())
    .bind(node.node_id().as_bytes().as_slice())
    .bind(Json(BTreeMap::from(node.labels.clone())))
    .bind(node.relay)
    .bind(now)
    .bind(node.state.as_str())
    .bind(&node.state_reason)
    .bind(agent::HostFacts::default().encode_to_vec())
    .bind(column(revision.value())?)
    .bind(column(keys.epoch().value())?)
    .bind(signed.payload)
    .bind(signed.signature.as_slice())
    .execute(tx.connection())
    .await?;
    Ok(true)
}

fn revoked_node(entry: &RosterEntry, now: chrono::DateTime<chrono::Utc>, revision: Revision) -> Node {
    Node {
        uid: entry.uid,
        name: entry.name.clone(),
        public_key: entry.public_key,
        labels: entry.labels.clone(),
        relay: entry.relay,
        version: 1,
        certificate_expire_time: now,
        create_time: now,
        update_time: now,
        revoke_time: Some(now),
        state: NodeState::Revoked,
        state_reason: REASON.to_owned(),
        connected: false,
        facts: proto_model::HostFacts::default(),
        applied: proto_model::AppliedConfig::default(),
        components: Vec::new(),
        clock_skew_ms: 0,
        last_seen_time: None,
        revision,
        create_revision: revision,
    }
}
