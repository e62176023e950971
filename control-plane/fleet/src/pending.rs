//! What an agent said and the database does not have yet: at most one of each kind, the newest wins.
//!
//! Pure: time is an argument. Observed state and progress are written at most once in [`MIN_INTERVAL`]; what decides something (an
//! answer to a configuration, an end, a changed state) is written at once. What could not be written, because the database was
//! away, is given back and tried again, so nothing that was taken from an agent is lost while its session lives.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::{Duration, Instant},
};

use proto_model::{BenchId, BenchReport, SyncId, SyncReport, TransferId, TransferReport, TransferRole};
use proto_wire::Signed;

use crate::message::{ConfigStatus, NodeRecord, Observed};

/// Observed state and progress are written at most so often (D13).
pub(crate) const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Transfers whose newest report waits at the same time. An agent runs tens; what is over the bound is dropped when it is progress,
/// and ends come again, because they are not acknowledged.
pub(crate) const MAX_REPORTS: usize = 1_000;

/// Benches of which something waits to be written. An agent runs one at a time and says something of it each second.
const MAX_BENCHES: usize = 16;

/// Syncs of which something waits to be written, or was written within the last second: as many as a node is an end of.
const MAX_SYNCS: usize = 256;

/// One thing to write.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// An answer to a desired configuration.
    Answer(ConfigStatus),
    /// A transfer's report.
    Report(Box<TransferReport>),
    /// What is said of a bench.
    Bench(Box<BenchReport>),
    /// What is said of a sync.
    Sync(Box<SyncReport>),
    /// The node's record.
    Record(NodeRecord),
    /// What the agent observes of itself.
    Observed(Observed),
    /// Revocations that were forgotten by a restore.
    Replay(Vec<Signed>),
}

#[derive(Debug)]
struct Report {
    report: Option<Box<TransferReport>>,
    /// Not before this time, unless it decides something.
    due: Instant,
    /// The state that was last written: a change of it does not wait.
    written: Option<proto_model::TransferState>,
}

/// The slots of one session.
#[derive(Debug)]
pub(crate) struct Pending {
    answer: Option<ConfigStatus>,
    record: Option<NodeRecord>,
    replay: Option<Vec<Signed>>,
    /// The newest, of each that is said something of.
    benches: BTreeMap<BenchId, Box<BenchReport>>,
    /// The newest of each, and when it may be written.
    syncs: BTreeMap<SyncId, (Option<Box<SyncReport>>, Instant)>,
    observed: Option<Observed>,
    observed_due: Instant,
    reports: BTreeMap<(TransferId, TransferRole), Report>,
    /// While the database refuses, nothing is tried before this time.
    retry_at: Option<Instant>,
}

