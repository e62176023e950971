//! The running agent as the HTTP pages show it.

use std::{sync::Arc, time::Instant};

use dataplane_amst::TcpPort;
use dataplane_hde::{Codec, Meter};
use dataplane_local_store::LocalStore;
use foundation_runtime::Clock;
use foundation_telemetry::Telemetry;
use futures::future::BoxFuture;
use proto_model::{
    NodeId,
    config::{AgentConfig, format_duration},
};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::{
    configuration::InForce,
    content::Content,
    health::Health,
    http::{Access, ConfigView, Rates, Snapshot, View},
    member::Member,
    rdma,
};

/// So many peers are listed at most.
const MAX_PEERS: u32 = 10_000;

/// What the pages look at.
#[derive(Debug)]
pub(crate) struct AgentView {
    pub(crate) node_id: NodeId,
    pub(crate) started: Instant,
    pub(crate) clock: Clock,
    pub(crate) health: Health,
    pub(crate) in_force: watch::Receiver<InForce>,
    pub(crate) member: watch::Receiver<Option<Arc<Member>>>,
    pub(crate) store: Option<LocalStore>,
    pub(crate) meter: Meter,
    pub(crate) content: Content,
    pub(crate) telemetry: Telemetry,
    pub(crate) access: Access,
}

impl View for AgentView {
    fn snapshot(&self) -> Snapshot {
        let in_force = self.in_force.borrow().clone();
        let config = &in_force.effective.config;
        let member = self.member.borrow().clone();
        let connection = member.as_ref().map(|member| member.control.connection().borrow().clone()).unwrap_or_default();
        let followed = connection.standing.is_some() && connection.audit_trouble.is_none();
        Snapshot {
            joined: member.is_some(),
            name: connection.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            node_id: self.node_id.to_string(),
            version: crate::VERSION,
            uptime_seconds: self.clock.now().saturating_duration_since(self.started).as_secs(),
            enabled: config.enabled,
            overall: self.health.overall(),
            board: self.health.board(),
            recent_errors: self.health.recent(),
            config: config_view(&in_force),
            control_plane: control_plane(&connection),
            transport: transport(config, member.as_deref()),
            transfers: json!({"running": member.as_ref().map_or(0, |member| member.movers.running())}),
            amst: amst_config(config, member.as_deref()),
            hde: hde_config(config),
            hde_stats: hde_stats(&self.meter, &self.content, member.as_deref()),
            dht_bootstrap: dht_bootstrap(member.as_deref()),
            dht_topology: dht_topology(self.node_id, member.as_deref()),
            dht_stats: dht_stats(member.as_deref()),
            peer_count: member.as_ref().map_or(0, |member| member.identity.membership().len().saturating_sub(1)),
            sync_progress: if followed { 1.0 } else { 0.0 },
        }
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async move { self.telemetry.metrics().page().await.to_string() })
    }

    fn peers(&self) -> BoxFuture<'_, Vec<Value>> {
        Box::pin(async move {
            let member = self.member.borrow().clone();
            let Some(member) = member else { return Vec::new() };
            let kept = match &self.store {
                Some(store) => store.peer_metadata(MAX_PEERS).await.unwrap_or_default(),
                None => Vec::new(),
            };
            let own = member.identity.uid();
            let mut members = member.identity.membership().members();
            members.retain(|peer| peer.uid != own);
            members.sort_by(|a, b| a.name.cmp(&b.name));
            let peer = |peer: &Arc<dataplane_identity::Member>| {
                let kept = kept.iter().find(|kept| kept.node_id == peer.node_id());
                let session = member.endpoint.present_session(&peer.public_key).map(|session| session.info());
                json!({
                    "peer_id": peer.node_id().to_string(),
                    "name": peer.name.to_string(),
                    "public_key": peer.public_key.to_string(),
                    "labels": Map::from_iter(peer.labels.iter().map(|(k, v)| (k.to_string(), Value::from(v.to_string())))),
                    "node_type": kept.map(|kept| kept.node_type.as_str()),
                    "addresses": kept.map(|kept| kept.addresses.clone()).unwrap_or_default(),
                    "connected": session.is_some(),
                    "remote_address": session.as_ref().map(|info| info.remote.to_string()),
                    "rtt_ms": session.as_ref().map(|info| info.rtt.as_secs_f64() * 1000.0),
                })
            };
            members.iter().take(usize::try_from(MAX_PEERS).unwrap_or(usize::MAX)).map(peer).collect()
        })
    }

    fn rates(&self) -> Rates {
        let limits = self.in_force.borrow().effective.config.limits;
        Rates { per_minute: limits.http_requests_per_minute, per_second: limits.http_requests_per_second }
    }

    fn access(&self) -> Access {
        self.access.clone()
    }

    fn metrics_path(&self) -> String {
        self.in_force.borrow().effective.config.monitoring.metrics_path.clone()
    }
}

