//! [`AgentConfig`]: everything that can be set, typed.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use crate::{
    RootName, SyncName,
    config::{
        Bandwidth, Compression, ConfiguredSync, ContentStore, Dht, Http, Limits, Logging, MetadataCache, Monitoring,
        Network, PeerDiscovery, Root, Security, Storage, Transfer, Transport,
    },
};

/// An agent's configuration, checked. One type for the validator, the agent and the control plane.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// Whether AMST and HDE carry transfers; else a plain path does.
    pub enabled: bool,
    /// How data travels between agents.
    pub transport: Transport,
    /// How much of its links a host gives to transfers.
    pub bandwidth: Bandwidth,
    /// How data is made smaller.
    pub compression: Compression,
    /// Metrics, traces, log level.
    pub monitoring: Monitoring,
    /// Where logs go.
    pub logging: Logging,
    /// What is always on.
    pub security: Security,
    /// The node's record in the DHT.
    pub dht: Dht,
    /// Records of other nodes.
    pub metadata_cache: MetadataCache,
    /// Finding other nodes.
    pub peer_discovery: PeerDiscovery,
    /// Transfers.
    pub transfer: Transfer,
    /// Disk space.
    pub storage: Storage,
    /// The local content store.
    pub content: ContentStore,
    /// Bounds.
    pub limits: Limits,
    /// The host's HTTP side; the host's own.
    pub http: Http,
    /// Where the host listens; the host's own.
    pub network: Network,
    /// Folders that may be read and written; the host's own.
    pub roots: BTreeMap<RootName, Root>,
    /// Syncs that this node sends by its configuration: the control plane makes them, and tells of them as of all others.
    pub syncs: BTreeMap<SyncName, ConfiguredSync>,
}

impl AgentConfig {
    /// Where metrics are served.
    #[must_use]
    pub fn metrics_listen(&self) -> SocketAddr {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, self.monitoring.metrics_port));
        self.network.metrics_listen.unwrap_or(default)
    }
}

impl Default for AgentConfig {
    /// The built-in configuration.
    fn default() -> Self {
        let effective = super::resolve(&[]);
        effective.map(|effective| effective.config).expect("the built-in configuration is valid")
    }
}
