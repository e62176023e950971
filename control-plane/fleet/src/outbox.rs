//! What a session still has to tell its agent: for each kind at most "the newest is due".
//!
//! Nothing is queued but what cannot be told from the present state (acknowledgements and answers to questions), and those are
//! bounded. Contents are made when the agent is ready to take them, so a slow agent gets the newest of each kind and never a backlog.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use proto_model::{NodeId, TransferId, TransferRole};
use tokio::sync::Notify;

/// Questions for addresses that wait for their answer. An agent asks again when it hears nothing, so the oldest is dropped.
pub(crate) const MAX_LOOKUPS_WAITING: usize = 8;

/// Acknowledgements that wait to be sent. An agent reports an end again until it hears of it, so what is over the bound is dropped.
pub(crate) const MAX_ACKS_WAITING: usize = 4_096;

/// One kind of thing to send next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The roster moved.
    Roster,
    /// The desired configuration may have changed.
    Desired,
    /// What the node should move may have changed.
    Jobs,
    /// What the node should measure may have changed.
    Benches,
    /// What the node should keep in step may have changed.
    Syncs,
    /// An end was stored.
    Ack(TransferId, TransferRole),
    /// Addresses were asked for.
    Lookup { request_id: u64, node_ids: Vec<NodeId> },
    /// The ring of storing nodes changed.
    Ring,
    /// There is a newer audit head.
    Checkpoint,
}

/// The kinds that carry nothing but "look at the present state".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Roster,
    Desired,
    Jobs,
    Benches,
    Syncs,
    Ring,
    Checkpoint,
}

#[derive(Debug, Default)]
struct Slots {
    roster: bool,
    desired: bool,
    jobs: bool,
    benches: bool,
    syncs: bool,
    ring: bool,
    checkpoint: bool,
    acks: BTreeSet<(TransferId, TransferRole)>,
    lookups: VecDeque<(u64, Vec<NodeId>)>,
}

/// The slots of one session, and the bell that wakes its sender.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    slots: Mutex<Slots>,
    filled: Notify,
}

impl Outbox {
    /// Says that the newest of a kind should be sent.
    pub(crate) fn mark(&self, kind: Kind) {
        {
            let mut slots = self.slots();
            match kind {
                Kind::Roster => slots.roster = true,
                Kind::Desired => slots.desired = true,
                Kind::Jobs => slots.jobs = true,
                Kind::Benches => slots.benches = true,
                Kind::Syncs => slots.syncs = true,
                Kind::Ring => slots.ring = true,
                Kind::Checkpoint => slots.checkpoint = true,
            }
        }
        self.filled.notify_one();
    }

    /// Acknowledges the end of a transfer.
    pub(crate) fn ack(&self, transfer: TransferId, role: TransferRole) {
        {
            let mut slots = self.slots();
            if slots.acks.len() < MAX_ACKS_WAITING {
                slots.acks.insert((transfer, role));
            }
        }
        self.filled.notify_one();
    }

    /// Notes a question.
    pub(crate) fn lookup(&self, request_id: u64, node_ids: Vec<NodeId>) {
        {
            let mut slots = self.slots();
            if slots.lookups.len() == MAX_LOOKUPS_WAITING {
                slots.lookups.pop_front();
            }
            slots.lookups.push_back((request_id, node_ids));
        }
        self.filled.notify_one();
    }

    /// Takes what is to be sent next: who is in the fleet before what to do, and that before what is only good to know.
    pub(crate) fn next_due(&self) -> Option<Due> {
        let mut slots = self.slots();
        let states = [
            (Kind::Roster, Due::Roster),
            (Kind::Desired, Due::Desired),
            (Kind::Jobs, Due::Jobs),
            (Kind::Benches, Due::Benches),
            (Kind::Syncs, Due::Syncs),
        ];
        for (kind, due) in states {
            if slots.take(kind) {
                return Some(due);
            }
        }
        if let Some((transfer, role)) = slots.acks.pop_first() {
            return Some(Due::Ack(transfer, role));
        }
        if let Some((request_id, node_ids)) = slots.lookups.pop_front() {
            return Some(Due::Lookup { request_id, node_ids });
        }
        if slots.take(Kind::Ring) {
            return Some(Due::Ring);
        }
        slots.take(Kind::Checkpoint).then_some(Due::Checkpoint)
    }

    /// Waits until something may be due. Cancel safe: a bell that nobody took rings for the next who waits.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Every holder only sets fields, so a poisoned lock still holds a state that means something.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn take(&mut self, kind: Kind) -> bool {
        let slot = match kind {
            Kind::Roster => &mut self.roster,
            Kind::Desired => &mut self.desired,
            Kind::Jobs => &mut self.jobs,
            Kind::Benches => &mut self.benches,
            Kind::Syncs => &mut self.syncs,
            Kind::Ring => &mut self.ring,
            Kind::Checkpoint => &mut self.checkpoint,
        };
        std::mem::take(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_of_one_kind_are_one_message() {
        let outbox = Outbox::default();
        for _ in 0..1_000 {
            outbox.mark(Kind::Desired);
        }
        assert_eq!(outbox.next_due(), Some(Due::Desired));
        assert_eq!(outbox.next_due(), None);
    }

    #[test]
    fn sends_the_roster_before_jobs_and_what_is_only_good_to_know_last() {
        let outbox = Outbox::default();
        outbox.mark(Kind::Checkpoint);
        outbox.mark(Kind::Jobs);
        outbox.mark(Kind::Roster);
        assert_eq!(outbox.next_due(), Some(Due::Roster));
        assert_eq!(outbox.next_due(), Some(Due::Jobs));
        assert_eq!(outbox.next_due(), Some(Due::Checkpoint));
    }

    #[test]
    fn questions_are_bounded_and_the_newest_stay() {
        let outbox = Outbox::default();
        for request_id in 0..100 {
            outbox.lookup(request_id, Vec::new());
        }
        let kept = std::iter::from_fn(|| outbox.next_due()).count();
        assert_eq!(kept, MAX_LOOKUPS_WAITING);
    }
}
