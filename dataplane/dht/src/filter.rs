//! Which requests a ring node answers: it stands before mainline's server, which answers everybody.
//!
//! An answer is up to 14 times as long as its request and UDP's senders can be forged, so what goes to addresses that nobody knows is bounded:
//! by address, by network, and in all. What cannot be bounded here: mainline parses every datagram before it asks, puts
//! who it is told of by the ring into its table, and takes a second value at the same `seq` (readers refuse it).

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foundation_listener::{Allowance, limit_hits};
use foundation_runtime::Clock;
use mainline::{Id, RequestFilter, RequestSpecific};

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
    allowance: Allowance,
}

impl Filter {
    pub(crate) fn new(clock: Clock, per_second: u32) -> Self {
        Self { clock, per_second: f64::from(per_second), state: Arc::default() }
    }

    pub(crate) fn set_own(&self, id: Id) {
        self.lock().own = Some(id);
    }

    pub(crate) fn set_known(&self, known: HashSet<Ipv4Addr>) {
        let mut state = self.lock();
        state.known = known;
        state.belong();
    }

    /// The ring's nodes, as far as they are given by address.
    pub(crate) fn set_ring(&self, ring: &[String]) {
        let addresses = ring.iter().filter_map(|node| node.parse::<SocketAddrV4>().ok());
        let mut state = self.lock();
        state.ring = addresses.map(|address| *address.ip()).collect();
        state.belong();
    }

    fn allows(&self, requester: Id, from: Ipv4Addr) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        if state.own == Some(requester) {
            return false;
        }
        let allowed = state.allowance.takes(from.into(), now, self.per_second);
        drop(state);
        if !allowed {
            limit_hits::hit("limits.dht_requests_per_second");
        }
        allowed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn belong(&mut self) {
        self.allowance.set_known(self.ring.union(&self.known).map(|address| IpAddr::from(*address)));
    }
}

impl RequestFilter for Filter {
    fn allow_request(&self, request: &RequestSpecific, from: SocketAddrV4) -> bool {
        self.allows(request.requester_id, *from.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(filter: &Filter, from: [u8; 4], requests: usize) -> usize {
        (0..requests).filter(|_| filter.allows(Id::random(), from.into())).count()
    }

    #[test]
    fn strangers_have_their_share_and_the_ring_and_the_fleet_more() {
        let filter = Filter::new(Clock::system(), 1);
        assert!(answered(&filter, [10, 0, 0, 1], 1_000) < 20);
        filter.set_known([Ipv4Addr::new(10, 0, 0, 2)].into());
        filter.set_ring(&["10.0.0.3:30610".to_owned()]);
        for known in [2, 3] {
            assert!(answered(&filter, [10, 0, 0, known], 50) == 50, "{known}");
        }
    }

    #[test]
    fn a_ring_node_does_not_answer_itself() {
        let filter = Filter::new(Clock::system(), 50);
        let own = Id::random();
        filter.set_own(own);
        assert!(!filter.allows(own, Ipv4Addr::LOCALHOST));
    }
}
