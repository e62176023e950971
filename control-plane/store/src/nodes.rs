//! The hosts of the fleet: what an operator decided of them (audited, with an etag). What they report is [`crate::observation`]'s.
//!
//! Every change gives the row a new revision, so a watch asks for what is above the newest revision it has seen.

use std::collections::BTreeMap;

use proto_model::{Etag, Labels, NodeName, NodeRef, NodeUid, Revision};
use sqlx::types::Json;

pub use crate::node::{Node, NodeState};
use crate::{
    Db, Error, Event, Keys, Tx, Unaudited,
    node::{Row, column},
    roster, syncs, transfers,
};

/// What an operator changes of a node; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// All labels.
    pub labels: Option<Labels>,
    /// Whether it may relay.
    pub relay: Option<bool>,
}

/// Which nodes are listed; each that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFilter {
    /// Labels that a node must have.
    pub labels: Labels,
    /// The state it must be in; without it, deleted nodes are left out.
    pub state: Option<NodeState>,
}

/// A node cannot be changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
    /// There is none.
    #[error("there is no such node")]
    NotFound,
    /// It was deleted.
    #[error("the node was deleted")]
    Revoked,
    /// It is in the fleet.
    #[error("the node is not deleted")]
    NotDeleted,
    /// It changed since it was read.
    #[error("the node changed since it was read")]
    Stale {
        /// The present etag.
        current: Etag,
    },
}

impl NodeFilter {
    /// Whether a node is meant.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        let state = match self.state {
            Some(state) => node.state == state,
            None => node.state != NodeState::Revoked,
        };
        state && self.labels.iter().all(|(key, value)| node.labels.value(key) == Some(value))
    }
}

const BY_NAME: &str = "SELECT * FROM nodes WHERE name = $1 AND holds_name";
const BY_UID: &str = "SELECT * FROM nodes WHERE uid = $1";
const BY_ID: &str = "SELECT * FROM nodes WHERE node_id = $1";
const LOCK_BY_NAME: &str = "SELECT * FROM nodes WHERE name = $1 AND holds_name FOR NO KEY UPDATE";
const LOCK_BY_UID: &str = "SELECT * FROM nodes WHERE uid = $1 FOR NO KEY UPDATE";
const LOCK_BY_ID: &str = "SELECT * FROM nodes WHERE node_id = $1 FOR NO KEY UPDATE";

