//! The connections of nodes to this server, so that those of one that is revoked can be cut.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use foundation_listener::limit_hits;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The open connections of nodes. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeConnections(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    /// In the order of their coming.
    open: Mutex<BTreeMap<u64, Open>>,
}

#[derive(Debug)]
struct Open {
    uid: Uuid,
    from: IpAddr,
    cut: CancellationToken,
}

/// A connection's place in the list, until dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    list: NodeConnections,
    id: u64,
}

impl NodeConnections {
    /// Enters a connection; the oldest of a node that has `most` already is cut.
    pub(crate) fn enter(&self, uid: Uuid, from: IpAddr, cut: CancellationToken, most: usize) -> Entry {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.lock();
        let of_node: Vec<u64> = open.iter().filter(|(_, other)| other.uid == uid).map(|(id, _)| *id).collect();
        if of_node.len() >= most {
            limit_hits::hit("limits.node_connections");
            if let Some(oldest) = of_node.first().and_then(|oldest| open.remove(oldest)) {
                oldest.cut.cancel();
            }
        }
        open.insert(id, Open { uid, from, cut });
        drop(open);
        Entry { list: self.clone(), id }
    }

    /// Cuts the connections of every node that is out.
    pub(crate) fn cut_where(&self, is_out: impl Fn(Uuid) -> bool) {
        for open in self.lock().values() {
            if is_out(open.uid) {
                open.cut.cancel();
            }
        }
    }

    /// Where nodes are connected from, for what speaks IPv4 only.
    pub(crate) fn ipv4_addresses(&self) -> HashSet<Ipv4Addr> {
        let open = self.lock();
        open.values()
            .filter_map(|open| match open.from.to_canonical() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.list.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn cuts_every_connection_of_a_node_and_no_other() {
        let list = NodeConnections::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let cuts: Vec<CancellationToken> = (0..3).map(|_| CancellationToken::new()).collect();
        let entries = [(one, 0), (two, 1), (one, 2)].map(|(uid, cut)| list.enter(uid, HERE, cuts[cut].clone(), 2));
        list.cut_where(|uid| uid == one);
        assert_eq!(cuts.iter().map(CancellationToken::is_cancelled).collect::<Vec<_>>(), [true, false, true]);
        drop(entries);
        assert!(list.lock().is_empty());
    }

    #[test]
    fn a_node_that_has_its_connections_loses_the_oldest() {
        let list = NodeConnections::default();
        let cuts: Vec<CancellationToken> = (0..3).map(|_| CancellationToken::new()).collect();
        let _entries: Vec<_> = cuts.iter().map(|cut| list.enter(Uuid::from_u128(1), HERE, cut.clone(), 2)).collect();
        assert_eq!(cuts.iter().map(CancellationToken::is_cancelled).collect::<Vec<_>>(), [true, false, false]);
    }
}
