//! How many connections a port holds, and who gives way.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::limit_hits;

/// Bounds the connections of a port. Clones are the same gate.
///
/// Everybody is a stranger at first. Strangers never wait for one another: one too many puts out the oldest of the address that has most.
/// Who has shown a credential ([`Admission::admit`]) is put out no more, and is counted apart.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    strangers: &'static str,
    admitted: &'static str,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    most_strangers: usize,
    most_admitted: usize,
    next: u64,
    /// In the order of their coming.
    waiting: BTreeMap<u64, Stranger>,
    by_group: HashMap<IpAddr, usize>,
    admitted: usize,
}

#[derive(Debug)]
struct Stranger {
    group: IpAddr,
    cut: CancellationToken,
}

/// A connection's place, until dropped.
#[derive(Debug)]
pub struct Place {
    admission: Admission,
    cut: CancellationToken,
    admitted: Arc<Mutex<bool>>,
}

/// Admits one connection; does not hold its place.
#[derive(Clone)]
pub struct Admission {
    gate: Gate,
    id: u64,
    admitted: Arc<Mutex<bool>>,
    ended: CancellationToken,
}

impl Gate {
    /// So many strangers, and none that are admitted; `limit` is the bound's name.
    #[must_use]
    pub fn new(limit: &'static str, strangers: usize) -> Self {
        Self::with_admitted((limit, strangers), (limit, 0))
    }

    /// So many strangers, and so many who have shown a credential; each with its bound's name.
    #[must_use]
    pub fn with_admitted(strangers: (&'static str, usize), admitted: (&'static str, usize)) -> Self {
        let state = State {
            most_strangers: strangers.1.max(1),
            most_admitted: admitted.1,
            next: 0,
            waiting: BTreeMap::new(),
            by_group: HashMap::new(),
            admitted: 0,
        };
        Self(Arc::new(Inner { strangers: strangers.0, admitted: admitted.0, state: Mutex::new(state) }))
    }

    /// Another bound for strangers, from the next one on.
    pub fn set_strangers(&self, most: usize) {
        let mut state = self.lock();
        state.most_strangers = most.max(1);
        while state.waiting.len() > state.most_strangers && state.put_one_out() {}
    }

    /// A place for a newcomer.
    #[must_use]
    pub fn enter(&self, address: IpAddr) -> Place {
        self.enter_with(address, &CancellationToken::new())
    }

    /// A place for a newcomer whose connection also ends with `parent`.
    #[must_use]
    pub fn enter_with(&self, address: IpAddr, parent: &CancellationToken) -> Place {
        let (group, cut) = (group(address), parent.child_token());
        let mut state = self.lock();
        if state.waiting.len() >= state.most_strangers && state.put_one_out() {
            limit_hits::hit(self.0.strangers);
        }
        let id = state.next;
        state.next += 1;
        state.waiting.insert(id, Stranger { group, cut: cut.clone() });
        *state.by_group.entry(group).or_default() += 1;
        drop(state);
        let (admitted, ended) = (Arc::new(Mutex::new(false)), CancellationToken::new());
        Place { admission: Admission { gate: self.clone(), id, admitted: Arc::clone(&admitted), ended }, cut, admitted }
    }

    /// Puts one stranger out, for want of something else: files. Whether there was one.
    pub fn shed(&self) -> bool {
        self.lock().put_one_out()
    }

    /// How many strangers there are, and how many who were admitted.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.admitted)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest of the group that has most; of groups that have as many, the oldest of all.
    fn put_one_out(&mut self) -> bool {
        let Some(most) = self.by_group.values().copied().max() else { return false };
        let mut waiting = self.waiting.iter();
        let found = waiting.find(|(_, stranger)| self.by_group.get(&stranger.group) == Some(&most));
        let Some(id) = found.map(|(id, _)| *id) else { return false };
        self.forget(id).is_some_and(|stranger| {
            stranger.cut.cancel();
            true
        })
    }

    fn forget(&mut self, id: u64) -> Option<Stranger> {
        let stranger = self.waiting.remove(&id)?;
        if let Some(count) = self.by_group.get_mut(&stranger.group) {
            *count -= 1;
            if *count == 0 {
                self.by_group.remove(&stranger.group);
            }
        }
        Some(stranger)
    }
}

impl Place {
    /// Cancelled when the connection has to go.
    #[must_use]
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// For whoever finds out who is at the other end.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission.clone()
    }
}

impl Admission {
    /// Whether the connection is still there and has shown no credential.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        self.gate.lock().waiting.contains_key(&self.id)
    }

    /// Resolves when the connection has ended. Cancel safe.
    pub async fn gone(&self) {
        self.ended.cancelled().await;
    }

    /// The other end has shown a credential. Whether there is room for it; a second time changes nothing.
    pub fn admit(&self) -> bool {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if *admitted {
            return true;
        }
        let mut state = self.gate.lock();
        if state.admitted >= state.most_admitted {
            limit_hits::hit(self.gate.0.admitted);
            return false;
        }
        if state.forget(self.id).is_some() {
            state.admitted += 1;
            *admitted = true;
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.ended.cancel();
        let admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.admission.gate.lock();
        if *admitted {
            state.admitted -= 1;
        } else {
            state.forget(self.admission.id);
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("limit", &self.0.strangers).finish_non_exhaustive()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Addresses of one host: an IPv6 host has a whole /64 to itself.
#[must_use]
pub(crate) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            Ipv6Addr::from(octets).into()
        }
        IpAddr::V4(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn one_too_many_puts_out_the_oldest_of_the_address_that_has_most() {
        let gate = Gate::new("limits.test", 4);
        let greedy: Vec<Place> = (0..3).map(|_| gate.enter(address(1))).collect();
        let modest = gate.enter(address(2));
        let newcomer = gate.enter(address(3));
        let cut: Vec<bool> = greedy.iter().map(|place| place.cut().is_cancelled()).collect();
        assert_eq!(cut, [true, false, false]);
        assert!(!modest.cut().is_cancelled() && !newcomer.cut().is_cancelled());
        drop(greedy);
        assert_eq!(gate.held(), (2, 0));
    }

    #[test]
    fn who_was_admitted_is_put_out_no_more_and_counted_apart() {
        let gate = Gate::with_admitted(("limits.strangers", 1), ("limits.test", 1));
        let operator = gate.enter(address(1));
        assert!(operator.admission().admit() && operator.admission().admit());
        let stranger = gate.enter(address(1));
        let _newcomer = gate.enter(address(1));
        assert!(stranger.cut().is_cancelled() && !operator.cut().is_cancelled());
        assert!(!gate.enter(address(1)).admission().admit(), "there is room for one");
        drop(operator);
        assert_eq!(gate.held().1, 0);
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let gate = Gate::new("limits.test", 2);
        let hosts = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| gate.enter(text.parse().unwrap()));
        assert_eq!(hosts.map(|place| place.cut().is_cancelled()), [true, false, false]);
    }

    #[test]
    fn a_lower_bound_holds_at_once() {
        let gate = Gate::new("limits.test", 3);
        let places: Vec<Place> = (1..4).map(|last| gate.enter(address(last))).collect();
        gate.set_strangers(1);
        assert_eq!(places.iter().filter(|place| place.cut().is_cancelled()).count(), 2);
    }
}
