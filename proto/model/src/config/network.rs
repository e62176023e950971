//! Section `network`: where the host listens and how it is reached. The host's own.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::section::{Reader, choice};

/// Where the host listens and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// QUIC; a port of 0 is chosen once and kept.
    pub quic_listen: SocketAddr,
    /// The DHT; none where it should not listen.
    pub dht_listen: Option<SocketAddr>,
    /// HTTP.
    pub http_listen: SocketAddr,
    /// Metrics, where not on the loopback address and `monitoring.metrics_port`.
    pub metrics_listen: Option<SocketAddr>,
    /// What is published instead of the interfaces' addresses.
    pub advertise: Vec<Advertised>,
    /// Whether others can dial it.
    pub reach: Reach,
    /// Whether it offers to relay; it does only where an operator allows it.
    pub relay: bool,
}

/// An address to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Advertised {
    /// The address.
    pub ip: IpAddr,
    /// The port for QUIC; the one it listens on where absent.
    pub port: Option<u16>,
}

choice! {
    /// Whether others can dial a host.
    Reach {
        /// Find out.
        Auto = "auto",
        /// They can.
        Public = "public",
        /// They cannot: a relay is needed.
        Private = "private",
    }
}

impl Network {
    /// More addresses than any host publishes.
    pub const MAX_ADVERTISED: usize = 16;

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("network");
        let dht = section.parsed("dht_listen", |text| match text {
            "none" => Ok(None),
            _ => parse_listen(text).map(Some),
        });
        Self {
            quic_listen: section.parsed("quic_listen", parse_listen),
            dht_listen: dht,
            http_listen: section.parsed("http_listen", parse_listen),
            metrics_listen: section.optional("metrics_listen", parse_listen),
            advertise: section.list("advertise", Self::MAX_ADVERTISED, |text| text.parse::<Advertised>()),
            reach: section.choice("reach"),
            relay: section.boolean("relay"),
        }
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_form| "is not an address with a port, such as 127.0.0.1:8080 or [::]:30906")
}

impl FromStr for Advertised {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let with_port = text.parse::<SocketAddr>().ok().filter(|address| address.port() > 0);
        let with_port = with_port.map(|address| Self { ip: address.ip(), port: Some(address.port()) });
        let alone = || text.trim_matches(['[', ']']).parse().ok().map(|ip| Self { ip, port: None });
        let parsed =
            with_port.or_else(alone).filter(|address| !address.ip.is_unspecified() && !address.ip.is_multicast());
        parsed.ok_or("is not an address that others can dial, IP or IP:PORT")
    }
}
