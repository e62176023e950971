//! Reads a whole log in order and says what was done to it.
//!
//! Three things are compared: the fields of each row with its leaf, the leaves with the signed head, and the tree with heads that were
//! seen earlier and kept elsewhere (anchors). Only the last finds a log that was rewritten or cut by whoever also has the signing key.

use std::fmt;

use foundation_merkle::{Checkpoint, Frontier, Hash, leaf_hash};

use crate::{Record, Restore};

/// The most findings that are kept; a log that was shifted by one row has one for each row behind it.
const MAX_FINDINGS: usize = 100;

/// A row as the log's keeper hands it out.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its fields.
    pub record: Record,
    /// The bytes that are said to have been hashed.
    pub leaf: Vec<u8>,
    /// The hash that is said to be theirs.
    pub leaf_hash: Hash,
}

impl From<Record> for Event {
    fn from(record: Record) -> Self {
        let leaf = record.leaf_bytes();
        let leaf_hash = leaf_hash(&leaf);
        Self { record, leaf, leaf_hash }
    }
}

/// A head that was seen before and kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Where it was kept, for people.
    pub source: String,
    /// The size of the log then.
    pub size: u64,
    /// Its root then.
    pub root: Hash,
}

/// Something that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The row's fields are not what was hashed.
    Changed {
        /// Which row.
        sequence: u64,
        /// What of it, by the names of the fields.
        fields: Vec<&'static str>,
    },
    /// The row has what no row ever had.
    Unreadable {
        /// Which row.
        sequence: u64,
        /// What of it.
        what: &'static str,
    },
    /// Rows are missing before this one.
    Removed {
        /// The first that is missing.
        from: u64,
        /// The row that came instead.
        found: u64,
    },
    /// The row stands where another belongs: swapped, or inserted.
    OutOfOrder {
        /// What belongs here.
        expected: u64,
        /// What is here.
        found: u64,
    },
    /// The log is shorter than a head that was signed or seen.
    Cut {
        /// How many rows there are.
        size: u64,
        /// How many there were.
        expected: u64,
        /// Which head says so.
        source: String,
    },
    /// There are rows beyond the signed head.
    Unsigned {
        /// The first of them.
        from: u64,
    },
    /// The rows are not those that a head was made of.
    Rewritten {
        /// Up to which size they differ.
        size: u64,
        /// The last size, if any, at which a head still agreed: the change lies behind it.
        agrees_until: Option<u64>,
        /// Which head says so.
        source: String,
    },
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many rows were read.
    pub events: u64,
    /// The root over them.
    pub root: Hash,
    /// What is wrong; the first hundred.
    pub findings: Vec<Finding>,
    /// How many things are wrong.
    pub finding_count: u64,
    /// The largest anchor that the log agrees with.
    pub anchored: Option<Anchor>,
    /// Restores that the log tells of.
    pub restores: Vec<Restore>,
}

impl Report {
    /// Whether the log is whole and unchanged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }
}

/// Verifies a log, row by row.
#[derive(Debug)]
pub struct LogVerifier {
    frontier: Frontier,
    next: u64,
    rows: u64,
    /// Smallest first; the front is the next to be reached.
    anchors: std::collections::VecDeque<Anchor>,
    agreed: Option<Anchor>,
    /// Heads of earlier epochs, by epoch; those behind the head that was restored were lost by that.
    older: Vec<(u64, Anchor)>,
    restores: Vec<Restore>,
    findings: Vec<Finding>,
    finding_count: u64,
}

impl LogVerifier {
    /// A verifier that compares with these heads on the way: the signed one, by [`Self::finish`], is compared in any case.
    #[must_use]
    pub fn new(mut anchors: Vec<Anchor>) -> Self {
        anchors.sort_by_key(|anchor| anchor.size);
        let mut verifier = Self {
            frontier: Frontier::new(),
            next: 0,
            rows: 0,
            anchors: anchors.into(),
            agreed: None,
            older: Vec::new(),
            restores: Vec::new(),
            findings: Vec::new(),
            finding_count: 0,
        };
        verifier.compare_anchors();
        verifier
    }

    /// Compares also with heads that were seen in earlier epochs: the log must continue each, up to the head that was restored.
    #[must_use]
    pub fn with_older(mut self, mut older: Vec<(u64, Anchor)>) -> Self {
        older.sort_by_key(|(_, anchor)| anchor.size);
        self.older = older;
        self.compare_older();
        self
    }

