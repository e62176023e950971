//! How much of a UDP port strangers may use. A datagram's sender can be forged, and making the answer costs more than asking: so what is done
//! for addresses that nobody knows is bounded, by address, by network, and in all.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use crate::gate::group;

/// So many seconds of an address's share may come at once: a host that starts looks for all its peers.
const BURST_SECONDS: f64 = 10.0;
/// An address that is known may be that of a hundred agents.
const KNOWN_FACTOR: f64 = 5.0;
/// A network (/24, or /48 of IPv6) of unknown addresses gets as much as so many addresses.
const NETWORK_FACTOR: f64 = 4.0;
/// All unknown addresses together get as much as so many addresses.
const STRANGERS_FACTOR: f64 = 40.0;
/// Addresses and networks that are counted; beyond it the table is begun anew, what all unknown ones get together stays counted.
const MAX_BUCKETS: usize = 10_000;

/// Counts what is taken. An IPv6 host is its /64.
#[derive(Debug, Default)]
pub struct Allowance {
    known: HashSet<IpAddr>,
    addresses: HashMap<IpAddr, Bucket>,
    networks: HashMap<IpAddr, Bucket>,
    strangers: Option<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    at: Instant,
    left: f64,
}

impl Allowance {
    /// These addresses, and no others, belong here.
    pub fn set_known(&mut self, known: impl IntoIterator<Item = IpAddr>) {
        self.known = known.into_iter().map(group).collect();
    }

    /// This address belongs here too; of very many the earlier ones are forgotten.
    pub fn know(&mut self, address: IpAddr) {
        if self.known.len() >= MAX_BUCKETS {
            self.known.clear();
        }
        self.known.insert(group(address));
    }

    /// Takes one from an address's share of so many a second; whether there was one left.
    pub fn takes(&mut self, from: IpAddr, now: Instant, per_second: f64) -> bool {
        let from = group(from);
        if self.known.contains(&from) {
            return take(&mut self.addresses, from, now, per_second * KNOWN_FACTOR);
        }
        let all = per_second * STRANGERS_FACTOR;
        take(&mut self.addresses, from, now, per_second)
            && take(&mut self.networks, network(from), now, per_second * NETWORK_FACTOR)
            && self.strangers.get_or_insert_with(|| Bucket::full(now, all)).take(now, all)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
        }
    }
}

fn take(buckets: &mut HashMap<IpAddr, Bucket>, key: IpAddr, now: Instant, rate: f64) -> bool {
    if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&key) {
        buckets.clear();
    }
    buckets.entry(key).or_insert_with(|| Bucket::full(now, rate)).take(now, rate)
}

impl Bucket {
    fn full(at: Instant, rate: f64) -> Self {
        Self { at, left: rate * BURST_SECONDS }
    }

    fn take(&mut self, now: Instant, rate: f64) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate).min(rate * BURST_SECONDS);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foundation_runtime::Clock;

    use super::*;

    fn taken(allowance: &mut Allowance, from: [u8; 4], now: Instant, times: usize) -> usize {
        (0..times).filter(|_| allowance.takes(from.into(), now, 50.0)).count()
    }

    #[test]
    fn one_address_gets_its_share_and_a_known_one_more() {
        let (mut allowance, now) = (Allowance::default(), Clock::system().now());
        assert_eq!(taken(&mut allowance, [10, 0, 0, 1], now, 10_000), 500);
        assert_eq!(taken(&mut allowance, [10, 0, 0, 2], now, 1), 1);
        assert_eq!(taken(&mut allowance, [10, 0, 0, 1], now + Duration::from_secs(1), 10_000), 50);
        allowance.know([10, 0, 0, 3].into());
        let known = taken(&mut allowance, [10, 0, 0, 3], now, 10_000);
        assert_eq!(known, 2_500, "a whole site may be behind an address that is known");
    }

    #[test]
    fn many_forged_addresses_get_no_more_than_a_few() {
        let (mut allowance, now) = (Allowance::default(), Clock::system().now());
        let network: usize = (0..=255).map(|last| taken(&mut allowance, [203, 0, 113, last], now, 1_000)).sum();
        assert_eq!(network, 2_000);
        let later = now + Duration::from_secs(3600);
        let forged = |number: u32| (0x0b00_0000 + number * 256).to_be_bytes();
        let all: usize = (0..20_000).map(|number| taken(&mut allowance, forged(number), later, 100)).sum();
        assert_eq!(all, 20_000);
        assert!(allowance.addresses.len() <= MAX_BUCKETS && allowance.networks.len() <= MAX_BUCKETS);
        allowance.set_known([IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(taken(&mut allowance, [192, 0, 2, 1], later, 10), 10, "who belongs here goes on");
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let (mut allowance, now) = (Allowance::default(), Clock::system().now());
        let host = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        assert_eq!((0..1000).filter(|last| allowance.takes(host(*last), now, 50.0)).count(), 500);
    }
}
