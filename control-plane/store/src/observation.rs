//! What agents report of their hosts, and what state of a node follows from it.

use prost::Message as _;
use proto_model::{AppliedConfig, ApplyStatus, ComponentHealth, HealthStatus, HostFacts, NodeRef, NodeUid};
use proto_rpc::{agent, v1};

use crate::{
    Error, Unaudited,
    node::{Node, NodeState, column, encode_components},
    nodes::lock,
};

/// What was newly observed of a node; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Whether an agent's session stands.
    pub connected: Option<bool>,
    /// What the host reports of itself.
    pub facts: Option<HostFacts>,
    /// What is in force on it.
    pub applied: Option<AppliedConfig>,
    /// Its components' health.
    pub components: Option<Vec<ComponentHealth>>,
    /// How far its clock is ahead of ours.
    pub clock_skew_ms: Option<i64>,
}

/// Enters what was observed of a node. Only a change of something that is shown makes a new revision; that a node was heard of does
/// not. Absent for a node that is unknown or deleted.
///
/// # Errors
/// The database failed.
pub async fn observe(tx: &mut Unaudited, uid: NodeUid, observed: Observed) -> Result<Option<Node>, Error> {
    let Some(before) = lock(tx, &NodeRef::Uid(uid)).await?.filter(|node| node.revoke_time.is_none()) else {
        return Ok(None);
    };
    let mut node = before.clone();
    if let Some(connected) = observed.connected {
        node.connected = connected;
    }
    if let Some(facts) = observed.facts {
        node.facts = facts;
    }
    if let Some(applied) = observed.applied {
        node.applied = applied;
    }
    if let Some(components) = observed.components {
        node.components = components;
    }
    if let Some(skew) = observed.clock_skew_ms {
        node.clock_skew_ms = skew;
    }
    node.last_seen_time = Some(tx.now());
    (node.state, node.state_reason) = judge(&node);
    if shown(&node) == shown(&before) {
        sqlx::query("UPDATE nodes SET last_seen_time = $2, clock_skew_ms = $3 WHERE uid = $1")
            .bind(uid.uuid())
            .bind(node.last_seen_time)
            .bind(node.clock_skew_ms)
            .execute(tx.connection())
            .await?;
        return Ok(Some(node));
    }
    node.update_time = tx.now();
    node.revision = tx.next_revision().await?;
    sqlx::query(
        "UPDATE nodes SET connected = $2, facts = $3, applied = $4, components = $5, clock_skew_ms = $6, last_seen_time = $7,
             state = $8, state_reason = $9, update_time = $10, revision = $11 WHERE uid = $1",
    )
    .bind(uid.uuid())
    .bind(node.connected)
    .bind(agent::HostFacts::from(node.facts.clone()).encode_to_vec())
    .bind(v1::AppliedConfig::from(node.applied.clone()).encode_to_vec())
    .bind(encode_components(&node.components))
    .bind(node.clock_skew_ms)
    .bind(node.last_seen_time)
    .bind(node.state.as_str())
    .bind(&node.state_reason)
    .bind(node.update_time)
    .bind(column(node.revision.value())?)
    .execute(tx.connection())
    .await?;
    Ok(Some(node))
}

/// What a watch should hear of.
fn shown(node: &Node) -> (bool, &HostFacts, &AppliedConfig, &[ComponentHealth], NodeState, &str) {
    (node.connected, &node.facts, &node.applied, &node.components, node.state, &node.state_reason)
}

/// The state, and why.
fn judge(node: &Node) -> (NodeState, String) {
    if !node.connected {
        return (NodeState::Offline, "not connected".to_owned());
    }
    if node.applied.status == ApplyStatus::Rejected {
        let why = node.applied.errors.first().map_or("no reason was given", String::as_str);
        return (NodeState::Degraded, format!("the configuration was rejected: {why}"));
    }
    match node.components.iter().find(|component| component.status != HealthStatus::Healthy) {
        Some(bad) => (NodeState::Degraded, format!("{} is {}: {}", bad.component, bad.status, bad.message)),
        None => (NodeState::Ready, String::new()),
    }
}
