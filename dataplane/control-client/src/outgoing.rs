//! What waits to be said to the control plane: the newest of each kind, never a growing queue.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use proto_rpc::agent::{
    AgentMessage, AuditWitness, BenchReport, ConfigStatus, HostFacts, LookupNodes, NodeRecord, Observed, RefusedPeer,
    RevocationReplay, SyncReport, TransferReport, agent_message::Message,
};
use tokio::sync::Notify;

use crate::{
    incoming::MAX_SYNCS,
    outbox::{self, Key},
};

/// So many questions may wait for an answer at once: each transfer that begins asks one.
pub(crate) const MAX_LOOKUPS: usize = 64;

/// So many transfers' progress is kept at most; ends do not count, the outbox bounds them. Far above the agent's own
/// limit of transfers at once.
const MAX_PROGRESS: usize = 1024;

/// Benches of which something is kept to be said: their ids sort by time, so that it is the newest.
const MAX_BENCHES: usize = 4;

/// Peers and reasons of refusals that are counted apart until they are said; what is over it is not told to the control plane, and stands in
/// this host's own log.
const MAX_REFUSED: usize = 64;

/// Latest wins, by kind.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    status: Option<ConfigStatus>,
    observed: Option<Observed>,
    record: Option<NodeRecord>,
    witness: Option<AuditWitness>,
    replay: Option<RevocationReplay>,
    ends: BTreeMap<Key, TransferReport>,
    progress: BTreeMap<Key, TransferReport>,
    /// How far benches are.
    benches: BTreeMap<String, BenchReport>,
    /// What was said last of the last ones: their ends may have been lost with a session.
    said_benches: VecDeque<BenchReport>,
    /// How the runs of syncs are, where that is not said yet; and what is said again in a new session.
    syncs: BTreeMap<String, SyncReport>,
    newest_syncs: BTreeMap<String, SyncReport>,
    lookups: VecDeque<LookupNodes>,
    /// Counted since the last heartbeat, by peer and reason.
    refused: BTreeMap<(String, String), u64>,
    refused_due: VecDeque<RefusedPeer>,
    /// What a new session is told again.
    newest_status: Option<ConfigStatus>,
    newest_observed: Option<Observed>,
    newest_record: Option<NodeRecord>,
}

impl Outgoing {
    /// A new session: what was said in the last one is said again, and its questions are void.
    pub(crate) fn reopened(&self, ends: impl Iterator<Item = TransferReport>) {
        let mut waiting = self.lock();
        waiting.status = None; // stands in the Hello
        waiting.observed = waiting.newest_observed.clone();
        waiting.record = waiting.newest_record.clone();
        waiting.ends = ends.map(|report| (outbox::key(&report), report)).collect();
        waiting.lookups.clear();
        waiting.syncs = waiting.newest_syncs.clone();
        for report in std::mem::take(&mut waiting.said_benches) {
            waiting.benches.entry(report.bench_id.clone()).or_insert(report);
        }
        self.bell.notify_one();
    }

    /// The newest answer to a desired configuration.
    pub(crate) fn newest_status(&self) -> Option<ConfigStatus> {
        self.lock().newest_status.clone()
    }

    pub(crate) fn status(&self, status: ConfigStatus) {
        self.put(|waiting| {
            waiting.newest_status = Some(status.clone());
            waiting.status = Some(status);
        });
    }

    pub(crate) fn observed(&self, observed: Observed) {
        self.put(|waiting| {
            waiting.newest_observed = Some(observed.clone());
            // Facts that wait to be said are not lost.
            let facts = waiting.observed.take().and_then(|waiting| waiting.facts);
            waiting.observed = Some(Observed { facts, ..observed });
        });
    }

    /// Says what changed of the host.
    pub(crate) fn facts(&self, facts: HostFacts) {
        self.put(|waiting| {
            let mut observed = waiting.newest_observed.clone().unwrap_or_default();
            observed.facts = Some(facts);
            waiting.observed = Some(observed);
        });
    }

    /// Says again what was observed last.
    pub(crate) fn heartbeat(&self) {
        self.put(|waiting| {
            waiting.observed.get_or_insert_with(|| waiting.newest_observed.clone().unwrap_or_default());
            if waiting.refused_due.is_empty() {
                let refused = std::mem::take(&mut waiting.refused).into_iter();
                waiting.refused_due =
                    refused.map(|((peer_uid, reason), count)| RefusedPeer { peer_uid, reason, count }).collect();
            }
        });
    }

    /// Counts what a peer opened and was refused; said with the next heartbeat, so that a flood is one message.
    pub(crate) fn refused(&self, peer_uid: String, reason: String) {
        let mut waiting = self.lock();
        let key = (peer_uid, reason);
        if waiting.refused.len() < MAX_REFUSED || waiting.refused.contains_key(&key) {
            *waiting.refused.entry(key).or_default() += 1;
        }
    }

    pub(crate) fn record(&self, record: NodeRecord) {
        self.put(|waiting| {
            waiting.newest_record = Some(record.clone());
            waiting.record = Some(record);
        });
    }

    pub(crate) fn witness(&self, witness: AuditWitness) {
        self.put(|waiting| waiting.witness = Some(witness));
    }

    /// Revocations that the control plane has forgotten.
    pub(crate) fn replay(&self, replay: RevocationReplay) {
        self.put(|waiting| waiting.replay = Some(replay));
    }

    pub(crate) fn end(&self, report: TransferReport) {
        self.put(|waiting| {
            let key = outbox::key(&report);
            waiting.progress.remove(&key);
            waiting.ends.insert(key, report);
        });
    }

