//! Section `dht`: the node's record.

use std::{fmt, str::FromStr, time::Duration};

use super::section::Reader;

/// The node's signed metadata in the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dht {
    /// Whether it is published and looked for there.
    pub enabled: bool,
    /// How often it is published when nothing changed (RN-1).
    pub metadata_republish_interval: Duration,
    /// Where to begin; where empty, the ring that the control plane names.
    pub bootstrap: Vec<HostPort>,
    /// Whether to take part in the public Mainline DHT as well.
    pub public: bool,
    /// Whether records are encrypted with the fleet's key.
    pub encrypt_records: bool,
    /// After so long the control plane is asked as well.
    pub hedge_delay: Duration,
    /// How long a look-up may take.
    pub query_timeout: Duration,
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address; an IPv6 one without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

impl Dht {
    /// More places to begin at than any ring has.
    pub const MAX_BOOTSTRAP: usize = 64;

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("dht");
        Self {
            enabled: section.boolean("enabled"),
            metadata_republish_interval: section.duration("metadata_republish_interval", 10..=7 * 86_400),
            bootstrap: section.list("bootstrap", Self::MAX_BOOTSTRAP, |text| text.parse::<HostPort>()),
            public: section.boolean("public"),
            encrypt_records: section.boolean("encrypt_records"),
            hedge_delay: section.duration("hedge_delay", 0..=60),
            query_timeout: section.duration("query_timeout", 1..=300),
        }
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "is not of the form HOST:PORT";
        let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_v6 = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
        let is_name = |host: &str| {
            let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            (1..=253).contains(&host.len()) && host.bytes().all(inner)
        };
        let host = match bracketed {
            Some(host) => Some(host).filter(|host| is_v6(host)),
            None => Some(host).filter(|host| is_name(host)),
        };
        let port = port.parse().ok().filter(|&port| port > 0).ok_or(FORM)?;
        Ok(Self { host: host.ok_or(FORM)?.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