impl Pending {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            answer: None,
            record: None,
            replay: None,
            benches: BTreeMap::new(),
            syncs: BTreeMap::new(),
            observed: None,
            observed_due: now,
            reports: BTreeMap::new(),
            retry_at: None,
        }
    }

    pub(crate) fn on_answer(&mut self, answer: ConfigStatus) {
        self.answer = Some(answer);
    }

    pub(crate) fn on_replay(&mut self, entries: Vec<Signed>) {
        self.replay = Some(entries);
    }

    pub(crate) fn on_record(&mut self, record: NodeRecord) {
        self.record = Some(record);
    }

    /// Takes a state; what the older one said and the newer one does not say again (addresses) is kept.
    pub(crate) fn on_observed(&mut self, mut observed: Observed) {
        if let Some(older) = self.observed.take() {
            observed.facts = observed.facts.or(older.facts);
        }
        self.observed = Some(observed);
    }

    /// Takes a report. An end is not replaced by anything that comes after it.
    pub(crate) fn on_report(&mut self, report: TransferReport, now: Instant) {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.retain(|_, slot| slot.report.is_some());
        }
        let full = self.reports.len() >= MAX_REPORTS;
        match self.reports.entry((report.transfer, report.role)) {
            Entry::Vacant(_) if full => {}
            Entry::Vacant(slot) => {
                slot.insert(Report { report: Some(Box::new(report)), due: now, written: None });
            }
            Entry::Occupied(mut slot) => {
                let slot = slot.get_mut();
                if !slot.report.as_ref().is_some_and(|held| held.state.is_end()) {
                    slot.report = Some(Box::new(report));
                }
            }
        }
    }

    /// Takes what is said of a bench; nothing takes the place of its end.
    pub(crate) fn on_bench(&mut self, report: Box<BenchReport>) {
        let room = self.benches.len() < MAX_BENCHES || self.benches.contains_key(&report.bench);
        let ended = self.benches.get(&report.bench).is_some_and(|held| held.state.is_end());
        if room && !ended {
            self.benches.insert(report.bench, report);
        }
    }

    /// Takes what is said of a sync: it says all that was said before.
    pub(crate) fn on_sync(&mut self, report: Box<SyncReport>, now: Instant) {
        if self.syncs.len() >= MAX_SYNCS {
            self.syncs.retain(|_, (waiting, due)| waiting.is_some() || *due > now);
        }
        let full = self.syncs.len() >= MAX_SYNCS;
        match self.syncs.entry(report.sync) {
            Entry::Vacant(_) if full => {}
            Entry::Vacant(slot) => drop(slot.insert((Some(report), now))),
            Entry::Occupied(mut slot) => slot.get_mut().0 = Some(report),
        }
    }

    /// Takes the next thing that may be written now; what decides something first.
    pub(crate) fn next_write(&mut self, now: Instant) -> Option<Write> {
        if self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        if let Some(entries) = self.replay.take() {
            return Some(Write::Replay(entries));
        }
        if let Some(answer) = self.answer.take() {
            return Some(Write::Answer(answer));
        }
        if let Some(slot) = self.reports.values_mut().find(|slot| slot.is_due(now)) {
            let report = slot.report.take()?;
            slot.due = now + MIN_INTERVAL;
            slot.written = Some(report.state);
            return Some(Write::Report(report));
        }
        if let Some((_bench, report)) = self.benches.pop_first() {
            return Some(Write::Bench(report));
        }
        if let Some((waiting, due)) = self.syncs.values_mut().find(|(waiting, due)| waiting.is_some() && now >= *due) {
            *due = now + MIN_INTERVAL;
            return waiting.take().map(Write::Sync);
        }
        if let Some(record) = self.record.take() {
            return Some(Write::Record(record));
        }
        if now >= self.observed_due
            && let Some(observed) = self.observed.take()
        {
            self.observed_due = now + MIN_INTERVAL;
            return Some(Write::Observed(observed));
        }
        None
    }

    /// When [`Pending::next_write`] may have something to give, if it has anything at all.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let reports = self.reports.values().filter(|slot| slot.report.is_some());
        let due = reports.map(|slot| if slot.is_due(now) { now } else { slot.due });
        let waits = self.answer.is_some() || self.record.is_some() || self.replay.is_some() || !self.benches.is_empty();
        let at_once = waits.then_some(now);
        let observed = self.observed.as_ref().map(|_| self.observed_due);
        let syncs = self.syncs.values().filter(|(waiting, _)| waiting.is_some()).map(|(_, due)| *due);
        let earliest = due.chain(at_once).chain(observed).chain(syncs).min()?;
        Some(self.retry_at.map_or(earliest, |at| earliest.max(at)))
    }

    /// The database took something: the way is free.
    pub(crate) fn on_written(&mut self) {
        self.retry_at = None;
    }

    /// Puts back what was not written, unless something newer has come, and holds everything until `retry_at`.
    pub(crate) fn give_back(&mut self, write: Write, retry_at: Instant) {
        self.retry_at = Some(retry_at);
        match write {
            Write::Answer(answer) => {
                self.answer.get_or_insert(answer);
            }
            Write::Bench(report) => {
                self.benches.entry(report.bench).or_insert(report);
            }
            Write::Sync(report) => {
                let (waiting, due) = self.syncs.entry(report.sync).or_insert((None, retry_at));
                waiting.get_or_insert(report);
                *due = retry_at;
            }
            Write::Record(record) => {
                self.record.get_or_insert(record);
            }
            Write::Replay(entries) => {
                self.replay.get_or_insert(entries);
            }
            Write::Observed(older) => {
                let newer = self.observed.take();
                self.observed = Some(older);
                if let Some(newer) = newer {
                    self.on_observed(newer);
                }
                self.observed_due = retry_at;
            }
            Write::Report(report) => self.give_back_report(report, retry_at),
        }
    }

    /// Puts back a report for which it was too early, alone.
    pub(crate) fn give_back_report(&mut self, report: Box<TransferReport>, due: Instant) {
        if let Some(slot) = self.reports.get_mut(&(report.transfer, report.role)) {
            slot.due = due;
            if slot.report.is_none() || report.state.is_end() {
                slot.report = Some(report);
            }
        }
    }
}

