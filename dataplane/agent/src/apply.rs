//! Puts a configuration in force: each part takes what concerns it, or says why it cannot.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use dataplane_amst::TransportSettings;
use dataplane_hde::{Algorithm, Level};
use dataplane_transfer::{Roots, Settings};
use foundation_listener::Gate;
use foundation_telemetry::Telemetry;
use proto_model::config::{self, AgentConfig, Effective, TcpLane};
use tokio::sync::watch;

use crate::{
    health::{self, Component, Health},
    http::{Access, Credentials, View},
    member::Member,
    metrics,
    metrics_port::MetricsPort,
};

/// What a plain path has of everything (DW-7): `enabled: false`.
const PLAIN: u32 = 1;

/// Applies configurations.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) telemetry: Telemetry,
    /// `RUST_LOG`, which stands over every configuration.
    pub(crate) rust_log: Option<String>,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, where the configuration names no other.
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) health: Health,
    pub(crate) metrics_port: MetricsPort,
    pub(crate) view: Arc<dyn View>,
    /// Of the HTTP port.
    pub(crate) gate: Gate,
    pub(crate) access: Access,
    pub(crate) member: watch::Receiver<Option<Arc<Member>>>,
    pub(crate) present: Mutex<Option<Arc<Effective>>>,
}

impl Applier {
    /// Puts it in force. What can refuse comes first, so that a refusal leaves little to be put back.
    ///
    /// # Errors
    /// A sentence for each part that cannot take it; the caller applies again what was in force.
    pub(crate) async fn apply(&self, effective: &Arc<Effective>) -> Result<(), Vec<String>> {
        let config = &effective.config;
        let mut wrong = Vec::new();
        let transport = transport_settings(config);
        let member = self.member.borrow().clone();
        let taken = match &member {
            Some(member) => member.endpoint.retune(transport),
            None => transport.check(),
        };
        wrong.extend(taken.err().map(|error| error.to_string()));
        wrong.extend(self.log(config).err());
        let credentials = Credentials::read(&config.http).map_err(|reason| wrong.push(reason));
        wrong
            .extend(self.metrics_port.follow(effective, Arc::clone(&self.view)).await.err().map(|error| chain(&error)));
        if !wrong.is_empty() {
            return Err(wrong);
        }
        self.trace(config);
        if let Ok(credentials) = credentials {
            self.access.replace(credentials);
        }
        self.limit(config, member.as_deref());
        if let Some(member) = member {
            member.transfers.set_settings(transfer_settings(config));
            member.transfers.set_roots(Roots::new(config.roots.clone()));
            member.discovery.retune(&config.dht);
        }
        self.say(config);
        let before = self.present.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(effective));
        metrics::in_force(effective, before.as_deref());
        Ok(())
    }

    fn log(&self, config: &AgentConfig) -> Result<(), String> {
        if self.rust_log.is_none() {
            let level = config.monitoring.log_level.as_str();
            self.telemetry.set_level(level).map_err(|error| format!("monitoring.log_level: {error}"))?;
        }
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.as_ref().is_some_and(|before| before.config.logging.file == config.logging.file) {
            return Ok(());
        }
        drop(present);
        let file: Option<PathBuf> = config.logging.file.clone();
        let shown = file.as_deref().map(|file| file.display().to_string()).unwrap_or_default();
        self.telemetry.set_file(file).map_err(|error| format!("logging.file: cannot open {shown}: {error}"))
    }

    /// Those limits that can be moved while things go on.
    fn limit(&self, config: &AgentConfig, member: Option<&Member>) {
        let limits = &config.limits;
        self.telemetry.set_log_lines(limits.log_lines_per_second);
        self.gate.set_strangers(count(limits.http_connections));
        if let Some(member) = member {
            member.endpoint.limit_handshakes(count(limits.quic_handshakes), count(limits.quic_retry_from));
            member.bencher.limit(count(limits.benches));
            member.syncer.limit(count(limits.sync_looks));
            member.movers.limit(count(limits.sending_transfers), count(limits.receiving_transfers));
        }
    }

    fn trace(&self, config: &AgentConfig) {
        let monitoring = &config.monitoring;
        self.telemetry.set_sample_rate(monitoring.tracing_sample_rate);
        let endpoint = monitoring.tracing_endpoint.as_deref().or(self.otlp_endpoint.as_deref());
        self.telemetry.set_otlp_endpoint(endpoint.filter(|_| monitoring.enable_tracing));
    }

    fn say(&self, config: &AgentConfig) {
        let message = match (config.enabled, config.compression.enabled) {
            (false, _) => "switched off by enabled: false; data travels as it is",
            (true, false) => "switched off by compression.enabled: false",
            (true, true) => "",
        };
        self.health.set(Component::HdeCompression, health::Level::Healthy, message.to_owned());
        self.health.healthy(Component::Configuration);
    }
}