async fn fetch(
    connection: &mut sqlx::PgConnection,
    node: &NodeRef,
    [by_name, by_uid, by_id]: [&'static str; 3],
) -> Result<Option<Node>, Error> {
    let query = match node {
        NodeRef::Name(name) => sqlx::query_as(by_name).bind(name.as_str().to_owned()),
        NodeRef::Uid(uid) => sqlx::query_as(by_uid).bind(uid.uuid()),
        NodeRef::Id(id) => sqlx::query_as(by_id).bind(id.as_bytes().to_vec()),
    };
    let row: Option<Row> = query.fetch_optional(connection).await?;
    row.map(Node::try_from).transpose()
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

/// One node, also a deleted one.
///
/// # Errors
/// The database failed.
pub async fn get(db: &Db, node: NodeRef) -> Result<Option<Node>, Error> {
    db.read(move |connection| Box::pin(async move { fetch(connection, &node, [BY_NAME, BY_UID, BY_ID]).await })).await
}

/// One node, as the transaction sees it.
///
/// # Errors
/// The database failed.
pub async fn find(tx: &mut Unaudited, node: &NodeRef) -> Result<Option<Node>, Error> {
    fetch(tx.connection(), node, [BY_NAME, BY_UID, BY_ID]).await
}

/// One node, locked until the end of the transaction, but not for rows that refer to it. Locks are taken before
/// [`Unaudited::next_revision`].
///
/// # Errors
/// The database failed.
pub async fn lock(tx: &mut Unaudited, node: &NodeRef) -> Result<Option<Node>, Error> {
    fetch(tx.connection(), node, [LOCK_BY_NAME, LOCK_BY_UID, LOCK_BY_ID]).await
}

/// At most `limit` nodes in order of their names, after `after`.
///
/// # Errors
/// The database failed.
pub async fn list(
    db: &Db,
    filter: NodeFilter,
    after: Option<(NodeName, NodeUid)>,
    limit: u32,
) -> Result<Vec<Node>, Error> {
    let (name, uid) = after.map(|(name, uid)| (String::from(name), uid.uuid())).unzip();
    db.read(move |connection| {
        Box::pin(async move {
            let rows: Vec<Row> = sqlx::query_as(
                "SELECT * FROM nodes
                 WHERE labels @> $1 AND (($2::text IS NULL AND state <> 'revoked') OR state = $2)
                   AND ($3::text IS NULL OR (name, uid) > ($3, $4))
                 ORDER BY name, uid LIMIT $5",
            )
            .bind(Json(BTreeMap::from(filter.labels)))
            .bind(filter.state.map(NodeState::as_str))
            .bind(name)
            .bind(uid)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await?;
            rows.into_iter().map(Node::try_from).collect()
        })
    })
    .await
}

/// At most so many keys of labels are named to somebody who asked for another.
const MAX_LABEL_KEYS: i64 = 50;

/// The keys of labels that nodes have, deleted ones included.
///
/// # Errors
/// The database failed.
pub async fn label_keys(db: &Db) -> Result<Vec<String>, Error> {
    let select = sqlx::query_scalar("SELECT DISTINCT jsonb_object_keys(labels) FROM nodes ORDER BY 1 LIMIT $1");
    let select = select.bind(MAX_LABEL_KEYS);
    db.read(move |connection| Box::pin(async move { Ok(select.fetch_all(connection).await?) })).await
}

/// At most `limit` nodes that changed after `after`, in the order of their newest changes; deleted ones too.
///
/// # Errors
/// The database failed.
pub async fn changed_after(db: &Db, after: Revision, limit: u32) -> Result<Vec<Node>, Error> {
    let after = i64::try_from(after.value()).unwrap_or(i64::MAX);
    db.read(move |connection| {
        Box::pin(async move {
            let rows: Vec<Row> = sqlx::query_as("SELECT * FROM nodes WHERE revision > $1 ORDER BY revision LIMIT $2")
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await?;
            rows.into_iter().map(Node::try_from).collect()
        })
    })
    .await
}

// ---------------------------------------------------------------------------------------------------------------------
// What an operator decides

/// Changes a node: its labels, whether it may relay.
///
/// # Errors
/// There is none, it was deleted, it changed since it was read, or the database failed.
pub async fn update(
    tx: &mut Tx,
    keys: &Keys,
    node: &NodeRef,
    etag: Option<&Etag>,
    change: Change,
) -> Result<Node, ChangeError> {
    if let Some(resource) = tx.repeated(&node.resource_name()).await? {
        let first = NodeRef::from_resource_name(&resource).map_err(|_form| Error::Damaged("request"))?;
        return find(tx.unaudited(), &first).await?.ok_or(ChangeError::NotFound);
    }
    let mut node = lock_unchanged(tx, node, etag).await?;
    let labels = change.labels.unwrap_or_else(|| node.labels.clone());
    let relay = change.relay.unwrap_or(node.relay);
    if (&labels, relay) == (&node.labels, node.relay) {
        tx.discard();
        return Ok(node);
    }
    let mut event = Event::new("node.update", node.resource_name());
    if labels != node.labels {
        event = event.with("labels", labels.to_string()).with("former_labels", node.labels.to_string());
    }
    if relay != node.relay {
        event = event.with("relay", relay);
    }
    node.labels = labels;
    node.relay = relay;
    store_decided(tx, keys, &mut node).await?;
    tx.audit(event);
    Ok(node)
}

/// Deletes, that is revokes, a node: its roster entry says so, its name stays reserved, and its transfers end.
///
/// # Errors
/// There is none, it changed since it was read, or the database failed.
pub async fn delete(tx: &mut Tx, keys: &Keys, node: &NodeRef, etag: Option<&Etag>) -> Result<Node, ChangeError> {
    if let Some(resource) = tx.repeated(&node.resource_name()).await? {
        let first = NodeRef::from_resource_name(&resource).map_err(|_form| Error::Damaged("request"))?;
        return find(tx.unaudited(), &first).await?.ok_or(ChangeError::NotFound);
    }
    let mut node = lock_unchanged(tx, node, etag).await?;
    transfers::end_of_node(tx, node.uid).await?;
    syncs::lock_of_node(tx, node.uid).await?;
    node.revoke_time = Some(tx.now());
    node.state = NodeState::Revoked;
    node.state_reason = "deleted by an operator".to_owned();
    node.connected = false;
    store_decided(tx, keys, &mut node).await?;
    syncs::cut(tx, node.uid, node.revision).await?;
    tx.audit(
        Event::new("node.delete", node.resource_name())
            .with("uid", node.uid.to_string())
            .with("node_id", node.node_id().to_string()),
    );
    Ok(node)
}

/// Frees the name of a deleted node: any host may join under it (D2).
///
/// # Errors
/// No node has or reserves the name, its node is not deleted, or the database failed.
pub async fn free_name(tx: &mut Tx, node: &NodeRef) -> Result<(), ChangeError> {
    if tx.repeated(&node.resource_name()).await?.is_some() {
        return Ok(());
    }
    let node = lock(tx.unaudited(), node).await?.ok_or(ChangeError::NotFound)?;
    if node.revoke_time.is_none() {
        return Err(ChangeError::NotDeleted);
    }
    let freed = release_name(tx, node.uid).await?;
    if !freed {
        // Given by its uid, and free already.
        return Err(ChangeError::NotFound);
    }
    tx.audit(Event::new("node.free_name", node.resource_name()).with("uid", node.uid.to_string()));
    Ok(())
}

/// A deleted node gives up its name. Whether it still had it.
pub(crate) async fn release_name(tx: &mut Tx, uid: NodeUid) -> Result<bool, Error> {
    let done = sqlx::query("UPDATE nodes SET holds_name = false WHERE uid = $1 AND holds_name")
        .bind(uid.uuid())
        .execute(tx.connection())
        .await?;
    Ok(done.rows_affected() > 0)
}

async fn lock_unchanged(tx: &mut Tx, node: &NodeRef, etag: Option<&Etag>) -> Result<Node, ChangeError> {
    let node = lock(tx.unaudited(), node).await?.ok_or(ChangeError::NotFound)?;
    if node.revoke_time.is_some() {
        return Err(ChangeError::Revoked);
    }
    if etag.is_some_and(|etag| *etag != node.etag()) {
        return Err(ChangeError::Stale { current: node.etag() });
    }
    Ok(node)
}

pub(crate) async fn store_decided(tx: &mut Tx, keys: &Keys, node: &mut Node) -> Result<(), Error> {
    node.version += 1;
    node.update_time = tx.now();
    node.revision = tx.next_revision().await?;
    let entry = roster::sign(keys, node);
    sqlx::query(
        "UPDATE nodes SET labels = $2, relay = $3, version = $4, update_time = $5, revoke_time = $6, state = $7,
             state_reason = $8, connected = $9, revision = $10,
             roster_epoch = $11, roster_sequence = $10, roster_payload = $12, roster_signature = $13
         WHERE uid = $1",
    )
    .bind(node.uid.uuid())
    .bind(Json(BTreeMap::from(node.labels.clone())))
    .bind(node.relay)
    .bind(column(node.version)?)
    .bind(node.update_time)
    .bind(node.revoke_time)
    .bind(node.state.as_str())
    .bind(&node.state_reason)
    .bind(node.connected)
    .bind(column(node.revision.value())?)
    .bind(column(keys.epoch().value())?)
    .bind(entry.payload)
    .bind(entry.signature.as_slice())
    .execute(tx.connection())
    .await?;
    Ok(())
}
