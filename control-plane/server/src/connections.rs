//! The connections of nodes to this server, so that those of one that is revoked can be cut.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The open connections of nodes. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeConnections(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    open: Mutex<HashMap<u64, (Uuid, CancellationToken)>>,
}

/// A connection's place in the list, until dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    list: NodeConnections,
    id: u64,
}

impl NodeConnections {
    /// Enters a connection.
    pub(crate) fn enter(&self, uid: Uuid, cut: CancellationToken) -> Entry {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, (uid, cut));
        Entry { list: self.clone(), id }
    }

    /// Cuts the connections of every node that is out.
    pub(crate) fn cut_where(&self, is_out: impl Fn(Uuid) -> bool) {
        for (uid, cut) in self.lock().values() {
            if is_out(*uid) {
                cut.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Uuid, CancellationToken)>> {
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

    #[test]
    fn cuts_every_connection_of_a_node_and_no_other() {
        let list = NodeConnections::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let cuts: Vec<CancellationToken> = (0..3).map(|_| CancellationToken::new()).collect();
        let entries =
            [list.enter(one, cuts[0].clone()), list.enter(two, cuts[1].clone()), list.enter(one, cuts[2].clone())];
        list.cut_where(|uid| uid == one);
        assert_eq!(cuts.iter().map(CancellationToken::is_cancelled).collect::<Vec<_>>(), [true, false, true]);
        drop(entries);
        assert!(list.lock().is_empty());
    }
}