    /// The sequence number of the row that belongs next.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Reads the next row.
    pub fn push(&mut self, event: &Event) {
        let sequence = event.record.sequence;
        self.find_place(sequence);
        let fields = changed_fields(event);
        if !fields.is_empty() {
            self.find(Finding::Changed { sequence, fields });
        }
        if let Some(restore) = Restore::of(&event.record) {
            self.restored(restore);
        }
        // What is hashed is what the row says now, so that a change shows in the root too.
        self.append(sequence, event.record.leaf_hash());
    }

    /// Reads a row that cannot be one: only its place counts.
    pub fn push_unreadable(&mut self, sequence: u64, leaf: &[u8], what: &'static str) {
        self.find_place(sequence);
        self.find(Finding::Unreadable { sequence, what });
        self.append(sequence, leaf_hash(leaf));
    }

    fn append(&mut self, sequence: u64, hash: Hash) {
        self.next = self.next.max(sequence.saturating_add(1));
        self.rows += 1;
        self.frontier.append(hash);
        self.compare_anchors();
        self.compare_older();
    }

    /// A new epoch begins: the head that it names must be that of the rows before it. What was seen of the epochs before and is not
    /// here is lost, and no finding: the record says so.
    fn restored(&mut self, mut restore: Restore) {
        if restore.root != Some(self.frontier.root()) {
            let source = format!("the head that event {} says was restored", restore.sequence);
            let agrees_until = self.agreed.as_ref().map(|anchor| anchor.size);
            self.find(Finding::Rewritten { size: self.rows, agrees_until, source });
        }
        let rows = self.rows;
        let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.older)
            .into_iter()
            .partition(|(epoch, anchor)| *epoch < restore.epoch && anchor.size > rows);
        self.older = left;
        restore.lost = gone.iter().map(|(_, anchor)| anchor.size - rows).max().unwrap_or(0);
        self.restores.push(restore);
    }

    fn compare_older(&mut self) {
        while self.older.first().is_some_and(|(_, anchor)| anchor.size <= self.rows) {
            let (_, anchor) = self.older.remove(0);
            if anchor.size == self.rows && anchor.root != self.frontier.root() {
                self.find(Finding::Rewritten { size: anchor.size, agrees_until: None, source: anchor.source });
            }
        }
    }

    /// Rows were found that the signed head does not cover: from this one on.
    pub fn find_unsigned(&mut self, from: u64) {
        self.find(Finding::Unsigned { from });
    }

    /// Compares with the signed head, and reports.
    #[must_use]
    pub fn finish(mut self, head: &Checkpoint) -> Report {
        let source = "the signed head".to_owned();
        if self.rows < head.size {
            self.find(Finding::Cut { size: self.rows, expected: head.size, source });
        } else if self.rows > head.size {
            self.find(Finding::Unsigned { from: head.size });
        } else if self.frontier.root() != head.root {
            let agrees_until = self.agreed.as_ref().map(|anchor| anchor.size);
            self.find(Finding::Rewritten { size: head.size, agrees_until, source });
        }
        while let Some(anchor) = self.anchors.pop_front() {
            self.find(Finding::Cut { size: self.rows, expected: anchor.size, source: anchor.source });
        }
        for (_, anchor) in std::mem::take(&mut self.older) {
            self.find(Finding::Cut { size: self.rows, expected: anchor.size, source: anchor.source });
        }
        Report {
            restores: self.restores,
            events: self.rows,
            root: self.frontier.root(),
            findings: self.findings,
            finding_count: self.finding_count,
            anchored: self.agreed,
        }
    }

    fn find_place(&mut self, sequence: u64) {
        match sequence {
            found if found == self.next => {}
            found if found > self.next => self.find(Finding::Removed { from: self.next, found }),
            found => self.find(Finding::OutOfOrder { expected: self.next, found }),
        }
    }

    fn compare_anchors(&mut self) {
        while self.anchors.front().is_some_and(|anchor| anchor.size == self.rows) {
            let Some(anchor) = self.anchors.pop_front() else { return };
            if anchor.root == self.frontier.root() {
                self.agreed = Some(anchor);
            } else {
                let agrees_until = self.agreed.as_ref().map(|anchor| anchor.size);
                self.find(Finding::Rewritten { size: anchor.size, agrees_until, source: anchor.source });
            }
        }
    }

    fn find(&mut self, finding: Finding) {
        self.finding_count += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

/// Which fields of a row are not those of its leaf.
fn changed_fields(event: &Event) -> Vec<&'static str> {
    let (row, mut fields) = (&event.record, Vec::new());
    // Less than a millisecond is not hashed, and never written.
    if *row != row.clone().at_stored_precision() {
        fields.push("time");
    }
    if row.leaf_bytes() != event.leaf {
        match Record::from_leaf(&event.leaf) {
            // The fields have the hash: it is the leaf that was changed.
            _ if row.leaf_hash() == event.leaf_hash => fields.push("leaf"),
            Err(_) => fields.push("leaf"),
            Ok(leaf) => fields.extend(differences(row, &leaf)),
        }
    }
    if leaf_hash(&event.leaf) != event.leaf_hash && fields.is_empty() {
        fields.push("leaf_hash");
    }
    fields
}

