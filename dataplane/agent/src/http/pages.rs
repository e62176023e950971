//! What the pages say: the shapes of the seeds' manuals, with more beside it.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value, json};

use crate::health::{Component, Level, State};

/// The configuration in force.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConfigView {
    /// `EPOCH.NUMBER`; none while only the host's own layers are in force.
    pub generation: Option<String>,
    /// SHA-256 of what is in force.
    pub digest: String,
    /// `applied`, `rejected` or `local`.
    pub status: &'static str,
    /// Why the newest was rejected.
    pub errors: Vec<String>,
    /// Keys that are set and have no effect.
    pub not_in_force: Vec<String>,
}

/// The agent at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub joined: bool,
    pub name: String,
    pub node_id: String,
    pub version: &'static str,
    pub uptime_seconds: u64,
    pub enabled: bool,
    pub overall: Level,
    pub board: BTreeMap<Component, State>,
    pub recent_errors: Vec<String>,
    pub config: ConfigView,
    pub control_plane: Value,
    pub transport: Value,
    pub transfers: Value,
    pub amst: Value,
    pub hde: Value,
    pub hde_stats: Value,
    pub dht_bootstrap: Value,
    pub dht_topology: Value,
    pub dht_stats: Value,
    pub peer_count: usize,
    pub sync_progress: f64,
}

/// `healthy`, `degraded`, `unhealthy`; `unjoined` where nothing is wrong but that (D30).
fn word(snapshot: &Snapshot) -> &'static str {
    if !snapshot.joined && snapshot.overall != Level::Unhealthy { "unjoined" } else { snapshot.overall.as_str() }
}

/// Whether the agent can move data.
pub(crate) fn is_ready(snapshot: &Snapshot) -> bool {
    snapshot.joined && snapshot.overall != Level::Unhealthy
}

/// As Kubernetes writes it: a line for each part, and the sum.
pub(crate) fn readyz(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let mut line = |good: bool, name: &str, why: &str| {
        let (sign, end) = if good { ('+', "ok") } else { ('-', "failed") };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        writeln!(text, "[{sign}]{name} {end}{why}").expect("writing into a string cannot fail");
    };
    line(snapshot.joined, "joined", if snapshot.joined { "" } else { "run `dwcp-agent join` on this host" });
    for (component, state) in &snapshot.board {
        line(state.level != Level::Unhealthy, component.as_str(), &state.message);
    }
    let sum = if is_ready(snapshot) { "readyz check passed" } else { "readyz check failed" };
    text + sum + "\n"
}

/// For other hosts.
pub(crate) fn health_word(snapshot: &Snapshot) -> Value {
    json!({"status": word(snapshot)})
}

/// DW-6 and DC-4 in one.
pub(crate) fn health(snapshot: &Snapshot) -> Value {
    let components: Map<String, Value> = snapshot
        .board
        .iter()
        .map(|(component, state)| {
            let mut value = json!({"status": state.level.as_str()});
            if !state.message.is_empty() {
                value["message"] = Value::from(state.message.as_str());
            }
            (component.as_str().to_owned(), value)
        })
        .collect();
    json!({"status": word(snapshot), "version": snapshot.version, "components": components})
}

/// With recent errors, the configuration's state and the figures that matter.
pub(crate) fn health_verbose(snapshot: &Snapshot) -> Value {
    let mut value = health(snapshot);
    value["recent_errors"] = json!(snapshot.recent_errors);
    value["configuration"] = configuration(snapshot);
    value["performance"] = json!({
        "uptime_seconds": snapshot.uptime_seconds,
        "transport": snapshot.transport,
        "compression": snapshot.hde_stats,
        "transfers": snapshot.transfers,
    });
    value
}

fn configuration(snapshot: &Snapshot) -> Value {
    json!({
        "status": snapshot.config.status,
        "generation": snapshot.config.generation,
        "digest": snapshot.config.digest,
        "errors": snapshot.config.errors,
        "not_in_force": snapshot.config.not_in_force,
    })
}

/// DC-4.
pub(crate) fn status(snapshot: &Snapshot) -> Value {
    json!({
        "status": word(snapshot),
        "version": snapshot.version,
        "name": snapshot.name,
        "node_id": snapshot.node_id,
        "joined": snapshot.joined,
        "enabled": snapshot.enabled,
        "uptime_seconds": snapshot.uptime_seconds,
        "peer_count": snapshot.peer_count,
        "sync_progress": snapshot.sync_progress,
        "control_plane": snapshot.control_plane,
        "configuration": configuration(snapshot),
        "transport": snapshot.transport,
        "transfers": snapshot.transfers,
    })
}

/// DW-6. `phase` is the manual's own word for what is deployed.
pub(crate) fn dwcp_status(snapshot: &Snapshot) -> Value {
    json!({
        "enabled": snapshot.enabled,
        "version": snapshot.version,
        "phase": "phase1",
        "mode": if snapshot.enabled { "adaptive" } else { "plain: one stream, no delta encoding" },
        "name": snapshot.name,
        "node_id": snapshot.node_id,
        "transport": snapshot.transport,
        "configuration": configuration(snapshot),
    })
}
