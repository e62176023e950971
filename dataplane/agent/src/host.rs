//! What the host is: its system, its name, its addresses.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use proto_model::config::Advertised;

/// So many addresses are published at most: a record of the DHT must stay below 500 bytes, and dialling tries them all.
pub(crate) const MAX_ADDRESSES: usize = 8;

/// For example `Debian GNU/Linux 12 (bookworm)`.
pub(crate) fn operating_system() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| std::env::consts::OS.to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The host's own name, up to its first dot, in lower case.
pub(crate) fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    name.to_ascii_lowercase()
}

/// The addresses of interfaces that are up, IPv4 first; loopback ones last and only where there are no others.
pub(crate) fn interface_addresses() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for interface in getifaddrs().into_iter().flatten() {
        if !interface.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let Some(address) = interface.address else { continue };
        let ip = address
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
        if let Some(ip) = ip.filter(|ip| is_dialable(*ip) && !found.contains(ip)) {
            found.push(ip);
        }
    }
    found.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    if found.iter().any(|ip| !ip.is_loopback()) {
        found.retain(|ip| !ip.is_loopback());
    }
    found
}

/// Link-local addresses mean something only with an interface, which others cannot know.
fn is_dialable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}

/// The addresses to publish for a port that is listened on: those advertised, else the one listened on, else the
/// interfaces' and the one that the control plane sees.
pub(crate) fn published(
    listen: SocketAddr,
    advertised: &[Advertised],
    interfaces: &[IpAddr],
    observed: Option<IpAddr>,
) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    let mut add = |address: SocketAddr| {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    };
    if !advertised.is_empty() {
        advertised.iter().for_each(|one| add(SocketAddr::new(one.ip, one.port.unwrap_or(listen.port()))));
        return addresses;
    }
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let both = listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    for ip in interfaces.iter().copied().chain(observed.map(|ip| ip.to_canonical())) {
        if ip.is_ipv4() || both {
            add(SocketAddr::new(ip, listen.port()));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_advertised_stands_alone() {
        let advertised = ["203.0.113.7".parse().unwrap(), "[2001:db8::7]:9".parse().unwrap()];
        let got = published("[::]:30906".parse().unwrap(), &advertised, &ips(&["10.0.0.1"]), None);
        assert_eq!(got, ["203.0.113.7:30906".parse().unwrap(), "[2001:db8::7]:9".parse().unwrap()]);
    }

    #[test]
    fn otherwise_the_interfaces_and_what_the_control_plane_sees() {
        let interfaces = ips(&["10.0.0.1", "2001:db8::1"]);
        let seen = Some("::ffff:203.0.113.7".parse().unwrap());
        let got = published("[::]:1".parse().unwrap(), &[], &interfaces, seen);
        assert_eq!(got.len(), 3);
        assert!(got.contains(&"203.0.113.7:1".parse().unwrap()));
        let v4_only = published("0.0.0.0:1".parse().unwrap(), &[], &interfaces, None);
        assert_eq!(v4_only, ["10.0.0.1:1".parse().unwrap()]);
        assert_eq!(published("127.0.0.1:5".parse().unwrap(), &[], &interfaces, seen), ["127.0.0.1:5".parse().unwrap()]);
    }
}