/// A bound as a number of things.
pub(crate) fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// What AMST takes of it.
pub(crate) fn transport_settings(config: &AgentConfig) -> TransportSettings {
    let transport = &config.transport;
    if !config.enabled {
        return TransportSettings {
            min_streams: PLAIN,
            max_streams: PLAIN,
            initial_streams: PLAIN,
            stream_scaling_factor: transport.stream_scaling_factor,
            lanes: PLAIN,
            read_timeout: transport.read_timeout,
            pacing_rate: transport.pacing_rate,
            congestion: transport.congestion_algorithm,
            tcp_lane: TcpLane::Off,
        };
    }
    TransportSettings {
        min_streams: transport.min_streams,
        max_streams: transport.max_streams,
        initial_streams: transport.initial_streams,
        stream_scaling_factor: transport.stream_scaling_factor,
        lanes: transport.lanes,
        read_timeout: transport.read_timeout,
        pacing_rate: transport.pacing_rate,
        congestion: transport.congestion_algorithm,
        tcp_lane: transport.tcp_lane,
    }
}

/// What transfers take of it.
pub(crate) fn transfer_settings(config: &AgentConfig) -> Settings {
    Settings {
        segment_bytes: u32::try_from(config.transfer.segment_size.bytes()).unwrap_or(1 << 20),
        receive_window: config.transfer.receive_window,
        retry_interval: config.transfer.retry_interval,
        reserve: config.storage.reserve,
        hde: hde_options(config),
        stall_timeout: config.transfer.stall_timeout,
        receive_budget: config.limits.receive_budget,
        basis_budget: config.limits.basis_budget,
        manifest_bytes: config.limits.manifest_size,
        dictionaries: config.compression.enable_dictionary,
        dictionary_bytes: config.limits.dictionaries,
        received_syncs: count(config.limits.received_syncs),
    }
}

fn hde_options(config: &AgentConfig) -> dataplane_hde::Options {
    let compression = &config.compression;
    dataplane_hde::Options {
        enabled: config.enabled && compression.enabled,
        algorithm: match compression.algorithm {
            config::Algorithm::Zstd => Algorithm::Zstd,
            config::Algorithm::Lz4 => Algorithm::Lz4,
            config::Algorithm::Snappy => Algorithm::Snappy,
        },
        level: Level::new(compression.level.into()).unwrap_or_default(),
        references: config.enabled && compression.enable_delta_encoding,
    }
}

/// An error with its causes, in one line; what the error has said already is not said again.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switched_off_means_one_plain_stream_and_no_delta() {
        let config = AgentConfig { enabled: false, ..AgentConfig::default() };
        let transport = transport_settings(&config);
        assert_eq!((transport.max_streams, transport.initial_streams, transport.lanes), (1, 1, 1));
        transport.check().unwrap();
        let hde = transfer_settings(&config).hde;
        assert!(!hde.enabled && !hde.references);
        transport_settings(&AgentConfig::default()).check().unwrap();
    }
}