fn config_view(in_force: &InForce) -> ConfigView {
    let (status, errors) = match (&in_force.rejected, in_force.generation) {
        (Some((_, errors)), _) => ("rejected", errors.clone()),
        (None, Some(_)) => ("applied", Vec::new()),
        (None, None) => ("local", Vec::new()),
    };
    ConfigView {
        generation: in_force.generation.map(|generation| generation.to_string()),
        digest: in_force.effective.digest.to_string(),
        status,
        errors,
        not_in_force: in_force.effective.not_in_force.clone(),
    }
}

fn control_plane(connection: &dataplane_control_client::Connection) -> Value {
    let standing = connection.standing.as_ref();
    json!({
        "connected": standing.is_some(),
        "endpoint": standing.map(|standing| standing.endpoint.to_string()),
        "since": standing.map(|standing| standing.since.to_rfc3339()),
        "version": standing.map(|standing| standing.server_version.clone()),
        "clock_skew_ms": standing.and_then(|standing| standing.skew_ms),
        "observed_address": standing.and_then(|standing| standing.observed_address).map(|address| address.to_string()),
        "trouble": connection.trouble,
        "audit_trouble": connection.audit_trouble,
    })
}

fn transport(config: &AgentConfig, member: Option<&Member>) -> Value {
    let settings = member.map(|member| member.endpoint.settings());
    let sessions = member.map(|member| member.endpoint.sessions()).unwrap_or_default();
    let info: Vec<_> = sessions.iter().map(dataplane_amst::Session::info).collect();
    json!({
        "mode": if config.enabled { "adaptive" } else { "plain" },
        "quic": member.map(|member| member.endpoint.local_addr().to_string()),
        "sessions": info.len(),
        "lanes": info.iter().map(|info| info.lanes).sum::<usize>(),
        "tcp_lanes": info.iter().filter(|info| info.tcp_lane.is_some()).count(),
        "scaler": member.map(|member| member.endpoint.moves()).unwrap_or_default().iter().map(past_move).collect::<Vec<_>>(),
        "streams_in_use": info.iter().map(|info| info.streams_in_use).sum::<usize>(),
        "initial_streams": settings.as_ref().map(|settings| settings.initial_streams),
        // What runs, whatever was asked for.
        "congestion_algorithm": info.first().map_or(config.transport.congestion_algorithm.as_str(), |info| info.congestion_algorithm),
        "rdma": rdma::status(config.transport.enable_rdma, &rdma::ports()),
    })
}

/// A change of the streams or lanes of a session.
fn past_move(past: &dataplane_amst::PastMove) -> Value {
    json!({
        "peer": past.peer.node_id().to_string(),
        "at": past.at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "seconds": past.open_for.as_secs_f64(),
        "of": past.what.of.as_str(),
        "from": past.what.from,
        "to": past.what.to,
        "reason": past.what.reason.as_str(),
        "bytes_per_second": past.what.goodput.round(),
    })
}

/// Sessions whose congestion control is shown, at most: what is said of more nobody reads.
const MAX_SESSIONS_SHOWN: usize = 64;

/// What governs the rate of a session, and what it knows.
fn congestion(session: &dataplane_amst::Session) -> Option<Value> {
    let snapshot = session.congestion()?;
    Some(json!({
        "peer": session.peer().node_id().to_string(),
        "algorithm": snapshot.algorithm.as_str(),
        "mode": snapshot.mode.as_str(),
        "window_bytes": snapshot.window,
        "bandwidth_bits_per_second": snapshot.bandwidth.saturating_mul(8),
        "min_rtt_ms": snapshot.min_rtt.as_secs_f64() * 1000.0,
        "queueing_delay_ms": snapshot.queueing_delay.as_secs_f64() * 1000.0,
    }))
}

/// The lane over TCP of a session, if it has or had one.
fn tcp_lane(session: &dataplane_amst::Session) -> Option<Value> {
    let info = session.info();
    if info.tcp_lane.is_none() && info.tcp_bytes_sent == 0 && info.tcp_bytes_received == 0 {
        return None;
    }
    Some(json!({
        "peer": info.peer.node_id().to_string(),
        "open": info.tcp_lane.is_some(),
        "dialled": info.tcp_lane.map(|lane| lane.dialled),
        "carries": info.tcp_lane.is_some_and(|lane| lane.carries),
        "bytes_sent": info.tcp_bytes_sent,
        "bytes_received": info.tcp_bytes_received,
    }))
}

fn tcp_port(port: &TcpPort) -> String {
    match port {
        TcpPort::Off => "off".to_owned(),
        TcpPort::Open(address) => address.to_string(),
        TcpPort::Failed(reason) => reason.clone(),
    }
}

