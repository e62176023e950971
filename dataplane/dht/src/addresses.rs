//! To whom a datagram may be sent, of a list that somebody gave: nothing goes to what cannot be a node of the ring.

use std::{
    collections::{BTreeMap, HashSet},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket},
};

use metrics::counter;

/// The longest list of ring nodes: mainline asserts that at most 255 answer, and a ring has no use for more than about seven.
const MAX_RING: usize = 32;

/// The IPv4 addresses of the list; what cannot be resolved now is left out.
pub(crate) fn resolve_names(ring: &[String]) -> Vec<SocketAddrV4> {
    let mut addresses = Vec::new();
    let mut names = 0;
    for name in ring {
        if let Ok(address) = name.parse() {
            addresses.push(address);
            continue;
        }
        names += 1;
        // A ring has no use for more, and a name may take seconds to be found out.
        if names > MAX_RING {
            continue;
        }
        match name.to_socket_addrs() {
            Ok(found) => addresses.extend(found.filter_map(|address| match address {
                SocketAddr::V4(address) => Some(address),
                SocketAddr::V6(_) => None,
            })),
            Err(reason) => tracing::warn!(node = %name, %reason, "a DHT ring node's address is not known"),
        }
    }
    addresses
}

/// Those of a list that a datagram may go to, in its order: a list that was poisoned must not make this host send to groups, to
/// all, to itself or to none. Private addresses are where a fleet lives, and stay.
pub(crate) fn usable(addresses: Vec<SocketAddrV4>, own: SocketAddrV4) -> Vec<SocketAddrV4> {
    let given = addresses.len();
    let (mut kept, mut seen) = (Vec::new(), HashSet::new());
    let mut refused = BTreeMap::<&'static str, u64>::new();
    for address in addresses {
        if let Some(reason) = unusable(address, own) {
            *refused.entry(reason).or_default() += 1;
        } else if !seen.insert(address) {
            // Twice the same says nothing.
        } else if kept.len() == MAX_RING {
            *refused.entry("too_many").or_default() += 1;
        } else {
            kept.push(address);
        }
    }
    for (reason, count) in &refused {
        counter!("dwcp_dht_refused_addresses_total", "reason" => *reason).increment(*count);
    }
    // That a node stands in its own list is usual.
    refused.remove("own");
    if !refused.is_empty() {
        tracing::warn!(
            given,
            used = kept.len(),
            most = MAX_RING,
            ?refused,
            "Addresses in the list of DHT ring nodes are not used"
        );
    }
    kept
}

/// Why nothing is sent there.
fn unusable(address: SocketAddrV4, own: SocketAddrV4) -> Option<&'static str> {
    let ip = address.ip();
    let first = ip.octets()[0];
    if address.port() == 0 || first == 0 {
        Some("nowhere")
    } else if ip.is_multicast() {
        Some("multicast")
    } else if first >= 240 {
        // Reserved, and the broadcast.
        Some("reserved")
    } else if ip.is_link_local() {
        Some("link_local")
    } else if address == own || (own.ip().is_unspecified() && address.port() == own.port() && is_here(*ip)) {
        Some("own")
    } else if ip.is_loopback() && !own.ip().is_loopback() && !own.ip().is_unspecified() {
        // Who listens at one address of the network is no fleet of one host.
        Some("loopback")
    } else {
        None
    }
}

/// Whether it is an address of this host: only on those can be listened.
fn is_here(ip: Ipv4Addr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    #[test]
    fn a_ring_of_nonsense_comes_to_those_that_can_be_asked() {
        let own = at("192.0.2.1:30609");
        let poisoned = [
            "0.0.0.0:1",
            "224.0.0.1:1",
            "239.9.9.9:1",
            "255.255.255.255:1",
            "240.0.0.1:1",
            "169.254.169.254:80",
            "127.0.0.1:30610",
            "192.0.2.1:30609",
            "192.0.2.2:0",
            "0.1.2.3:1",
        ];
        let addresses = poisoned.iter().chain(&["192.0.2.3:30610", "192.0.2.3:30610"]);
        let found = usable(addresses.map(|text| at(text)).collect(), own);
        assert_eq!(found, [at("192.0.2.3:30610")]);
    }

    #[test]
    fn a_long_list_is_cut_and_keeps_its_order() {
        let own = at("192.0.2.1:30609");
        let many = (1..=10_000_u16).rev().map(|port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 3), port));
        let found = usable(many.collect(), own);
        assert_eq!((found.len(), found[0].port(), found[31].port()), (MAX_RING, 10_000, 9_969));
    }

    #[test]
    fn who_listens_everywhere_does_not_send_to_itself() {
        let own = at("0.0.0.0:30609");
        let found = usable(vec![at("127.0.0.1:30609"), at("127.0.0.1:30610"), at("192.0.2.7:30609")], own);
        assert_eq!(found, [at("127.0.0.1:30610"), at("192.0.2.7:30609")]);
    }
}
