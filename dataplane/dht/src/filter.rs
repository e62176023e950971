//! Which requests a ring node answers: it stands before mainline's server, which answers everybody.
//!
//! An answer is up to 14 times as long as its request and UDP's senders can be forged, so what goes to addresses that nobody knows is bounded:
//! by address, by network, and in all. What cannot be bounded here: mainline parses every datagram before it asks, puts
//! who it is told of by the ring into its table, and takes a second value at the same `seq` (readers refuse it).

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use foundation_runtime::Clock;
use mainline::{Id, RequestFilter, RequestSpecific};
use metrics::counter;

/// So many seconds of an address's requests may come at once: a host that starts looks for all its peers.
const BURST_SECONDS: f64 = 10.0;
/// An address that is known may be that of a hundred agents.
const KNOWN_FACTOR: f64 = 5.0;
/// A network (/24) of unknown addresses gets as many as so many addresses.
const NETWORK_FACTOR: f64 = 4.0;
/// All unknown addresses together get as many as so many addresses.
const STRANGERS_FACTOR: f64 = 40.0;
/// Addresses and networks that are counted; beyond it the table is begun anew, what all unknown ones get together stays counted.
const MAX_BUCKETS: usize = 10_000;

/// Keeps one address from using up a ring node, a forger from using it against others, and a ring node from answering itself.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    clock: Clock,
    per_second: f64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    own: Option<Id>,
    ring: HashSet<Ipv4Addr>,
    known: HashSet<Ipv4Addr>,
    addresses: HashMap<Ipv4Addr, Bucket>,
    /// By the first address of a /24.
    networks: HashMap<Ipv4Addr, Bucket>,
    strangers: Option<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    at: Instant,
    left: f64,
}

impl Filter {
    pub(crate) fn new(clock: Clock, per_second: u32) -> Self {
        Self { clock, per_second: f64::from(per_second), state: Arc::default() }
    }

    pub(crate) fn set_own(&self, id: Id) {
        self.lock().own = Some(id);
    }

    pub(crate) fn set_known(&self, known: HashSet<Ipv4Addr>) {
        self.lock().known = known;
    }

    /// The ring's nodes, as far as they are given by address.
    pub(crate) fn set_ring(&self, ring: &[String]) {
        let addresses = ring.iter().filter_map(|node| node.parse::<SocketAddrV4>().ok());
        self.lock().ring = addresses.map(|address| *address.ip()).collect();
    }

    fn allows(&self, requester: Id, from: Ipv4Addr) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        if state.own == Some(requester) {
            return false;
        }
        let allowed = state.takes(from, now, self.per_second);
        drop(state);
        if !allowed {
            counter!("dwcp_limit_hits_total", "limit" => "limits.dht_requests_per_second").increment(1);
        }
        allowed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn takes(&mut self, from: Ipv4Addr, now: Instant, rate: f64) -> bool {
        if self.known.contains(&from) || self.ring.contains(&from) {
            return take(&mut self.addresses, from, now, rate * KNOWN_FACTOR);
        }
        let [a, b, c, _] = from.octets();
        take(&mut self.addresses, from, now, rate)
            && take(&mut self.networks, Ipv4Addr::new(a, b, c, 0), now, rate * NETWORK_FACTOR)
            && self
                .strangers
                .get_or_insert_with(|| Bucket::full(now, rate * STRANGERS_FACTOR))
                .take(now, rate * STRANGERS_FACTOR)
    }
}

fn take(buckets: &mut HashMap<Ipv4Addr, Bucket>, key: Ipv4Addr, now: Instant, rate: f64) -> bool {
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

impl RequestFilter for Filter {
    fn allow_request(&self, request: &RequestSpecific, from: SocketAddrV4) -> bool {
        self.allows(request.requester_id, *from.ip())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, Utc};

    use super::*;

    fn answered(filter: &Filter, from: [u8; 4], requests: usize) -> usize {
        (0..requests).filter(|_| filter.allows(Id::random(), from.into())).count()
    }

    #[test]
    fn one_address_cannot_use_up_a_ring_node() {
        let (clock, hand) = Clock::manual(DateTime::<Utc>::UNIX_EPOCH);
        let filter = Filter::new(clock, 50);
        assert_eq!(answered(&filter, [10, 0, 0, 1], 10_000), 500);
        assert_eq!(answered(&filter, [10, 0, 0, 2], 1), 1);
        hand.advance(Duration::from_secs(1));
        assert_eq!(answered(&filter, [10, 0, 0, 1], 10_000), 50);
        filter.set_known([Ipv4Addr::new(10, 0, 0, 3)].into());
        assert_eq!(
            answered(&filter, [10, 0, 0, 3], 10_000),
            2_500,
            "a whole site may be behind an address that is known"
        );
    }

    #[test]
    fn many_forged_addresses_get_no_more_than_a_few() {
        let (clock, hand) = Clock::manual(DateTime::<Utc>::UNIX_EPOCH);
        let filter = Filter::new(clock, 50);
        let network: usize = (0..=255).map(|last| answered(&filter, [203, 0, 113, last], 1_000)).sum();
        assert_eq!(network, 2_000);
        hand.advance(Duration::from_secs(3600));
        let all: usize = (0..20_000_u32).map(|n| answered(&filter, (0x0b00_0000 + n * 256).to_be_bytes(), 100)).sum();
        assert_eq!(all, 20_000);
        assert!(filter.lock().addresses.len() <= MAX_BUCKETS);
        filter.set_ring(&["192.0.2.1:30610".to_owned()]);
        assert_eq!(answered(&filter, [192, 0, 2, 1], 10), 10, "the ring goes on");
    }

    #[test]
    fn a_ring_node_does_not_answer_itself() {
        let filter = Filter::new(Clock::system(), 50);
        let own = Id::random();
        filter.set_own(own);
        assert!(!filter.allows(own, Ipv4Addr::LOCALHOST));
    }
}
