//! Who gets in, who is put out.

use chrono::TimeDelta;
use proto_model::{
    AppliedConfig, ApplyStatus, ComponentHealth, Epoch, Etag, HealthStatus, Labels, NodeRef, Revision, RosterEntry,
    RosterSequence,
};

use super::world::{Host, World, enrol_over};
use crate::{
    Context, Error,
    enrolment::{EnrolError, Enrolled, RenewError},
    join_tokens::JoinTokenState,
    nodes::{self, Change, ChangeError, Node, NodeFilter, NodeState},
    observation::{self, Observed},
    roster,
};

fn by_name(name: &str) -> NodeRef {
    NodeRef::Name(name.parse().unwrap())
}

async fn delete(world: &World, name: &str) -> Result<Node, ChangeError> {
    let (keys, node) = (world.keys.clone(), by_name(name));
    world
        .db
        .write("test", Context::system(), move |tx| {
            Box::pin(async move { nodes::delete(tx, &keys, &node, None).await })
        })
        .await
}

async fn roster_of(world: &World) -> Vec<RosterEntry> {
    let key = world.keys.roster().verifying_key();
    let entries = roster::entries_after(&world.db, RosterSequence::new(0), 1000).await.unwrap();
    entries.iter().map(|entry| proto_wire::roster::open_entry(&key, &entry.signed).unwrap()).collect()
}

#[tokio::test]
async fn of_fifty_joiners_with_one_token_exactly_one_wins() {
    let world = World::new().await;
    let (other, other_keys) = world.another_server().await;
    let token = world.token(1, None).await;
    let hosts: Vec<Host> = (0..50).map(|number| Host::new(&format!("h{number}"))).collect();
    let joins = hosts.iter().enumerate().map(|(number, host)| {
        let (db, keys) = if number % 2 == 0 { (&world.db, &world.keys) } else { (&other, &other_keys) };
        let token = &token;
        async move { enrol_over(db, keys, host, token, &format!("h{number}")).await }
    });
    let joined = futures::future::join_all(joins).await;
    let winners: Vec<&Enrolled> = joined.iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    for refused in joined.iter().filter_map(|joined| joined.as_ref().err()) {
        assert!(matches!(refused, EnrolError::TokenRefused { state: JoinTokenState::Used, .. }), "{refused:?}");
    }
    assert_eq!(world.sql("SELECT count(*) FROM nodes"), "1");
    assert_eq!(world.sql("SELECT used_count FROM join_tokens"), "1");
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE action = 'node.enroll'"), "1");
}

#[tokio::test]
async fn the_same_token_and_key_give_the_same_answer_also_at_once() {
    let world = World::new().await;
    let token = world.token(1, None).await;
    let host = Host::new("a");
    let joins = (0..8).map(|_| world.enrol(&host, &token, "a"));
    let joined: Result<Vec<Enrolled>, EnrolError> = futures::future::join_all(joins).await.into_iter().collect();
    let joined = joined.unwrap();
    assert!(joined.iter().all(|enrolled| *enrolled == joined[0]));
    world.hand.advance(std::time::Duration::from_hours(48));
    assert_eq!(world.enrol(&host, &token, "a").await.unwrap().certificate, joined[0].certificate);
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE action = 'node.enroll'"), "1");
    let labels = &joined[0].node.labels;
    assert_eq!(*labels, Labels::from_pairs([("region", "north")]).unwrap(), "labels are the token's");
}

#[tokio::test]
async fn expired_revoked_and_unknown_tokens_open_nothing() {
    let world = World::new().await;
    let token = world.token(1, None).await;
    world.hand.advance(std::time::Duration::from_hours(2));
    let refused = world.enrol(&Host::new("a"), &token, "a").await;
    assert!(matches!(refused, Err(EnrolError::TokenRefused { state: JoinTokenState::Expired, .. })), "{refused:?}");
    let token = world.token(1, None).await;
    world.sql("UPDATE join_tokens SET revoke_time = now()");
    let refused = world.enrol(&Host::new("a"), &token, "a").await;
    assert!(matches!(refused, Err(EnrolError::TokenRefused { state: JoinTokenState::Revoked, .. })), "{refused:?}");
    let unknown = control_plane_pki::JoinSecret::generate().unwrap().expose().to_string();
    assert!(matches!(world.enrol(&Host::new("a"), &unknown, "a").await, Err(EnrolError::UnknownToken)));
}

#[tokio::test]
async fn names_are_unique_and_reserved_and_a_token_for_a_node_gives_its_place_back() {
    let world = World::new().await;
    let first = world.node("a").await;
    let any = world.token(3, None).await;
    let taken = world.enrol(&Host::new("b"), &any, "a").await;
    assert!(matches!(taken, Err(EnrolError::NameTaken { .. })), "{taken:?}");

    // A rebuilt host: a new key, the same node.
    let rebuilt = Host::new("a rebuilt");
    let token = world.token(1, Some("a")).await;
    let again = world.enrol(&rebuilt, &token, "ignored").await.unwrap();
    assert_eq!(again.node.uid, first.node.uid);
    assert_eq!(again.node.public_key, rebuilt.public_key());
    // The key that was replaced is nobody's any more.
    let replaced = world.enrol(&Host::new("a"), &any, "c").await;
    assert!(matches!(replaced, Err(EnrolError::KeyUsed)), "{replaced:?}");

    // A deleted node keeps its name until an operator's token gives it on, and is never admitted again.
    delete(&world, "a").await.unwrap();
    assert!(matches!(delete(&world, "a").await, Err(ChangeError::Revoked)));
    let reserved = world.enrol(&Host::new("d"), &any, "a").await;
    assert!(matches!(reserved, Err(EnrolError::NameTaken { .. })), "{reserved:?}");
    let revoked = world.enrol(&rebuilt, &any, "e").await;
    assert!(matches!(revoked, Err(EnrolError::KeyUsed)), "{revoked:?}");
    assert!(world.enrol(&rebuilt, &token, "a").await.is_err(), "not by a repeat either");
    let token = world.token(1, Some("a")).await;
    let next = world.enrol(&Host::new("d"), &token, "a").await.unwrap();
    assert_ne!(next.node.uid, first.node.uid);

    let roster = roster_of(&world).await;
    let entry = |uid| roster.iter().find(|entry| entry.uid == uid).unwrap();
    assert!(entry(first.node.uid).revoked);
    assert!(!entry(next.node.uid).revoked);
    let head = roster::head(&world.db, Epoch::new(1), world.clock.utc()).await.unwrap();
    assert_eq!((head.sequence, head.members), (entry(next.node.uid).sequence, 1));
}

