//! What stands behind the HTTP paths: the database, the hub, the parts of this server.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Instant};

use control_plane_api::auth::Authenticator;
use control_plane_console::{Backend, Component, FleetStatus, Unavailable};
use control_plane_fleet::Fleet;
use control_plane_store::{
    Db, Keys, audit_log, configs,
    nodes::{self, NodeFilter},
    roster, servers,
    transfers::{self, Transfer, TransferFilter},
};
use dataplane_dht::RingNode;
use foundation_runtime::Clock;
use foundation_telemetry::Metrics;
use metrics::gauge;
use proto_model::{
    ConfigName, TransferReport,
    config::{self, Layer},
};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::{anchor::Anchor, options::Database, postgres};

/// How many transfers are summed up: the last days of most fleets.
const NEWEST_TRANSFERS: u32 = 1000;

/// How many members are drawn: more is no picture.
const MAX_DRAWN_NODES: u32 = 2000;

/// What stands behind the HTTP paths. Clones are the same one.
#[derive(Clone)]
pub(crate) struct ServerBackend(pub(crate) Arc<Parts>);

/// The parts of a server.
pub(crate) struct Parts {
    pub(crate) db: Db,
    pub(crate) keys: Arc<Keys>,
    pub(crate) fleet: Fleet,
    pub(crate) authenticator: Authenticator,
    pub(crate) anchor: Anchor,
    pub(crate) log_file: watch::Receiver<Option<String>>,
    /// Where the database is an embedded one.
    pub(crate) postgres: Option<watch::Receiver<postgres::State>>,
    pub(crate) database: Database,
    pub(crate) dht: Option<RingNode>,
    pub(crate) metrics: Metrics,
    pub(crate) metrics_token: Option<String>,
    pub(crate) clock: Clock,
    pub(crate) begun: Instant,
}

impl ServerBackend {
    /// Whether requests can be served; known at once.
    pub(crate) fn is_serving(&self) -> bool {
        self.0.db.trouble().is_none()
    }

    async fn database(&self) -> Component {
        if let Some(cause) = self.0.db.trouble() {
            return Component::unhealthy(format!("{cause}: {}", cause.hint()));
        }
        let begun = self.0.clock.now();
        let asked = audit_log::head(&self.0.db).await;
        let latency_ms = Some((self.0.clock.now() - begun).as_secs_f64() * 1000.0);
        match asked {
            Ok(_) => Component { latency_ms, ..Component::healthy() },
            Err(error) => Component { latency_ms, ..Component::unhealthy(error.chain()) },
        }
    }

    fn audit(&self) -> Component {
        self.0.anchor.finding().map_or_else(Component::healthy, |finding| Component {
            // What is served is served all the same; who must act is a person.
            status: control_plane_console::ComponentState::Degraded,
            ..Component::unhealthy(finding)
        })
    }

    /// Only where there is something to say.
    fn log_file(&self) -> Option<Component> {
        let why = self.0.log_file.borrow().clone()?;
        Some(Component { status: control_plane_console::ComponentState::Degraded, ..Component::unhealthy(why) })
    }

    fn postgres(&self) -> Option<Component> {
        let state = self.0.postgres.as_ref()?.borrow().clone();
        Some(match state {
            postgres::State::Ready { .. } => Component::healthy(),
            postgres::State::Starting => Component::unhealthy("PostgreSQL is being started"),
            postgres::State::Down { reason } => {
                Component::unhealthy(format!("PostgreSQL ended, and is started again: {reason}"))
            }
            postgres::State::Stopped => Component::unhealthy("PostgreSQL was stopped"),
        })
    }

    fn dht(&self) -> Option<Component> {
        let node = self.0.dht.as_ref()?;
        Some(match node.local_addr() {
            Some(_) => Component::healthy(),
            None => Component::unhealthy("the DHT node is being started again"),
        })
    }
}