    pub(crate) fn progress(&self, report: TransferReport) {
        self.put(|waiting| {
            let key = outbox::key(&report);
            if waiting.progress.len() < MAX_PROGRESS || waiting.progress.contains_key(&key) {
                waiting.progress.insert(key, report);
            }
        });
    }

    pub(crate) fn bench(&self, report: BenchReport) {
        self.put(|waiting| {
            waiting.benches.insert(report.bench_id.clone(), report);
            while waiting.benches.len() > MAX_BENCHES {
                waiting.benches.pop_first();
            }
        });
    }

    /// The newest says all; as many syncs as the agent takes.
    pub(crate) fn sync(&self, report: SyncReport) {
        self.put(|waiting| {
            let known = waiting.newest_syncs.contains_key(&report.sync_id);
            if known || waiting.newest_syncs.len() < MAX_SYNCS {
                waiting.newest_syncs.insert(report.sync_id.clone(), report.clone());
                waiting.syncs.insert(report.sync_id.clone(), report);
            }
        });
    }

    pub(crate) fn forget_sync(&self, sync: &str) {
        let mut waiting = self.lock();
        waiting.newest_syncs.remove(sync);
        waiting.syncs.remove(sync);
    }

    /// False where too many wait already.
    pub(crate) fn lookup(&self, lookup: LookupNodes) -> bool {
        self.put(|waiting| {
            let room = waiting.lookups.len() < MAX_LOOKUPS;
            if room {
                waiting.lookups.push_back(lookup);
            }
            room
        })
    }

    /// Whether there is something to say.
    pub(crate) fn is_waiting(&self) -> bool {
        let waiting = self.lock();
        waiting.status.is_some()
            || waiting.observed.is_some()
            || waiting.record.is_some()
            || waiting.witness.is_some()
            || !waiting.refused_due.is_empty()
            || waiting.replay.is_some()
            || !waiting.ends.is_empty()
            || !waiting.progress.is_empty()
            || !waiting.benches.is_empty()
            || !waiting.syncs.is_empty()
            || !waiting.lookups.is_empty()
    }

    /// What to say next: somebody waits for lookups, a rollout for the status, a person for ends.
    pub(crate) fn next(&self) -> Option<AgentMessage> {
        let mut waiting = self.lock();
        let message = if let Some(lookup) = waiting.lookups.pop_front() {
            Message::LookupNodes(lookup)
        } else if let Some(replay) = waiting.replay.take() {
            // Until it is heard, a node that was revoked is let in again.
            Message::RevocationReplay(replay)
        } else if let Some(status) = waiting.status.take() {
            Message::ConfigStatus(status)
        } else if let Some((_key, report)) = waiting.ends.pop_first() {
            Message::TransferReport(report)
        } else if let Some((_id, report)) = waiting.benches.pop_first() {
            waiting.said_benches.retain(|said| said.bench_id != report.bench_id);
            waiting.said_benches.push_back(report.clone());
            while waiting.said_benches.len() > MAX_BENCHES {
                waiting.said_benches.pop_front();
            }
            Message::BenchReport(report)
        } else if let Some((_id, report)) = waiting.syncs.pop_first() {
            Message::SyncReport(report)
        } else if let Some(observed) = waiting.observed.take() {
            Message::Observed(observed)
        } else if let Some(record) = waiting.record.take() {
            Message::NodeRecord(record)
        } else if let Some(witness) = waiting.witness.take() {
            Message::AuditWitness(witness)
        } else if let Some(refused) = waiting.refused_due.pop_front() {
            Message::RefusedPeer(refused)
        } else if let Some((_key, report)) = waiting.progress.pop_first() {
            Message::TransferReport(report)
        } else {
            return None;
        };
        Some(AgentMessage { message: Some(message) })
    }

    /// Resolves when something was put in. Cancel safe; for one waiter.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    fn put<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let answer = change(&mut self.lock());
        self.bell.notify_one();
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_of_a_kind_is_said_and_again_after_a_reconnect() {
        let outgoing = Outgoing::default();
        for seq in 1..=3 {
            outgoing.record(NodeRecord { seq, ..NodeRecord::default() });
        }
        let newest =
            Some(AgentMessage { message: Some(Message::NodeRecord(NodeRecord { seq: 3, ..NodeRecord::default() })) });
        assert_eq!(outgoing.next(), newest);
        assert_eq!(outgoing.next(), None);
        outgoing.reopened(std::iter::empty());
        assert_eq!(outgoing.next(), newest);
    }

    #[test]
    fn many_refusals_are_one_message_with_the_next_heartbeat() {
        let outgoing = Outgoing::default();
        for number in 0..10_000 {
            outgoing.refused(format!("peer-{}", number % 2), "GRANT_INVALID".to_owned());
        }
        assert!(!outgoing.is_waiting());
        outgoing.heartbeat();
        let said: Vec<_> = std::iter::from_fn(|| outgoing.next()).filter_map(|message| message.message).collect();
        let counts = said.iter().filter_map(|message| match message {
            Message::RefusedPeer(refused) => Some(refused.count),
            _ => None,
        });
        assert_eq!(counts.collect::<Vec<_>>(), [5000, 5000]);
        for number in 0..1000 {
            outgoing.refused(number.to_string(), String::new());
        }
        assert_eq!(outgoing.lock().refused.len(), MAX_REFUSED);
    }

    #[test]
    fn an_end_takes_the_place_of_progress() {
        let outgoing = Outgoing::default();
        let report = |issue_count| TransferReport { issue_count, ..TransferReport::default() };
        outgoing.progress(report(1));
        outgoing.end(report(2));
        assert_eq!(outgoing.next(), Some(AgentMessage { message: Some(Message::TransferReport(report(2))) }));
        assert!(!outgoing.is_waiting());
    }
}
