//! [`HostFacts`].

use std::{fmt, net::SocketAddr, str::FromStr};

use proto_rpc::agent as rpc;

use crate::{InvalidField, ParseRootNameError, RootName, invalid_field::each, transfer_error::bounded_text};

/// What a host reports of itself; nothing of it authorises (D3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The program's version.
    pub agent_version: String,
    /// For example `Debian GNU/Linux 12`.
    pub os: String,
    /// The host's own name.
    pub hostname: String,
    /// For QUIC.
    pub quic_addresses: Vec<SocketAddr>,
    /// For the DHT.
    pub dht_addresses: Vec<SocketAddr>,
    /// What the host's owner opened.
    pub roots: Vec<SharedRoot>,
    /// Whether the host offers to relay; it does only where an operator allows it.
    pub offers_relay: bool,
}

/// A root, as a host reports it: `NAME`, or `NAME:ro`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedRoot {
    /// Its name.
    pub name: RootName,
    /// Whether nothing is written there.
    pub read_only: bool,
}

/// The text is no root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ParseSharedRootError(#[from] ParseRootNameError);

impl HostFacts {
    /// Addresses of one kind: more than any host publishes.
    pub const MAX_ADDRESSES: usize = 64;
    /// Roots of one host.
    pub const MAX_ROOTS: usize = 256;
}

impl FromStr for SharedRoot {
    type Err = ParseSharedRootError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, read_only) = text.strip_suffix(":ro").map_or((text, false), |name| (name, true));
        Ok(Self { name: name.parse()?, read_only })
    }
}

impl fmt::Display for SharedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.read_only { ":ro" } else { "" })
    }
}

fn bounded<T>(field: &'static str, values: Vec<T>, max: usize) -> Result<Vec<T>, InvalidField> {
    if values.len() > max { Err(InvalidField::new(field, format!("has more than {max} elements"))) } else { Ok(values) }
}

fn texts<T: ToString>(values: Vec<T>) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

impl TryFrom<rpc::HostFacts> for HostFacts {
    type Error = InvalidField;

    fn try_from(facts: rpc::HostFacts) -> Result<Self, Self::Error> {
        let addresses = |field: &'static str, texts: Vec<String>| {
            each(field, bounded(field, texts, Self::MAX_ADDRESSES)?, |text| text.parse::<SocketAddr>())
        };
        Ok(Self {
            agent_version: bounded_text(&facts.agent_version),
            os: bounded_text(&facts.os),
            hostname: bounded_text(&facts.hostname),
            quic_addresses: addresses("quic_addresses", facts.quic_addresses)?,
            dht_addresses: addresses("dht_addresses", facts.dht_addresses)?,
            roots: each("roots", bounded("roots", facts.roots, Self::MAX_ROOTS)?, |root| root.parse::<SharedRoot>())?,
            offers_relay: facts.offers_relay,
        })
    }
}

impl From<HostFacts> for rpc::HostFacts {
    fn from(facts: HostFacts) -> Self {
        Self {
            agent_version: facts.agent_version,
            os: facts.os,
            hostname: facts.hostname,
            quic_addresses: texts(facts.quic_addresses),
            dht_addresses: texts(facts.dht_addresses),
            roots: texts(facts.roots),
            offers_relay: facts.offers_relay,
        }
    }
}
