//! The view of the roster that other parts ask: who is in the fleet now.
//!
//! Reading takes no lock. A change replaces the whole view and moves [`Membership::changes`] on, so that whoever holds
//! something on behalf of a member asks again whether it still is one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use proto_model::{Labels, NodeId, NodeName, NodeUid, PublicKey, RosterEntry};
use tokio::sync::watch;

use crate::roster::{Roster, RosterPosition};

/// One member of the fleet, not revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What a node is, whatever its key.
    pub uid: NodeUid,
    /// Its name.
    pub name: NodeName,
    /// The key it has now.
    pub public_key: PublicKey,
    /// Its labels.
    pub labels: Labels,
    /// Whether an operator allows it to relay.
    pub relay: bool,
}

impl Member {
    /// SHA-1 of its key.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId::of(&self.public_key)
    }
}

impl From<&RosterEntry> for Member {
    fn from(entry: &RosterEntry) -> Self {
        Self {
            uid: entry.uid,
            name: entry.name.clone(),
            public_key: entry.public_key,
            labels: entry.labels.clone(),
            relay: entry.relay,
        }
    }
}

/// Who is in the fleet now. Clones are the same view.
#[derive(Clone, Debug)]
pub struct Membership(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    view: ArcSwap<View>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct View {
    by_key: HashMap<PublicKey, Arc<Member>>,
    by_node_id: HashMap<NodeId, Arc<Member>>,
    by_name: HashMap<NodeName, Arc<Member>>,
    by_uid: HashMap<NodeUid, Arc<Member>>,
    position: RosterPosition,
    head_time_ms: Option<i64>,
}

impl Membership {
    /// A fleet of just these, for tests and tools; a real one comes from a [`crate::TrustStore`].
    #[must_use]
    pub fn of(members: impl IntoIterator<Item = Member>) -> Self {
        Self::from_view(View::new(members, RosterPosition::default(), None))
    }

    pub(crate) fn of_roster(roster: &Roster) -> Self {
        Self::from_view(View::of_roster(roster))
    }

    fn from_view(view: View) -> Self {
        Self(Arc::new(Shared { view: ArcSwap::from_pointee(view), changes: watch::Sender::new(0) }))
    }

    pub(crate) fn publish(&self, roster: &Roster) {
        self.0.view.store(Arc::new(View::of_roster(roster)));
        self.0.changes.send_modify(|change| *change += 1);
    }

    /// The member that has this key now.
    #[must_use]
    pub fn by_key(&self, key: &PublicKey) -> Option<Arc<Member>> {
        self.0.view.load().by_key.get(key).cloned()
    }

    /// The member that has this node id now.
    #[must_use]
    pub fn by_node_id(&self, id: &NodeId) -> Option<Arc<Member>> {
        self.0.view.load().by_node_id.get(id).cloned()
    }

    /// The member of this name.
    #[must_use]
    pub fn by_name(&self, name: &NodeName) -> Option<Arc<Member>> {
        self.0.view.load().by_name.get(name).cloned()
    }

    /// The member of this uid.
    #[must_use]
    pub fn by_uid(&self, uid: &NodeUid) -> Option<Arc<Member>> {
        self.0.view.load().by_uid.get(uid).cloned()
    }

    /// All members, in no order.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.0.view.load().by_uid.values().cloned().collect()
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.view.load().by_uid.len()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How far the roster goes: what to tell the control plane, which sends what came after.
    #[must_use]
    pub fn position(&self) -> RosterPosition {
        self.0.view.load().position
    }

    /// How long ago the roster's head was signed; none before the first. It stays in force whatever its age (D5).
    #[must_use]
    pub fn age(&self, unix_ms: i64) -> Option<Duration> {
        let age = unix_ms.saturating_sub(self.0.view.load().head_time_ms?);
        Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
    }

    /// Moves on with every change of the roster. A receiver that missed some just sees the newest: ask
    /// [`Self::by_key`] again for every key that matters.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

impl View {
    fn of_roster(roster: &Roster) -> Self {
        Self::new(roster.active().map(Member::from), roster.position(), roster.head_time_ms())
    }

    fn new(members: impl IntoIterator<Item = Member>, position: RosterPosition, head_time_ms: Option<i64>) -> Self {
        let mut view = Self { position, head_time_ms, ..Self::default() };
        for member in members {
            let member = Arc::new(member);
            view.by_key.insert(member.public_key, Arc::clone(&member));
            view.by_node_id.insert(member.node_id(), Arc::clone(&member));
            view.by_name.insert(member.name.clone(), Arc::clone(&member));
            view.by_uid.insert(member.uid, member);
        }
        view
    }
}