fn differences(row: &Record, leaf: &Record) -> Vec<&'static str> {
    let compared = [
        ("sequence", row.sequence == leaf.sequence),
        ("time", row.time == leaf.time),
        ("actor", row.actor == leaf.actor),
        ("action", row.action == leaf.action),
        ("resource", row.resource == leaf.resource),
        ("outcome", row.outcome == leaf.outcome),
        ("detail", row.detail == leaf.detail),
        ("trace_id", row.trace_id == leaf.trace_id),
    ];
    compared.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { sequence, fields } => {
                write!(f, "event {sequence} was changed: not what was hashed is its {}", fields.join(", "))
            }
            Self::Unreadable { sequence, what } => {
                write!(f, "event {sequence} was changed: {what} is what this program never writes")
            }
            Self::Removed { from, found } if from + 1 == *found => write!(f, "event {from} was removed"),
            Self::Removed { from, found } => write!(f, "events {from} to {} were removed", found - 1),
            Self::OutOfOrder { expected, found } => {
                write!(f, "event {found} stands where {expected} belongs: rows were swapped or inserted")
            }
            Self::Cut { size, expected, source } => {
                write!(f, "the log ends after {size} events, but {source} covers {expected}: its end was cut off")
            }
            Self::Unsigned { from } => {
                write!(f, "events from {from} on are not covered by the signed head: rows were inserted")
            }
            Self::Rewritten { size, agrees_until, source } => {
                let from = agrees_until.unwrap_or(0);
                write!(
                    f,
                    "events {from} to {} are not those of {source}: the log was rewritten",
                    size.saturating_sub(1)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;
    use crate::Outcome;

    fn event(sequence: u64) -> Event {
        let record = Record {
            sequence,
            time: DateTime::from_timestamp_millis(1_700_000_000_000 + i64::try_from(sequence).unwrap()).unwrap(),
            actor: "system".to_owned(),
            action: "test.write".to_owned(),
            resource: format!("tests/{sequence}"),
            outcome: Outcome::Ok,
            detail: serde_json::Map::new(),
            trace_id: String::new(),
        };
        record.into()
    }

    fn head_of(events: &[Event]) -> Checkpoint {
        let mut frontier = Frontier::new();
        for event in events {
            frontier.append(event.leaf_hash);
        }
        Checkpoint { origin: "test".to_owned(), size: frontier.size(), root: frontier.root() }
    }

    fn anchor(events: &[Event]) -> Anchor {
        let head = head_of(events);
        Anchor { source: "an anchor".to_owned(), size: head.size, root: head.root }
    }

    fn verify(events: &[Event], head: &Checkpoint, anchors: Vec<Anchor>) -> Report {
        let mut verifier = LogVerifier::new(anchors);
        events.iter().for_each(|event| verifier.push(event));
        verifier.finish(head)
    }

    fn log(size: u64) -> Vec<Event> {
        (0..size).map(event).collect()
    }

    #[test]
    fn an_untouched_log_is_clean_and_says_what_it_is_anchored_at() {
        let events = log(20);
        let report = verify(&events, &head_of(&events), vec![anchor(&events[..13]), anchor(&[]), anchor(&events)]);
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(report.anchored.unwrap().size, 20);
    }

    #[test]
    fn names_the_row_that_was_changed_removed_or_moved() {
        let events = log(20);
        let head = head_of(&events);

        let mut changed = events.clone();
        "operator:eve".clone_into(&mut changed[5].record.actor);
        assert!(
            verify(&changed, &head, vec![]).findings.contains(&Finding::Changed { sequence: 5, fields: vec!["actor"] })
        );

        let mut removed = events.clone();
        removed.remove(5);
        assert!(verify(&removed, &head, vec![]).findings.contains(&Finding::Removed { from: 5, found: 6 }));

        let mut swapped = events.clone();
        swapped.swap(5, 6);
        assert!(verify(&swapped, &head, vec![]).findings.contains(&Finding::OutOfOrder { expected: 7, found: 5 }));

        let mut inserted = events.clone();
        inserted.insert(6, event(5));
        assert!(verify(&inserted, &head, vec![]).findings.contains(&Finding::OutOfOrder { expected: 6, found: 5 }));
    }

    #[test]
    fn finds_a_row_rewritten_with_its_hash_and_one_appended_past_the_head() {
        let events = log(20);
        let head = head_of(&events);
        let mut forged = events.clone();
        let mut record = forged[9].record.clone();
        "operator:eve".clone_into(&mut record.actor);
        forged[9] = record.into();
        let report = verify(&forged, &head, vec![anchor(&events[..8])]);
        assert!(matches!(report.findings[..], [Finding::Rewritten { size: 20, agrees_until: Some(8), .. }]));
        assert_eq!(verify(&log(21), &head, vec![]).findings, [Finding::Unsigned { from: 20 }]);
    }

    #[test]
    fn an_anchor_finds_what_the_owner_of_the_signing_key_did() {
        let events = log(20);
        let cut = &events[..15];
        let report = verify(cut, &head_of(cut), vec![anchor(&events)]);
        assert!(matches!(report.findings[..], [Finding::Cut { size: 15, expected: 20, .. }]));

        let mut rewritten = events.clone();
        let mut record = rewritten[3].record.clone();
        "tests/other".clone_into(&mut record.resource);
        rewritten[3] = record.into();
        let report = verify(&rewritten, &head_of(&rewritten), vec![anchor(&events[..10])]);
        assert!(matches!(report.findings[..], [Finding::Rewritten { size: 10, .. }]));
    }

    /// A log of `before` events, restored to `at` of them, and `after` more.
    fn restored(at: u64, after: u64) -> Vec<Event> {
        let mut events = log(at);
        let head = Checkpoint { origin: "o/1".to_owned(), ..head_of(&events) };
        let signed = head.sign("o", &ed25519_dalek::SigningKey::from_bytes(&[1; 32])).unwrap();
        let mut record = event(at).record;
        record.action = "fleet.restore".to_owned();
        record.detail.insert("epoch".to_owned(), 2.into());
        record.detail.insert("restored_head".to_owned(), signed.into());
        events.push(record.into());
        events.extend((at + 1..at + 1 + after).map(event));
        events
    }

    #[test]
    fn a_restore_is_told_with_what_it_lost_and_is_no_finding() {
        let long = head_of(&log(9));
        let early = head_of(&log(3));
        let older = |head: &Checkpoint| (1, Anchor { source: "kept".to_owned(), size: head.size, root: head.root });
        let events = restored(5, 4);
        let read = |events: &[Event], older| {
            let mut verifier = LogVerifier::new(Vec::new()).with_older(older);
            events.iter().for_each(|event| verifier.push(event));
            verifier.finish(&head_of(events))
        };
        let report = read(&events, vec![older(&long), older(&early)]);
        assert!(report.is_clean(), "{:?}", report.findings);
        let [restore] = &report.restores[..] else { panic!("one restore") };
        assert_eq!((restore.sequence, restore.epoch, restore.lost), (5, 2, 4));
        // What was restored is not what was seen; and a log that tells of no restore has lost its end.
        let other = Checkpoint { root: long.root, ..early };
        assert!(!read(&events, vec![older(&other)]).is_clean());
        assert!(matches!(read(&log(5), vec![older(&long)]).findings[..], [Finding::Cut { expected: 9, .. }]));
        // The record names another head than that of the rows before it.
        let mut forged = events;
        forged[5].record.detail.insert("restored_head".to_owned(), "none".into());
        forged[5] = forged[5].record.clone().into();
        assert!(matches!(read(&forged, Vec::new()).findings[..], [Finding::Rewritten { size: 5, .. }]));
    }

    proptest! {
        #[test]
        fn no_change_to_a_log_goes_unseen(size in 2_u64..60, at in any::<prop::sample::Index>(), kind in 0_u8..5) {
            let events = log(size);
            let head = head_of(&events);
            let mut touched = events.clone();
            let at = at.index(events.len());
            match kind {
                0 => { touched.remove(at); }
                1 => touched.swap(at, (at + 1) % events.len()),
                2 => touched.insert(at, event(size)),
                3 => { touched[at].record.time += chrono::Duration::milliseconds(1); }
                _ => {
                    let mut record = touched[at].record.clone();
                    record.outcome = Outcome::Refused;
                    touched[at] = record.into();
                }
            }
            prop_assert!(!verify(&touched, &head, vec![]).is_clean());
        }
    }
}
