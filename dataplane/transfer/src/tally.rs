//! How far a transfer is: counted by whoever does the work, read by whoever reports it.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use proto_model::{PlannedChange, TransferIssue, TransferProgress};
use proto_wire::frames::Finished;

use crate::{attribution::Attribution, walk::Issue};

/// The rate is of so long a time: long enough to be calm, short enough to follow.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Counters of one transfer at one end.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) files_total: AtomicU64,
    pub(crate) files_done: AtomicU64,
    pub(crate) bytes_total: AtomicU64,
    pub(crate) bytes_done: AtomicU64,
    pub(crate) bytes_reused: AtomicU64,
    pub(crate) bytes_encoded_in: AtomicU64,
    /// Of these, what is referred to but for changes in places, and what is literal.
    pub(crate) bytes_changed: AtomicU64,
    pub(crate) bytes_literal: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) files_deleted: AtomicU64,
    pub(crate) totals_final: AtomicBool,
    /// Threads that read the source now, and that hash and encode.
    pub(crate) reading: Busy,
    pub(crate) encoding: Busy,
    /// What held this end up.
    pub(crate) attribution: Attribution,
    /// What earlier attempts encoded and sent: it was spent, also where it arrived in vain.
    before: Spent,
    issue_count: AtomicU64,
    issues: Mutex<Vec<TransferIssue>>,
    planned: Mutex<Vec<PlannedChange>>,
}

/// What a sender has spent on a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) encoded_in: u64,
    pub(crate) sent: u64,
}

impl Spent {
    /// As it is kept, also by one that is killed.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.encoded_in.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sent.to_le_bytes());
        bytes
    }

    /// What was kept; nothing where that is not of its form.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let Some((encoded_in, sent)) = bytes.split_first_chunk().and_then(|(a, b)| Some((a, b.first_chunk()?))) else {
            return Self::default();
        };
        Self { encoded_in: u64::from_le_bytes(*encoded_in), sent: u64::from_le_bytes(*sent) }
    }
}

/// Counts who is at a work now.
#[derive(Debug, Default)]
pub(crate) struct Busy(AtomicUsize);

/// One who is at it, until dropped.
#[derive(Debug)]
pub(crate) struct AtWork<'a>(&'a Busy);

impl Busy {
    pub(crate) fn begin(&self) -> AtWork<'_> {
        self.0.fetch_add(1, Relaxed);
        AtWork(self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Relaxed);
}

impl Tally {
    /// Counts an attempt that follows others.
    pub(crate) fn after(before: Spent) -> Self {
        Self { before, ..Self::default() }
    }

    /// So many bytes were held by the receiver before.
    pub(crate) fn reused(&self, bytes: u64) {
        add(&self.bytes_reused, bytes);
    }

    /// So many of these had to travel after all.
    pub(crate) fn not_reused(&self, bytes: u64) {
        self.bytes_reused.fetch_sub(bytes, Relaxed);
    }

    /// What was spent in this attempt and those before it.
    pub(crate) fn spent(&self) -> Spent {
        Spent {
            encoded_in: self.before.encoded_in.saturating_add(self.bytes_encoded_in.load(Relaxed)),
            sent: self.before.sent.saturating_add(self.bytes_sent.load(Relaxed)),
        }
    }

    /// Writes an issue down: all are counted, the first ones kept.
    pub(crate) fn issue(&self, path: &[u8], reason: &str, message: impl Into<String>) {
        add(&self.issue_count, 1);
        let mut issues = self.issues.lock().unwrap_or_else(PoisonError::into_inner);
        if issues.len() < TransferIssue::MAX_REPORTED {
            issues.push(TransferIssue { path: path.to_vec(), reason: reason.to_owned(), message: message.into() });
        }
    }

    pub(crate) fn found_issue(&self, issue: &Issue) {
        self.issue(&issue.path, issue.reason, issue.message.clone());
    }

    /// Takes over what the other end left out.
    pub(crate) fn their_issues(&self, theirs: &[TransferIssue], count: u64) {
        // Whatever the other end counts, ours stay counted.
        let _before = self.issue_count.fetch_update(Relaxed, Relaxed, |ours| Some(ours.saturating_add(count)));
        let mut issues = self.issues.lock().unwrap_or_else(PoisonError::into_inner);
        let room = TransferIssue::MAX_REPORTED.saturating_sub(issues.len());
        issues.extend(theirs.iter().take(room).cloned());
    }

    pub(crate) fn issue_count(&self) -> u64 {
        self.issue_count.load(Relaxed)
    }

    pub(crate) fn issues(&self) -> Vec<TransferIssue> {
        self.issues.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes down what a dry run would do.
    pub(crate) fn plan(&self, change: impl FnOnce() -> PlannedChange) {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if planned.len() < PlannedChange::MAX_REPORTED {
            planned.push(change());
        }
    }

    pub(crate) fn planned(&self) -> Vec<PlannedChange> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over how the receiver ended.
    pub(crate) fn finished(&self, finished: &Finished) {
        self.their_issues(&finished.issues, finished.issue_count);
        self.files_deleted.store(finished.deleted, Relaxed);
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = finished.planned_changes.clone();
    }

    /// The numbers as they are now.
    pub(crate) fn progress(&self, rate: f64) -> TransferProgress {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let (total, done) = (read(&self.bytes_total), read(&self.bytes_done));
        let totals_final = self.totals_final.load(Relaxed);
        let spent = self.spent();
        let left = Duration::try_from_secs_f64(float(total.saturating_sub(done)) / rate).ok();
        TransferProgress {
            files_total: read(&self.files_total),
            files_done: read(&self.files_done),
            bytes_total: total.into(),
            bytes_done: done.into(),
            // The other end says what it holds: not more than there is.
            bytes_reused: read(&self.bytes_reused).min(total).into(),
            bytes_encoded_in: spent.encoded_in.into(),
            bytes_sent: spent.sent.into(),
            rate_bytes_per_second: rate,
            eta: left.filter(|_| totals_final && rate > 0.0),
            totals_final,
            files_deleted: read(&self.files_deleted),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people; 52 bits are enough")]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

/// Bytes a second over the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Takes a new reading, and gives the rate.
    pub(crate) fn at(&mut self, now: Instant, bytes: u64) -> f64 {
        while self.0.len() > 1 && self.0.front().is_some_and(|(then, _)| now.duration_since(*then) > RATE_WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, bytes));
        let Some((then, before)) = self.0.front() else { return 0.0 };
        let seconds = now.duration_since(*then).as_secs_f64();
        if seconds > 0.0 { float(bytes.saturating_sub(*before)) / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_last_seconds() {
        let (clock, hand) = foundation_runtime::Clock::manual(chrono::DateTime::UNIX_EPOCH);
        let mut rate = Rate::default();
        assert!(rate.at(clock.now(), 0).abs() < f64::EPSILON);
        for second in 1..=20 {
            hand.advance(Duration::from_secs(1));
            let now = rate.at(clock.now(), if second <= 10 { second * 1000 } else { 10_000 });
            match second {
                10 => assert!((now - 1000.0).abs() < 1.0),
                20 => assert!(now.abs() < f64::EPSILON),
                _ => {}
            }
        }
    }
}
