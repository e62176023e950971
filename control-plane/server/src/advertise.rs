//! How hosts and people reach this server: what was asked for, else what the host has.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use control_plane_pki::ServerNames;

use crate::options::Advertised;

/// How this server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// `HOST:PORT` of gRPC, the best one first.
    pub(crate) endpoints: Vec<String>,
    /// What its certificate says.
    pub(crate) names: ServerNames,
    /// The address that others reach its DHT node at.
    pub(crate) ipv4: Ipv4Addr,
}

impl Reach {
    /// What was asked for; else the listener's address; else, where it listens on all, the host's addresses.
    pub(crate) fn new(asked: &[Advertised], listener: SocketAddr, host: &str, interfaces: &[IpAddr]) -> Self {
        let own: Vec<IpAddr> = if listener.ip().is_unspecified() { interfaces.to_vec() } else { vec![listener.ip()] };
        let own = if own.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { own };
        let endpoints = if asked.is_empty() {
            own.iter().map(|address| SocketAddr::new(*address, listener.port()).to_string()).collect()
        } else {
            asked.iter().map(|advertised| endpoint(advertised, listener.port())).collect()
        };
        // People may use any of the host's names, whichever is advertised to agents.
        let mut names = ServerNames { names: BTreeSet::new(), addresses: own.iter().copied().collect() };
        names.names.extend(rustls_pki_types::DnsName::try_from(host).is_ok().then(|| host.to_owned()));
        for advertised in asked {
            match advertised.host.parse() {
                Ok(address) => _ = names.addresses.insert(address),
                Err(_not_an_address) => _ = names.names.insert(advertised.host.clone()),
            }
        }
        let asked_ipv4 = asked.iter().filter_map(|advertised| advertised.host.parse().ok());
        let own_ipv4 = own.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let ipv4 = asked_ipv4.chain(own_ipv4).next().unwrap_or(Ipv4Addr::LOCALHOST);
        Self { endpoints, names, ipv4 }
    }
}

impl Reach {
    /// Where others reach a DHT node that listens here.
    pub(crate) fn ring_address(&self, local: SocketAddrV4) -> String {
        let ip = if local.ip().is_unspecified() { self.ipv4 } else { *local.ip() };
        SocketAddrV4::new(ip, local.port()).to_string()
    }
}

fn endpoint(advertised: &Advertised, port: u16) -> String {
    let port = advertised.port.unwrap_or(port);
    match advertised.host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_name) => format!("{}:{port}", advertised.host),
    }
}

/// The host's addresses that others can reach it at: no loopback, no link-local, IPv4 first.
pub(crate) fn interfaces() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    let mut addresses: Vec<IpAddr> = addresses
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local() && !address.is_unspecified(),
            IpAddr::V6(address) => {
                !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified()
            }
        })
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.dedup();
    addresses
}

/// The host's own name, or `localhost`.
pub(crate) fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERFACES: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

    #[test]
    fn what_is_asked_for_is_advertised_and_the_hosts_own_addresses_stay_in_the_certificate() {
        let asked = ["ctl.example".parse().unwrap(), "203.0.113.5:9000".parse().unwrap()];
        let reach = Reach::new(&asked, "[::]:7442".parse().unwrap(), "host", &INTERFACES);
        assert_eq!(reach.endpoints, ["ctl.example:7442", "203.0.113.5:9000"]);
        assert!(reach.names.names.contains("ctl.example") && reach.names.names.contains("host"));
        assert!(reach.names.addresses.contains(&INTERFACES[0]) && reach.names.addresses.len() == 3);
        assert_eq!(reach.ipv4, Ipv4Addr::new(203, 0, 113, 5));
    }

    #[test]
    fn without_a_wish_it_is_where_the_server_listens() {
        let everywhere = Reach::new(&[], "[::]:7442".parse().unwrap(), "host", &INTERFACES);
        assert_eq!(everywhere.endpoints, ["192.0.2.7:7442", "[2001:db8::1]:7442"]);
        let here = Reach::new(&[], "127.0.0.1:7442".parse().unwrap(), "host", &INTERFACES);
        assert_eq!(here.endpoints, ["127.0.0.1:7442"]);
        assert_eq!(here.ipv4, Ipv4Addr::LOCALHOST);
    }
}
