//! Whatever the order in which things arrive, the end is the same, and nothing goes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::fs;

use dataplane_dht::{
    Acceptance, FleetTag, MemoryRecords, Nat, NodeType, Record, RecordStore, SignedRecord, Unacceptable,
};
use dataplane_identity::{Identity, RosterUpdate, testing::TestFleet};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use proto_model::{Labels, PublicKey, RosterSequence};

/// A fleet whose roster changed a few times, and what was said of it after each change.
fn changed(dir: &std::path::Path) -> (TestFleet, Identity, Vec<RosterUpdate>) {
    let fleet = TestFleet::new();
    let node = |name: &str| {
        fs::create_dir(dir.join(name)).unwrap();
        fleet.node(&dir.join(name), name)
    };
    let (reader, other, third) = (node("reader"), node("other"), node("third"));
    let mut said = vec![fleet.roster_after(RosterSequence::default())];
    let mut say = |after: u64| said.push(fleet.roster_after(after.into()));
    fleet.enter(&other, "renamed", Labels::from_pairs([("a", "b")]).unwrap());
    say(3);
    fleet.revoke(&third);
    say(4);
    say(1);
    fleet.enter(&other, "again", Labels::default());
    say(5);
    say(0);
    (fleet, reader, said)
}

fn shown(identity: &Identity) -> Vec<String> {
    let mut members: Vec<_> = identity
        .membership()
        .members()
        .iter()
        .map(|member| format!("{} {:?} {}", member.name, member.labels, member.node_id()))
        .collect();
    members.sort();
    members
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_roster_ends_the_same_under_any_order_of_deltas(order in prop::collection::vec(0..6_usize, 0..12)) {
        let dir = tempfile::tempdir().unwrap();
        let (fleet, reader, said) = changed(dir.path());
        let mut position = reader.membership().position();
        for number in order {
            // One that does not fit is refused, and what was in force stays.
            drop(reader.trust().apply(&said[number % said.len()]));
            let now = reader.membership().position();
            prop_assert!(now >= position, "the roster went back");
            position = now;
        }
        fleet.share([&reader]);
        let (mut expected, straight) = (Vec::new(), tempfile::tempdir().unwrap());
        drop(straight);
        expected.extend(["again", "reader"]);
        let names: Vec<_> = shown(&reader).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        prop_assert_eq!(names, expected);
    }

    #[test]
    fn what_is_known_of_a_key_never_goes_back(seqs in prop::collection::vec(0..40_i64, 1..30)) {
        let (key, fleet) = (SigningKey::from_bytes(&[3; 32]), "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse().unwrap());
        let owner = PublicKey::try_from(key.verifying_key()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (store, mut highest) = (MemoryRecords::default(), None);
        for seq in seqs {
            let record = Record {
                issued_s: 1000,
                ttl_s: 3600,
                fleet: FleetTag::of(&fleet),
                addresses: vec!["10.0.0.1:1".parse().unwrap()],
                node_type: NodeType::Public,
                nat: Nat::Unknown,
                relays: Vec::new(),
            };
            let known_seq = runtime.block_on(store.last(owner)).unwrap().map(|record| record.seq);
            prop_assert_eq!(known_seq, highest);
            let acceptance = Acceptance { fleet: FleetTag::of(&fleet), now_ms: 1_000_000, known_seq };
            let taken = SignedRecord::sign(&key, seq, &record).unwrap().verify(&acceptance);
            let below = highest.is_some_and(|highest| seq < highest);
            prop_assert_eq!(matches!(taken, Err(Unacceptable::Rollback { .. })), below);
            if let Ok(record) = taken {
                runtime.block_on(store.keep(record)).unwrap();
                highest = highest.max(Some(seq));
            }
            // A late writer that did not ask.
            runtime.block_on(store.keep(SignedRecord::sign(&key, seq, &record).unwrap().verify_signature().unwrap())).unwrap();
        }
    }
}
