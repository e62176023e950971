//! An export verifies by itself, and whatever is done to it is found with its line.

use std::collections::HashMap;

use chrono::DateTime;
use ed25519_dalek::SigningKey;
use foundation_merkle::{Checkpoint, Frontier, Hash, NodeAddress, VerifierKey, consistency_proof, root_at, root_needs};
use proptest::prelude::*;

use super::{ExportError, ExportHeader, ExportReport, ExportVerifier, record_line};
use crate::{Anchor, Outcome, Record};

const ORIGIN: &str = "dwcp.dev/audit/test/1";

struct Log {
    key: SigningKey,
    leaves: Vec<Vec<u8>>,
    nodes: HashMap<NodeAddress, Hash>,
}

impl Log {
    fn new(size: u64) -> Self {
        Self::with(size, |_record| {})
    }

    /// With a change to some records.
    fn with(size: u64, change: impl Fn(&mut Record)) -> Self {
        let (mut frontier, mut nodes, mut leaves) = (Frontier::new(), HashMap::new(), Vec::new());
        for sequence in 0..size {
            let mut record = Record {
                sequence,
                time: DateTime::from_timestamp_millis(1_700_000_000_000).unwrap(),
                actor: "operator:ann".to_owned(),
                action: "test.write".to_owned(),
                resource: format!("tests/{sequence}"),
                outcome: Outcome::Ok,
                detail: serde_json::Map::new(),
                trace_id: String::new(),
            };
            change(&mut record);
            nodes.extend(frontier.append(record.leaf_hash()));
            leaves.push(record.leaf_bytes());
        }
        Self { key: SigningKey::from_bytes(&[7; 32]), leaves, nodes }
    }

    fn node(&self, address: NodeAddress) -> Option<Hash> {
        self.nodes.get(&address).copied()
    }

    fn verifier(&self) -> VerifierKey {
        VerifierKey::new("dwcp.dev/audit/test", self.key.verifying_key()).unwrap()
    }

    fn anchor(&self, size: u64) -> Anchor {
        Anchor { source: "an anchor".to_owned(), size, root: root_at(size, |at| self.node(at)).unwrap() }
    }

    /// The header and the lines of a stretch, under a head of `size`.
    fn lines(&self, first: u64, next: u64, size: u64) -> Vec<Vec<u8>> {
        let root = root_at(size, |at| self.node(at)).unwrap();
        let header = ExportHeader {
            checkpoint: Checkpoint { origin: ORIGIN.to_owned(), size, root }
                .sign(self.verifier().name(), &self.key)
                .unwrap(),
            verifier_key: self.verifier().to_string(),
            first,
            next,
            left: root_needs(first).into_iter().map(|at| self.node(at).unwrap()).collect(),
            consistency: consistency_proof(next, size, |at| self.node(at)).unwrap(),
            ca_signature: vec![1, 2],
        };
        let mut lines = vec![header.line().into_bytes()];
        for leaf in &self.leaves[usize::try_from(first).unwrap()..usize::try_from(next).unwrap()] {
            lines.push(record_line(leaf, &foundation_merkle::leaf_hash(leaf)));
        }
        lines
    }

    fn verify(&self, file: &[u8], anchors: Vec<Anchor>) -> Result<ExportReport, ExportError> {
        ExportVerifier::open(file)?.verify(&self.verifier(), anchors, |_records| {})
    }
}

fn findings(log: &Log, lines: &[Vec<u8>]) -> Vec<String> {
    log.verify(&lines.concat(), vec![]).unwrap().findings.iter().map(ToString::to_string).collect()
}