fn amst_config(config: &AgentConfig, member: Option<&Member>) -> Value {
    let transport = &config.transport;
    let in_force = member.map(|member| member.endpoint.settings());
    let sessions = member.map(|member| member.endpoint.sessions()).unwrap_or_default();
    json!({
        "min_streams": transport.min_streams,
        "max_streams": transport.max_streams,
        "initial_streams": transport.initial_streams,
        "stream_scaling_factor": transport.stream_scaling_factor,
        "congestion_algorithm": transport.congestion_algorithm.as_str(),
        "congestion_algorithm_in_force": sessions.first().map_or(transport.congestion_algorithm.as_str(), |session| session.info().congestion_algorithm),
        "pacing_rate": transport.pacing_rate,
        "congestion": sessions.iter().filter_map(congestion).take(MAX_SESSIONS_SHOWN).collect::<Vec<_>>(),
        "rate_limits": sessions.iter().map(dataplane_amst::Session::info).map(|info| info.rate_limit).collect::<Vec<_>>(),
        "enable_rdma": transport.enable_rdma,
        "rdma_available": rdma::ports().iter().any(|port| port.active),
        "rdma_ports": rdma::ports().into_iter().map(|port| port.name).collect::<Vec<_>>(),
        "read_timeout": format_duration(transport.read_timeout),
        "lanes": transport.lanes,
        "tcp_lane": transport.tcp_lane.as_str(),
        "tcp_port": member.map(|member| tcp_port(&member.endpoint.tcp_port().borrow())),
        "tcp_lanes": sessions.iter().filter_map(tcp_lane).take(MAX_SESSIONS_SHOWN).collect::<Vec<_>>(),
        "in_force": in_force.map(|settings| json!({
            "min_streams": settings.min_streams,
            "max_streams": settings.max_streams,
            "initial_streams": settings.initial_streams,
            "lanes": settings.lanes,
        })),
    })
}

fn hde_config(config: &AgentConfig) -> Value {
    let compression = &config.compression;
    json!({
        "enabled": config.enabled && compression.enabled,
        "algorithm": compression.algorithm.as_str(),
        "level": compression.level,
        "enable_delta_encoding": compression.enable_delta_encoding,
        "delta_encoding_in_force": config.enabled && compression.enable_delta_encoding,
        "baseline_interval": format_duration(compression.baseline_interval),
        "max_delta_chain": compression.max_delta_chain,
        "adaptive_threshold": compression.adaptive_threshold,
        "enable_dictionary": compression.enable_dictionary,
    })
}

fn hde_stats(meter: &Meter, content: &Content, member: Option<&Member>) -> Value {
    let stats = meter.stats();
    let total = |of: fn(&dataplane_hde::CodecTotals) -> u64| stats.codecs.values().map(of).sum::<u64>();
    let codecs: Map<String, Value> = stats
        .codecs
        .iter()
        .map(|(codec, totals): (&Codec, _)| {
            let value = json!({
                "segments": totals.segments,
                "input_bytes": totals.input_bytes,
                "output_bytes": totals.output_bytes,
            });
            (codec.name().to_owned(), value)
        })
        .collect();
    let mut shown = json!({
        "input_bytes": total(|totals| totals.input_bytes),
        "output_bytes": total(|totals| totals.output_bytes),
        "referenced_bytes": stats.referenced_bytes,
        "compression_ratio": stats.compression_ratio,
        "delta_encoding_ratio": stats.delta_encoding_ratio,
        "codecs": codecs,
    });
    let dictionaries = member.map(|member| member.transfers.dictionaries()).unwrap_or_default();
    shown["dictionaries"] = json!({
        "trained": dictionaries.trained,
        "trained_bytes": dictionaries.trained_bytes,
        "received": dictionaries.received,
        "received_bytes": dictionaries.received_bytes,
    });
    if let (Value::Object(shown), Value::Object(content)) = (&mut shown, content.shown().json()) {
        shown.extend(content);
    }
    shown
}

fn dht_bootstrap(member: Option<&Member>) -> Value {
    let ring = member.and_then(|member| member.discovery.dht_status()).map(|status| status.ring).unwrap_or_default();
    json!({"nodes": ring, "count": ring.len()})
}

fn dht_topology(own: NodeId, member: Option<&Member>) -> Value {
    let status = member.and_then(|member| member.discovery.dht_status());
    let serves = member.is_some_and(|member| member.discovery.serves_ring());
    let ring = status.as_ref().map(|status| status.ring.clone()).unwrap_or_default();
    let mut nodes = vec![json!({
        "id": own.to_string(),
        "role": if serves { "ring" } else { "client" },
        "address": status.as_ref().and_then(|status| status.local).map(|local| local.to_string()),
    })];
    nodes.extend(ring.iter().map(|address| json!({"role": "ring", "address": address})));
    let links: Vec<_> = ring.iter().map(|address| json!({"source": own.to_string(), "target": address})).collect();
    json!({"nodes": nodes, "links": links})
}

fn dht_stats(member: Option<&Member>) -> Value {
    let status = member.and_then(|member| member.discovery.dht_status());
    json!({
        "enabled": status.is_some(),
        "node_count": status.as_ref().map_or(0, |status| status.known_nodes),
        "ring": status.as_ref().map_or(0, |status| status.ring.len()),
        "cached_records": member.map_or(0, |member| member.discovery.cached()),
        "known_members": member.map_or(0, |member| member.identity.membership().len()),
        "stores_records": member.is_some_and(|member| member.discovery.serves_ring()),
    })
}
