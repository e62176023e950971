//! What agents say that does not fit this database: signs of one that was put back. Kept in memory, and shown by the server's checks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use proto_model::NodeUid;

use crate::message::RosterPosition;

/// Hosts that are remembered of each kind: enough to see what is the matter.
const MAX_REMEMBERED: usize = 1_000;

/// A host that is unknown tries again every 15 s at most: one that was not heard of for so long was let in again, by another uid, or is gone.
const UNKNOWN_FOR: Duration = Duration::from_secs(120);

/// A host with a certificate of this fleet that the database does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMember {
    /// By its certificate.
    pub uid: NodeUid,
    /// As it calls itself.
    pub hostname: String,
    /// Where it comes from.
    pub remote: String,
    /// When it was heard of last.
    pub heard: Instant,
}

/// An agent that holds a newer roster than this database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AheadOfUs {
    /// As it calls itself.
    pub hostname: String,
    /// What it holds.
    pub held: RosterPosition,
    /// What is here.
    pub here: RosterPosition,
}

/// Both kinds.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    unknown: Mutex<BTreeMap<NodeUid, UnknownMember>>,
    ahead: Mutex<BTreeMap<NodeUid, AheadOfUs>>,
}

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    // Changed by single calls only, so a poisoned lock holds a whole map.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Strangers {
    /// Whether it is the first that is heard of this host.
    pub(crate) fn unknown(&self, member: UnknownMember) -> bool {
        let mut unknown = lock(&self.unknown);
        (unknown.len() < MAX_REMEMBERED || unknown.contains_key(&member.uid))
            && unknown.insert(member.uid, member).is_none()
    }

    /// Whether it is the first that is heard of this.
    pub(crate) fn ahead(&self, node: NodeUid, ahead: AheadOfUs) -> bool {
        let mut known = lock(&self.ahead);
        let first = (known.len() < MAX_REMEMBERED || known.contains_key(&node)) && known.insert(node, ahead).is_none();
        metrics::gauge!("dwcp_agents_ahead_of_database").set(u32::try_from(known.len()).map_or(f64::MAX, f64::from));
        first
    }

    /// It is in order now.
    pub(crate) fn fits(&self, node: NodeUid) {
        lock(&self.unknown).remove(&node);
        let mut ahead = lock(&self.ahead);
        if ahead.remove(&node).is_some() {
            metrics::gauge!("dwcp_agents_ahead_of_database")
                .set(u32::try_from(ahead.len()).map_or(f64::MAX, f64::from));
        }
    }

    pub(crate) fn unknown_members(&self, now: Instant) -> Vec<UnknownMember> {
        let mut unknown = lock(&self.unknown);
        unknown.retain(|_, member| now.saturating_duration_since(member.heard) < UNKNOWN_FOR);
        unknown.values().cloned().collect()
    }

    pub(crate) fn agents_ahead(&self) -> Vec<AheadOfUs> {
        lock(&self.ahead).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_was_let_in_again_is_unknown_no_longer() {
        let (strangers, heard) = (Strangers::default(), foundation_runtime::Clock::system().now());
        let uid = NodeUid::new(uuid::Uuid::nil());
        let member = UnknownMember { uid, hostname: "host".to_owned(), remote: "192.0.2.1:1".to_owned(), heard };
        assert!(strangers.unknown(member.clone()) && !strangers.unknown(member));
        assert_eq!(strangers.unknown_members(heard + UNKNOWN_FOR / 2).len(), 1);
        assert!(strangers.unknown_members(heard + UNKNOWN_FOR).is_empty());
    }
}