#[tokio::test]
async fn a_certificate_is_renewed_only_for_the_key_that_signs() {
    let world = World::new().await;
    let host = Host::new("a");
    let node = world.node("a").await.node;
    world.hand.advance(std::time::Duration::from_hours(24 * 120));
    let now = world.clock.utc();
    let renewed = world.renew(&host, host.renewal(node.uid, now)).await.unwrap();
    assert!(renewed.node.certificate_expire_time > now + TimeDelta::days(80), "also when the old one has expired");
    let late = world.renew(&host, host.renewal(node.uid, now - TimeDelta::minutes(6))).await;
    assert!(matches!(late, Err(RenewError::Skew)));
    let stranger = Host::new("stranger");
    let refused = world.renew(&stranger, stranger.renewal(node.uid, now)).await;
    assert!(matches!(refused, Err(RenewError::Refused)));
    delete(&world, "a").await.unwrap();
    assert!(matches!(world.renew(&host, host.renewal(node.uid, now)).await, Err(RenewError::Refused)));
}

#[tokio::test]
async fn an_operators_change_needs_the_present_etag_and_signs_the_entry() {
    let world = World::new().await;
    let node = world.node("a").await.node;
    let update = |etag: Option<Etag>, labels: &[(&str, &str)]| {
        let change = Change { labels: Some(Labels::from_pairs(labels.to_vec()).unwrap()), relay: Some(true) };
        let keys = world.keys.clone();
        world.db.write("test", Context::system(), move |tx| {
            Box::pin(async move { nodes::update(tx, &keys, &by_name("a"), etag.as_ref(), change).await })
        })
    };
    let updated = update(Some(node.etag()), &[("site", "b")]).await.unwrap();
    assert!(updated.relay && updated.revision > node.revision);
    let stale = update(Some(node.etag()), &[("site", "c")]).await;
    assert!(matches!(stale, Err(ChangeError::Stale { current }) if current == updated.etag()));
    let same = update(None, &[("site", "b")]).await.unwrap();
    assert_eq!(same.revision, updated.revision, "no change, no revision");
    let [entry] = roster_of(&world).await.try_into().unwrap();
    assert_eq!((entry.labels, entry.relay), (updated.labels.clone(), true));
    assert_eq!(entry.sequence.value(), updated.revision.value());

    let found = |filter: &[(&str, &str)]| {
        let filter = NodeFilter { labels: Labels::from_pairs(filter.to_vec()).unwrap(), state: None };
        nodes::list(&world.db, filter, None, 10)
    };
    assert_eq!(found(&[("site", "b")]).await.unwrap().len(), 1);
    assert_eq!(found(&[("site", "c")]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn what_is_observed_is_not_audited_and_a_heartbeat_is_no_change() {
    let world = World::new().await;
    let node = world.node("a").await.node;
    let before = world.sql("SELECT count(*) FROM audit_events");
    let observe = |observed: Observed| {
        let uid = node.uid;
        world.db.observe::<_, Error, _>("test", move |tx| Box::pin(observation::observe(tx, uid, observed)))
    };
    let ready = observe(Observed { connected: Some(true), ..Observed::default() }).await.unwrap().unwrap();
    assert_eq!(ready.state, NodeState::Ready);
    let heartbeat = observe(Observed { clock_skew_ms: Some(3), ..Observed::default() }).await.unwrap().unwrap();
    assert_eq!(heartbeat.revision, ready.revision);
    let ill =
        ComponentHealth { component: "dht".to_owned(), status: HealthStatus::Unhealthy, message: "no ring".to_owned() };
    let degraded = observe(Observed { components: Some(vec![ill]), ..Observed::default() }).await.unwrap().unwrap();
    assert_eq!((degraded.state, degraded.state_reason.as_str()), (NodeState::Degraded, "dht is unhealthy: no ring"));
    let rejected = AppliedConfig { status: ApplyStatus::Rejected, ..AppliedConfig::default() };
    let rejected = observe(Observed { applied: Some(rejected), components: Some(vec![]), ..Observed::default() });
    assert_eq!(rejected.await.unwrap().unwrap().state, NodeState::Degraded);
    let changed = nodes::changed_after(&world.db, ready.revision, 10).await.unwrap();
    assert_eq!(changed.len(), 1);
    assert!(nodes::changed_after(&world.db, changed[0].revision, 10).await.unwrap().is_empty());
    assert!(changed[0].revision > Revision::new(2));
    assert_eq!(world.sql("SELECT count(*) FROM audit_events"), before);
    let stored = nodes::get(&world.db, NodeRef::Id(node.node_id())).await.unwrap().unwrap();
    assert_eq!(stored, changed[0]);
}
