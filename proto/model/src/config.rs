//! Configuration: YAML documents in layers, merged by us so that each value keeps its origin, checked by the code that applies
//! it, on both planes.
//!
//! [`parse`] turns a layer's text into a [`Tree`] that knows the line and column of each value, and refuses what could hide or
//! explode (aliases, tags, duplicates, depth). [`resolve`] puts layers over the built-in defaults, the lowest first, checks every
//! key, and gives the [`Effective`] configuration or everything that is wrong with it. The defaults are themselves a document
//! ([`DEFAULTS`]): what it does not name is not a key.
//!
//! All of it is pure, but for [`files`].

mod agent_config;
mod bandwidth;
mod change;
mod compression;
mod content;
mod defaults;
mod dht;
mod diagnostic;
mod duration;
mod effective;
mod environment;
pub mod files;
mod http;
mod in_force;
mod layer;
mod limits;
mod logging;
mod merge;
mod metadata_cache;
mod monitoring;
mod network;
mod node;
mod parse;
mod peer_discovery;
#[cfg(test)]
mod reference;
mod render;
mod resolve;
mod roots;
mod scope;
mod section;
mod security;
mod shape;
mod storage;
mod suggest;
mod syncs;
mod transfer;
mod transport;
mod tree;
mod unified_diff;

pub use agent_config::AgentConfig;
pub use bandwidth::{Bandwidth, ParseRateError, PeerRate, ScheduledRate};
pub use change::{Change, diff};
pub use compression::{Algorithm, Compression};
pub use content::{ContentStore, CopyBaselines};
pub use defaults::DEFAULTS;
pub use dht::{Dht, HostPort};
pub use diagnostic::{Diagnostic, Severity};
pub use duration::{ParseDurationError, format_duration, parse_duration};
pub use effective::{Effective, Value};
pub use environment::{PROGRAM_VARIABLES, VARIABLE_PREFIX, environment};
pub use http::{Http, PemSource};
pub use layer::{Layer, LayerName, ParseLayerNameError};
pub use limits::Limits;
pub use logging::{LogFormat, Logging};
pub use metadata_cache::MetadataCache;
pub use monitoring::{LogLevel, Monitoring};
pub use network::{Advertised, Network, Reach};
pub use parse::{MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_NODES, parse};
pub use peer_discovery::PeerDiscovery;
pub use resolve::resolve;
pub use roots::{AcceptRule, Root};
pub use security::Security;
pub use storage::Storage;
pub use syncs::{ConfiguredSync, configured_syncs};
pub use transfer::Transfer;
pub use transport::{CongestionAlgorithm, TcpLane, Transport};
pub use tree::Tree;
pub use unified_diff::unified_diff;

#[cfg(test)]
mod tests;
