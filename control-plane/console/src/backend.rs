//! What stands behind the paths.

use std::{collections::BTreeMap, future::Future};

use serde::Serialize;
use serde_json::Value;

/// What a part of the server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentState {
    /// It does its work.
    Healthy,
    /// It does, with something amiss.
    Degraded,
    /// It does not.
    Unhealthy,
}

/// A part of the server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Component {
    /// How it is.
    pub status: ComponentState,
    /// What is amiss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took to answer, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

impl Component {
    /// A part that does its work.
    #[must_use]
    pub fn healthy() -> Self {
        Self { status: ComponentState::Healthy, error: None, latency_ms: None }
    }

    /// A part that does not.
    #[must_use]
    pub fn unhealthy(error: impl Into<String>) -> Self {
        Self { status: ComponentState::Unhealthy, error: Some(error.into()), latency_ms: None }
    }
}

/// The fleet, in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetStatus {
    /// The fleet's id.
    pub fleet_id: String,
    /// Counts restores.
    pub epoch: u64,
    /// The newest generation of the desired state.
    pub generation: u64,
    /// Members of the fleet.
    pub nodes: u64,
    /// Agents connected to this server.
    pub connected_agents: u64,
    /// Events in the audit log, which every node follows.
    pub audit_size: u64,
}

/// The database could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// What stands behind the paths. Clones are the same one.
pub trait Backend: Clone + Send + Sync + 'static {
    /// The program's version.
    fn version(&self) -> &'static str;
    /// How long the server has been serving, in seconds.
    fn uptime_seconds(&self) -> u64;
    /// The server's parts, by name.
    fn components(&self) -> impl Future<Output = BTreeMap<&'static str, Component>> + Send;
    /// The fleet, in figures.
    fn fleet(&self) -> impl Future<Output = Result<FleetStatus, Unavailable>> + Send;
    /// The configuration that every node gets unless a nearer layer says otherwise, section by section, as the manual's YAML has it.
    fn configuration(&self) -> impl Future<Output = Result<Value, Unavailable>> + Send;
    /// What encoding saved in the newest transfers of the fleet.
    fn encoding(&self) -> impl Future<Output = Result<Value, Unavailable>> + Send;
    /// Whether this bearer token may read.
    fn admits(&self, token: String) -> impl Future<Output = Result<bool, Unavailable>> + Send;
    /// Whether this is the token that opens the metrics alone.
    fn opens_metrics(&self, token: &str) -> bool;
    /// The metrics, in Prometheus' text format.
    fn metrics(&self) -> impl Future<Output = String> + Send;
    /// The nodes that store DHT records, `HOST:PORT` each.
    fn dht_ring(&self) -> impl Future<Output = Result<Vec<String>, Unavailable>> + Send;
    /// The members of the fleet and the ring, to be drawn.
    fn topology(&self) -> impl Future<Output = Result<Value, Unavailable>> + Send;
    /// The DHT as this server's node sees it, if it has one.
    fn dht_stats(&self) -> Option<Value>;
}