impl Backend for ServerBackend {
    fn version(&self) -> &'static str {
        crate::VERSION
    }

    fn uptime_seconds(&self) -> u64 {
        (self.0.clock.now() - self.0.begun).as_secs()
    }

    async fn components(&self) -> BTreeMap<&'static str, Component> {
        let mut components = BTreeMap::from([
            ("audit", self.audit()),
            ("database", self.database().await),
            ("grpc", Component::healthy()),
        ]);
        components.extend(self.postgres().map(|component| ("postgres", component)));
        components.extend(self.dht().map(|component| ("dht", component)));
        components.extend(self.log_file().map(|component| ("log_file", component)));
        components
    }

    async fn fleet(&self) -> Result<FleetStatus, Unavailable> {
        let Parts { db, keys, fleet, clock, .. } = &*self.0;
        let members = roster::head(db, keys.epoch(), clock.utc()).await.map_err(unavailable)?.members;
        let generation = configs::newest_generation(db).await.map_err(unavailable)?;
        let audit_size = audit_log::head(db).await.map_err(unavailable)?.map_or(0, |head| head.size);
        Ok(FleetStatus {
            fleet_id: keys.fleet().to_string(),
            epoch: keys.epoch().value(),
            generation: generation.number,
            nodes: members,
            connected_agents: u64::try_from(fleet.connected()).unwrap_or(u64::MAX),
            audit_size,
        })
    }

    async fn configuration(&self) -> Result<Value, Unavailable> {
        let found = configs::find(&self.0.db, &ConfigName::Fleet).await.map_err(unavailable)?;
        let layers =
            found.into_iter().map(|(config, _)| Layer::config(ConfigName::Fleet, config.revision, config.document));
        let trees = layers.map(config::parse).collect::<Result<Vec<_>, _>>();
        // It was validated by this very code before it was stored; an older program's may be refused by a newer one.
        let effective = trees.and_then(|trees| config::resolve(&trees)).map_err(|diagnostics| {
            let first = diagnostics.first().map(|diagnostic| diagnostic.sentence()).unwrap_or_default();
            tracing::error!(component = "console", first, "The fleet's stored configuration is not valid");
            Unavailable
        })?;
        let mut root = Value::Object(Map::new());
        for value in &effective.values {
            insert(&mut root, &value.path, scalar(&value.yaml));
        }
        Ok(root)
    }

    async fn encoding(&self) -> Result<Value, Unavailable> {
        let newest = transfers::page(&self.0.db, &TransferFilter::default(), None, NEWEST_TRANSFERS).await;
        Ok(encoding_of(&newest.map_err(unavailable)?))
    }

    async fn topology(&self) -> Result<Value, Unavailable> {
        let members =
            nodes::list(&self.0.db, NodeFilter::default(), None, MAX_DRAWN_NODES).await.map_err(unavailable)?;
        let drawn: Vec<Value> = members
            .iter()
            .map(|node| {
                json!({
                    "name": node.name.to_string(),
                    "node_id": node.node_id().to_string(),
                    "state": node.state.as_str(),
                    "connected": node.connected,
                    "relay": node.relay,
                    "addresses": node.facts.quic_addresses,
                })
            })
            .collect();
        Ok(json!({"nodes": drawn, "ring": self.dht_ring().await?}))
    }

    async fn admits(&self, token: String) -> Result<bool, Unavailable> {
        match self.0.authenticator.bearer("http", None, &format!("Bearer {token}")).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == tonic::Code::Unauthenticated => Ok(false),
            Err(_) => Err(Unavailable),
        }
    }

    fn opens_metrics(&self, token: &str) -> bool {
        self.0.metrics_token.as_deref().is_some_and(|own| foundation_listener::origin::is_same_secret(own, token))
    }

    async fn metrics(&self) -> String {
        let (in_use, idle) = self.0.db.connections();
        gauge!("dwcp_db_pool_connections", "state" => "used").set(in_use);
        gauge!("dwcp_db_pool_connections", "state" => "idle").set(idle);
        self.0.metrics.page().await.to_string()
    }

    async fn dht_ring(&self) -> Result<Vec<String>, Unavailable> {
        servers::ring(&self.0.db).await.map_err(unavailable)
    }

    fn dht_stats(&self) -> Option<Value> {
        let status = self.0.dht.as_ref()?.status();
        Some(json!({
            "enabled": true,
            "running": status.local.is_some(),
            "local": status.local.map(|address| address.to_string()),
            "node_count": status.known_nodes,
            "bootstrap_nodes": status.ring,
        }))
    }
}

impl fmt::Debug for ServerBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBackend").field("database", &self.0.database).finish_non_exhaustive()
    }
}

fn unavailable(error: control_plane_store::Error) -> Unavailable {
    tracing::debug!(component = "console", error = error.chain(), "The database could not be asked");
    Unavailable
}

/// The sums over what the receivers, who know what they held, and the senders, who know what they encoded, last reported.
fn encoding_of(newest: &[Transfer]) -> Value {
    let (mut encoded_in, mut sent, mut reused) = (0_u64, 0_u64, 0_u64);
    for transfer in newest {
        let progress = |end: &Option<Box<TransferReport>>| end.as_ref().map(|report| report.progress);
        if let Some(sender) = progress(&transfer.sender) {
            encoded_in = encoded_in.saturating_add(sender.bytes_encoded_in.bytes());
            sent = sent.saturating_add(sender.bytes_sent.bytes());
        }
        if let Some(receiver) = progress(&transfer.receiver) {
            reused = reused.saturating_add(receiver.bytes_reused.bytes());
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = (sent > 0).then(|| encoded_in as f64 / sent as f64);
    json!({
        "transfers": newest.len(),
        "bytes_original": encoded_in,
        "bytes_encoded": sent,
        "bytes_reused": reused,
        // Absent until there was data to measure it on.
        "compression_ratio": ratio,
    })
}

/// Puts a value where its dotted path says.
fn insert(root: &mut Value, path: &str, value: Value) {
    let mut place = root;
    for name in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = value;
}

/// A YAML value of one line as JSON has it: what JSON cannot read is text.
fn scalar(yaml: &str) -> Value {
    serde_json::from_str(yaml).unwrap_or_else(|_text| Value::String(yaml.trim_matches(['"', '\'']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_paths_become_sections() {
        let mut root = json!({});
        insert(&mut root, "enabled", scalar("true"));
        insert(&mut root, "transport.min_streams", scalar("16"));
        insert(&mut root, "transport.congestion_algorithm", scalar("auto"));
        assert_eq!(root, json!({"enabled": true, "transport": {"min_streams": 16, "congestion_algorithm": "auto"}}));
    }
}
