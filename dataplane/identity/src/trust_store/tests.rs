//! Rosters, as they arrive and as they lie on disk.

use proto_model::{Epoch, Labels, RosterSequence};

use super::*;
use crate::{Identity, testing::TestFleet};

fn fleet_of_two() -> (tempfile::TempDir, tempfile::TempDir, TestFleet, Identity, Identity) {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fleet = TestFleet::new();
    let (a, b) = (fleet.node(dirs.0.path(), "a"), fleet.node(dirs.1.path(), "b"));
    (dirs.0, dirs.1, fleet, a, b)
}

fn refused(store: &TrustStore, update: &RosterUpdate) -> RosterError {
    match store.apply(update) {
        Err(TrustStoreError::Roster(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_roster_survives_a_restart_and_finds_members_by_all_their_names() {
    let (dir, _, fleet, a, b) = fleet_of_two();
    fleet.share([&a]);
    drop(a);
    let again = Identity::open(dir.path()).unwrap().expect("the host has joined");
    let member = again.membership().by_name(&"b".parse().unwrap()).unwrap();
    assert_eq!(member.public_key, b.public_key());
    assert_eq!(again.membership().by_key(&b.public_key()), Some(Arc::clone(&member)));
    assert_eq!(again.membership().by_uid(&b.uid()), Some(Arc::clone(&member)));
    assert_eq!(again.membership().by_node_id(&b.node_id()), Some(member));
    assert_eq!(again.membership().position().sequence, RosterSequence::new(2));
    assert!(again.membership().age(i64::MAX).is_some());
}

#[test]
fn a_revocation_is_announced_and_forgets_the_member() {
    let (_dir, _, fleet, a, b) = fleet_of_two();
    fleet.share([&a]);
    let changes = a.membership().changes();
    let seen = a.membership().position().sequence;
    fleet.revoke(&b);
    a.trust().apply(&fleet.roster_after(seen)).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(a.membership().by_key(&b.public_key()), None);
    assert_eq!(a.membership().len(), 1);
}

#[test]
fn an_update_in_parts_counts_when_its_head_has_come() {
    let (_dir, _, fleet, a, b) = fleet_of_two();
    let whole = fleet.roster_after(RosterSequence::default());
    let first = RosterUpdate { full: true, entries: whole.entries[..1].to_vec(), head: None };
    let second = RosterUpdate { full: false, entries: whole.entries[1..].to_vec(), head: whole.head.clone() };
    a.trust().apply(&first).unwrap();
    assert!(a.membership().is_empty());
    a.trust().apply(&second).unwrap();
    assert_eq!(a.membership().len(), 2);
    assert!(a.membership().by_key(&b.public_key()).is_some());
}

#[test]
fn what_is_not_signed_by_the_roster_key_or_is_not_whole_leaves_the_old_roster_in_force() {
    let (dir, _, fleet, a, b) = fleet_of_two();
    fleet.share([&a]);
    let store = a.trust();
    assert_eq!(refused(store, &TestFleet::new().roster_after(RosterSequence::default())), RosterError::Signature);

    let older = fleet.roster_after(RosterSequence::default());
    fleet.enter(&b, "renamed", Labels::default());
    let newer = fleet.roster_after(RosterSequence::default());
    let mixed = RosterUpdate { full: false, entries: newer.entries.clone(), head: older.head.clone() };
    assert_eq!(refused(store, &mixed), RosterError::BeyondHead);
    let cut = RosterUpdate { full: true, entries: newer.entries[..1].to_vec(), head: newer.head.clone() };
    assert_eq!(refused(store, &cut), RosterError::Incomplete { expected: 2, found: 1 });
    assert!(a.membership().by_name(&"b".parse().unwrap()).is_some());

    store.apply(&newer).unwrap();
    assert_eq!(refused(store, &older), RosterError::Older);
    assert!(a.membership().by_name(&"renamed".parse().unwrap()).is_some());

    let path = dir.path().join(ROSTER_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(TrustStore::load(dir.path()).unwrap().unwrap().membership().is_empty());
}

#[test]
fn a_bundle_of_another_fleet_is_refused_and_a_new_epoch_kept() {
    let (dir, _, fleet, a, _b) = fleet_of_two();
    assert!(matches!(a.trust().replace_bundle(TestFleet::new().bundle()), Err(TrustStoreError::OtherFleet)));
    a.trust().replace_bundle(TrustBundle { epoch: Epoch::new(2), ..fleet.bundle() }).unwrap();
    assert_eq!(TrustStore::load(dir.path()).unwrap().unwrap().bundle().epoch, Epoch::new(2));
}

#[test]
fn a_host_without_a_certificate_has_not_joined() {
    let dir = tempfile::tempdir().unwrap();
    crate::NodeKey::load_or_create(dir.path()).unwrap();
    assert!(Identity::open(dir.path()).unwrap().is_none());
}

#[test]
fn a_revocation_that_a_restored_control_plane_forgot_stays_in_force_until_it_knows_better() {
    let (dir, _, fleet, a, b) = fleet_of_two();
    let backup = fleet.roster_after(RosterSequence::default());
    a.trust().apply(&backup).unwrap();
    fleet.revoke(&b);
    a.trust().apply(&fleet.roster_after(RosterSequence::default())).unwrap();
    // The same entries as in the backup, under a head of the next epoch.
    let head = |sequence: u64, members| {
        let time = proto_model::from_unix_ms(0).unwrap();
        let epoch = Epoch::new(2);
        fleet.sign_head(&proto_model::RosterHead { epoch, sequence: RosterSequence::new(sequence), members, time })
    };
    a.trust().apply(&RosterUpdate { head: Some(head(2, 2)), ..backup.clone() }).unwrap();
    for store in [a.trust().clone(), TrustStore::load(dir.path()).unwrap().unwrap()] {
        assert_eq!(store.membership().position().epoch, Epoch::new(2));
        assert!(store.membership().by_uid(&b.uid()).is_none(), "still out");
        let replay = store.revocations_to_replay();
        let key = *fleet.bundle().roster_key.verifying_key();
        let entry = proto_wire::roster::open_entry(&key, &replay[0]).unwrap();
        assert_eq!((replay.len(), entry.uid, entry.revoked), (1, b.uid(), true));
    }
    // It is told, and revokes the node in its own epoch.
    let key = *fleet.bundle().roster_key.verifying_key();
    let entry = proto_wire::roster::open_entry(&key, &a.trust().revocations_to_replay()[0]).unwrap();
    let entry = proto_model::RosterEntry { epoch: Epoch::new(2), sequence: RosterSequence::new(3), ..entry };
    let update = RosterUpdate { full: false, entries: vec![fleet.sign_entry(&entry)], head: Some(head(3, 1)) };
    a.trust().apply(&update).unwrap();
    assert!(a.trust().revocations_to_replay().is_empty() && !dir.path().join(REVOCATIONS_FILE).exists());
    assert!(a.membership().by_uid(&b.uid()).is_none());
    // And the way back to the first epoch is closed.
    a.trust().replace_bundle(TrustBundle { epoch: Epoch::new(2), ..fleet.bundle() }).unwrap();
    let back = a.trust().replace_bundle(fleet.bundle());
    assert!(matches!(back, Err(TrustStoreError::OlderEpoch { .. })), "{back:?}");
}