#[test]
fn the_form_is_this_for_ever() {
    let log = Log::new(3);
    let text = String::from_utf8(log.lines(1, 2, 3).concat()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let header = r#"{"ca_signature":"0102","checkpoint":"dwcp.dev/audit/test/1\n3\nNo9aVmIbFVKSb9WBLdpWiRepL/l9oSnNwxky4STtTiM=\n\n— dwcp.dev/audit/test 1ucXOTlqzbQmOorUuUbZJbfqsRxqT6H4DYnd+KJQuk7BjQtiUYD02gFfECqy6sNwJ5JJ4X8IWT9Wt4u7sBrGYIbkXgE=\n","consistency":["da98825e36caf7ae9d9be76804e7e17ca78f5b720e9a72c4969fdb3863b03852"],"dwcp_audit_export":1,"first":1,"left":["1dab8ae31c55e7dfdae7cba924330a612324ccd30c14ae5887fe14c6aba3c247"],"next":2,"verifier_key":"dwcp.dev/audit/test+d6e71739+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"}"#;
    assert_eq!(lines[0], header);
    assert_eq!(lines[1].len(), 14 + 64 + 11 + log.leaves[1].len() + 1);
}

#[test]
fn any_stretch_verifies_under_any_later_head() {
    let log = Log::new(21);
    for size in [1, 2, 7, 8, 13, 21] {
        for next in 0..=size {
            for first in 0..=next {
                let report = log.verify(&log.lines(first, next, size).concat(), vec![log.anchor(next)]).unwrap();
                assert!(report.is_clean(), "{first}..{next} of {size}: {:?}", report.findings);
                assert_eq!((report.records, report.anchored.map(|a| a.size)), (next - first, Some(next)));
            }
        }
    }
}

#[test]
fn a_head_of_before_a_restore_is_compared_with_what_was_restored() {
    let whole = Log::new(9);
    let Anchor { root, .. } = whole.anchor(5);
    let head =
        Checkpoint { origin: ORIGIN.to_owned(), size: 5, root }.sign(whole.verifier().name(), &whole.key).unwrap();
    let restored = Log::with(9, |record| {
        if record.sequence == 5 {
            record.action = "fleet.restore".to_owned();
            record.detail.insert("epoch".to_owned(), 2.into());
            record.detail.insert("restored_head".to_owned(), head.clone().into());
        }
    });
    let other = Log::with(9, |record| record.resource.push('!'));
    let verify = |first: u64, next: u64, kept: &Log, size: u64| {
        let file = restored.lines(first, next, 9).concat();
        let verifier = ExportVerifier::open(file.as_slice()).unwrap().with_older(vec![(1, kept.anchor(size))]);
        verifier.verify(&restored.verifier(), Vec::new(), |_records| {}).unwrap()
    };
    for (size, lost) in [(3, 0), (5, 0), (9, 4)] {
        let report = verify(0, 9, &whole, size);
        assert!(report.is_clean(), "{size}: {:?}", report.findings);
        assert_eq!((report.restores[0].sequence, report.restores[0].lost), (5, lost));
    }
    for size in [3, 5] {
        let report = verify(0, 9, &other, size);
        assert_eq!((report.findings[0].line, report.finding_count), (7, 1), "{size}: {:?}", report.findings);
    }
    // Nothing is known where the restore or the head is not within.
    assert!(verify(0, 5, &other, 3).is_clean() && verify(4, 9, &other, 3).is_clean());
}

#[test]
fn damage_is_found_with_its_line() {
    let log = Log::new(20);
    let lines = log.lines(5, 15, 20);
    let found = |change: &dyn Fn(&mut Vec<Vec<u8>>), expected: &str| {
        let mut lines = lines.clone();
        change(&mut lines);
        let findings = findings(&log, &lines);
        assert!(findings.iter().any(|finding| finding.starts_with(expected)), "{expected}: {findings:?}");
    };
    found(&|lines| lines[3][100] ^= 1, "line 4: the record is damaged");
    found(&|lines| drop(lines.remove(4)), "line 5: record 9 stands where 8 belongs");
    found(&|lines| lines.swap(6, 7), "line 7: record 11 stands where 10 belongs");
    found(&|lines| drop(lines.pop()), "line 11: the file ends before record 14");
    found(&|lines| lines.push(lines[10].clone()), "line 12: record 14 stands where 15 belongs");
    found(&|lines| lines.insert(2, b"\n".to_vec()), "line 3: it is not of the form of a record");
    found(&|lines| lines[9].truncate(80), "line 10: it is not of the form");
    found(&|lines| lines[10].truncate(80), "line 11: the file ends within this line");
    found(
        &|lines| lines[8].splice(20..20, vec![b'x'; super::MAX_RECORD_BYTES + 200]).for_each(drop),
        "line 9: it is longer",
    );
}

#[test]
fn a_record_that_was_written_anew_with_its_hash_is_found_by_the_root() {
    let log = Log::new(20);
    let mut lines = log.lines(5, 15, 20);
    let forged = String::from_utf8(log.leaves[9].clone()).unwrap().replace("ann", "eve");
    lines[5] = record_line(forged.as_bytes(), &foundation_merkle::leaf_hash(forged.as_bytes()));
    let text = findings(&log, &lines);
    assert!(text[0].starts_with("line 1: the records are not those that were signed"), "{text:?}");
    let report = log.verify(&lines.concat(), vec![log.anchor(8), log.anchor(12), log.anchor(30 - 12)]).unwrap();
    let text: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    assert!(text[0].starts_with("line 8: up to here the records are not those of an anchor"), "{text:?}");
    assert!(text[1].contains("behind line 4"), "{text:?}");
}

#[test]
fn a_header_is_believed_only_as_it_was_signed() {
    let log = Log::new(9);
    let lines = log.lines(0, 9, 9);
    let header = String::from_utf8(lines[0].clone()).unwrap();
    let refused = |header: String| {
        let mut lines = lines.clone();
        lines[0] = header.into_bytes();
        let done = log.verify(&lines.concat(), vec![]);
        assert!(!matches!(done, Ok(ref report) if report.is_clean()), "{done:?}");
    };
    refused(header.replace("\\n9\\n", "\\n8\\n"));
    refused(header.replace("\"next\":9", "\"next\":8"));
    refused(header.replace("\"next\":9", "\"next\":18446744073709551615"));
    refused(header.replace("\"first\":0", "\"first\":1"));
    refused(header.replace("\"first\":0", "\"first\": 0"));
    refused(header.replace("_export\":1", "_export\":2"));
    refused(String::new());
    let stranger = Log { key: SigningKey::from_bytes(&[8; 32]), ..Log::new(9) };
    assert!(stranger.verify(&lines.concat(), vec![]).is_err());
}

proptest! {
    #[test]
    fn no_byte_of_a_record_can_be_changed_unseen(size in 1_u64..12, place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let log = Log::new(size);
        let lines = log.lines(0, size, size);
        let header = lines[0].len();
        let mut file = lines.concat();
        let at = header + place.index(file.len() - header);
        file[at] ^= 1 << bit;
        prop_assert!(!log.verify(&file, vec![]).unwrap().is_clean());
    }

    #[test]
    fn no_bytes_stop_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in any::<prop::sample::Index>()) {
        let log = Log::new(4);
        drop(log.verify(&bytes, vec![]));
        let file = log.lines(1, 3, 4).concat();
        let at = cut.index(file.len());
        let mut mixed = file[..at].to_vec();
        mixed.extend_from_slice(&bytes);
        drop(log.verify(&mixed, vec![]));
    }
}