impl Report {
    fn is_due(&self, now: Instant) -> bool {
        self.report.as_ref().is_some_and(|report| self.written != Some(report.state) || now >= self.due)
    }
}

#[cfg(test)]
mod tests {
    use foundation_runtime::Clock;
    use proto_model::TransferState;

    use super::*;

    fn report(number: u8, state: TransferState) -> TransferReport {
        let transfer = TransferId::from_parts(1, &[number; 10]);
        TransferReport { state, ..TransferReport::new(transfer, TransferRole::Sender) }
    }

    fn state(write: Option<Write>) -> Option<TransferState> {
        match write {
            Some(Write::Report(report)) => Some(report.state),
            Some(
                Write::Answer(_)
                | Write::Bench(_)
                | Write::Sync(_)
                | Write::Record(_)
                | Write::Observed(_)
                | Write::Replay(_),
            )
            | None => None,
        }
    }

    #[test]
    fn progress_waits_a_second_and_an_end_does_not() {
        let start = Clock::system().now();
        let mut pending = Pending::new(start);
        pending.on_report(report(1, TransferState::Running), start);
        assert_eq!(state(pending.next_write(start)), Some(TransferState::Running));
        pending.on_report(report(1, TransferState::Running), start);
        assert_eq!(state(pending.next_write(start)), None);
        assert_eq!(pending.next_due(start), Some(start + MIN_INTERVAL));
        pending.on_report(report(1, TransferState::Succeeded), start);
        assert_eq!(pending.next_due(start), Some(start));
        // What comes after an end does not take its place.
        pending.on_report(report(1, TransferState::Running), start);
        assert_eq!(state(pending.next_write(start)), Some(TransferState::Succeeded));
        assert_eq!(pending.next_due(start), None);
    }

    #[test]
    fn what_the_database_refused_is_tried_again_later_and_the_newest_counts() {
        let start = Clock::system().now();
        let mut pending = Pending::new(start);
        pending.on_report(report(1, TransferState::Succeeded), start);
        let refused = pending.next_write(start).unwrap();
        let retry = start + Duration::from_secs(2);
        pending.give_back(refused, retry);
        assert!(pending.next_write(start).is_none());
        assert_eq!(pending.next_due(start), Some(retry));
        assert_eq!(state(pending.next_write(retry)), Some(TransferState::Succeeded));
    }

    #[test]
    fn reports_are_bounded() {
        let start = Clock::system().now();
        let mut pending = Pending::new(start);
        for number in 0..u16::try_from(2 * MAX_REPORTS).unwrap() {
            let [high, low] = number.to_be_bytes();
            let transfer = TransferId::from_parts(1, &[high, low, 0, 0, 0, 0, 0, 0, 0, 0]);
            pending.on_report(TransferReport::new(transfer, TransferRole::Sender), start);
        }
        assert_eq!(std::iter::from_fn(|| pending.next_write(start)).count(), MAX_REPORTS);
    }
}
