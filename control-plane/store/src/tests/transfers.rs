//! Transfers: the grant, the two ends, and how it ends.

use std::time::Duration;

use chrono::TimeDelta;
use proto_model::{
    HostFacts, NodeUid, SharedRoot, TransferError, TransferId, TransferReport, TransferRole, TransferSpec,
    TransferState,
};
use proto_rpc::v1;
use uuid::Uuid;

use super::world::World;
use crate::{
    Context, nodes,
    transfers::{self, Accepted, CreateTransfer, Granter, RefuseTransfer, Reported, Transfer, TransferFilter},
};

pub(crate) fn spec(from: &str, to: &str) -> TransferSpec {
    let spec = v1::TransferSpec {
        source_node: format!("nodes/{from}"),
        source_paths: vec!["data:/set\\xff".to_owned()],
        destination_node: format!("nodes/{to}"),
        destination_path: "in:/".to_owned(),
        exclude: vec!["*.tmp".to_owned()],
        max_bytes: u64::MAX,
        ..v1::TransferSpec::default()
    };
    spec.try_into().unwrap()
}

fn roots(roots: &[&str]) -> HostFacts {
    let roots = roots.iter().map(|root| root.parse::<SharedRoot>().unwrap()).collect();
    HostFacts { roots, ..HostFacts::default() }
}

impl World {
    pub(crate) async fn create(&self, spec: TransferSpec) -> Result<Accepted, RefuseTransfer> {
        let create = CreateTransfer {
            id: TransferId::new(Uuid::now_v7()),
            spec,
            grant_ttl: TimeDelta::days(7),
            time_limit: None,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok(),
            validate_only: false,
        };
        let granter = Granter { fleet: self.keys.fleet(), epoch: self.keys.epoch(), key: self.keys.grant().clone() };
        let create = self.db.write("test", Context::system(), move |tx| {
            Box::pin(async move { transfers::create(tx, create, &granter).await })
        });
        create.await
    }

    async fn report(&self, node: NodeUid, id: TransferId, role: TransferRole, state: TransferState) -> Reported {
        let report = TransferReport { state, ..TransferReport::new(id, role) };
        transfers::report(&self.db, node, &report).await.unwrap()
    }

    async fn transfer(&self, id: TransferId) -> Transfer {
        transfers::find(&self.db, id).await.unwrap().unwrap()
    }

    async fn cancel(&self, id: TransferId) -> Result<Transfer, transfers::HasEnded> {
        let cancel = self
            .db
            .write("test", Context::system(), move |tx| Box::pin(async move { transfers::cancel(tx, id).await }));
        cancel.await.map_err(|error: crate::Error| error).unwrap().unwrap()
    }
}

/// Two nodes and a transfer between them.
async fn accepted() -> (World, NodeUid, NodeUid, TransferId) {
    let world = World::new().await;
    let (a, b) = (world.node("a").await.node.uid, world.node("b").await.node.uid);
    let id = world.create(spec("a", "b")).await.unwrap().transfer.id;
    (world, a, b, id)
}

#[tokio::test]
async fn a_transfer_is_accepted_with_a_grant_that_both_ends_can_check() {
    let (world, a, b, id) = accepted().await;
    let jobs = transfers::jobs(&world.db, b, None).await.unwrap();
    assert_eq!((jobs.jobs.len(), jobs.jobs[0].role, jobs.jobs[0].cancel), (1, TransferRole::Receiver, false));
    let grant = proto_wire::grant::open(&world.keys.grant().verifying_key(), &jobs.jobs[0].grant).unwrap();
    assert_eq!((grant.transfer, grant.source.uid, grant.destination.uid), (id, a, b));
    assert_eq!(grant.source_paths[0].path.as_bytes(), b"set\xff");
    assert_eq!(grant.not_after - grant.not_before, TimeDelta::days(7));
    let stored = world.transfer(id).await;
    assert_eq!(stored.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(v1::TransferSpec::from(stored.spec), v1::TransferSpec::from(spec("a", "b")));
    assert_eq!(
        world.sql("SELECT resource FROM audit_events WHERE action = 'transfer.create'"),
        format!("transfers/{id}")
    );
}

#[tokio::test]
async fn who_is_not_in_the_fleet_or_opens_no_such_root_is_refused() {
    let world = World::new().await;
    let server = world.server().await;
    let (a, b) = (world.node("a").await.node.uid, world.node("b").await.node.uid);
    let unknown = world.create(spec("a", "nobody")).await;
    assert!(matches!(unknown, Err(RefuseTransfer::UnknownNode { role: TransferRole::Receiver, .. })));
    world.connect(server, a, roots(&["data"])).await;
    world.connect(server, b, roots(&["in:ro", "data"])).await;
    let read_only = world.create(spec("a", "b")).await;
    assert!(matches!(read_only, Err(RefuseTransfer::ReadOnlyRoot { .. })));
    let no_root = world.create(spec("b", "a")).await;
    assert!(matches!(no_root, Err(RefuseTransfer::UnknownRoot { role: TransferRole::Receiver, .. })));
    world.sql("UPDATE nodes SET state = 'revoked', revoke_time = now() WHERE name = 'b'");
    let revoked = world.create(spec("a", "b")).await;
    assert!(matches!(revoked, Err(RefuseTransfer::RevokedNode { .. })));
    assert_eq!(world.sql("SELECT count(*) FROM transfers"), "0");
}

#[tokio::test]
async fn a_report_counts_only_for_the_nodes_own_role() {
    let (world, a, b, id) = accepted().await;
    let running = TransferState::Running;
    assert_eq!(world.report(b, id, TransferRole::Sender, running).await, Reported::NotItsOwn);
    assert_eq!(world.report(a, id, TransferRole::Receiver, TransferState::Succeeded).await, Reported::NotItsOwn);
    let other = TransferId::new(Uuid::now_v7());
    assert_eq!(world.report(a, other, TransferRole::Sender, running).await, Reported::Unknown);
    assert_eq!(world.transfer(id).await.standing.state, TransferState::Pending);
}

#[tokio::test]
async fn the_sender_leads_its_first_end_wins_and_ends_are_kept() {
    let (world, a, b, id) = accepted().await;
    assert_eq!(world.report(a, id, TransferRole::Sender, TransferState::Running).await, Reported::Taken);
    assert_eq!(world.report(b, id, TransferRole::Receiver, TransferState::Failed).await, Reported::Taken);
    assert_eq!(world.transfer(id).await.standing.state, TransferState::Running);
    assert_eq!(world.report(a, id, TransferRole::Sender, TransferState::SucceededInPart).await, Reported::Taken);
    assert_eq!(world.report(a, id, TransferRole::Sender, TransferState::Failed).await, Reported::Taken);
    let ended = world.transfer(id).await;
    assert_eq!(ended.standing.state, TransferState::SucceededInPart);
    assert_eq!(ended.sender.unwrap().state, TransferState::SucceededInPart);
    assert_eq!(ended.receiver.unwrap().state, TransferState::Failed);
    // One record of the end, one of the word that differs; both in the transfer's trace.
    let ends = "SELECT string_agg(detail ->> 'role' || ' ' || (detail ->> 'state'), ', ' ORDER BY sequence), \
                count(DISTINCT trace_id), min(trace_id) FROM audit_events WHERE action = 'transfer.end'";
    assert_eq!(world.sql(ends), "sender succeeded_in_part, receiver failed|1|0af7651916cd43dd8448eb211c80319c");
    for node in [a, b] {
        assert!(transfers::jobs(&world.db, node, None).await.unwrap().jobs.is_empty());
    }
}

#[tokio::test]
async fn two_ends_that_agree_are_one_record_whoever_comes_first() {
    let (world, a, b, first) = accepted().await;
    let second = world.create(spec("a", "b")).await.unwrap().transfer.id;
    let (sender, receiver, done) = (TransferRole::Sender, TransferRole::Receiver, TransferState::Succeeded);
    for (node, id, role) in [(a, first, sender), (b, first, receiver), (b, second, receiver), (a, second, sender)] {
        assert_eq!(world.report(node, id, role, done).await, Reported::Taken);
        assert_eq!(world.report(node, id, role, done).await, Reported::Taken);
    }
    for id in [first, second] {
        let ends = format!(
            "SELECT count(*), min(detail ->> 'role') FROM audit_events WHERE resource = 'transfers/{id}' AND action = 'transfer.end'"
        );
        assert_eq!(world.sql(&ends), "1|sender");
        let ended = world.transfer(id).await;
        assert_eq!(ended.standing.state, done);
        assert!(ended.has_ended(sender) && ended.has_ended(receiver));
    }
}

#[tokio::test]
async fn deleting_a_node_ends_what_names_it() {
    let (world, a, _b, sent) = accepted().await;
    world.node("c").await;
    let received = world.create(spec("b", "a")).await.unwrap().transfer.id;
    let other = world.create(spec("b", "c")).await.unwrap().transfer.id;
    let told = transfers::jobs(&world.db, a, None).await.unwrap().until;
    let (keys, node) = (world.keys.clone(), proto_model::NodeRef::from_resource_name("nodes/b").unwrap());
    let delete = world.db.write("test", Context::system(), move |tx| {
        Box::pin(async move { nodes::delete(tx, &keys, &node, None).await })
    });
    delete.await.unwrap();
    for id in [sent, received, other] {
        let ended = world.transfer(id).await.standing;
        assert_eq!(ended.state, TransferState::Failed);
        assert!(matches!(ended.error, Some(TransferError { reason, .. }) if reason == "NODE_REVOKED"));
    }
    // The end that is still there is told to stop.
    let news = transfers::jobs(&world.db, a, Some(told)).await.unwrap().jobs;
    assert_eq!((news.len(), news.iter().all(|job| job.cancel)), (2, true));
    let events = "SELECT string_agg(action, ' ' ORDER BY sequence) FROM (SELECT * FROM audit_events ORDER BY sequence DESC LIMIT 4) AS newest";
    assert_eq!(world.sql(events), "transfer.end transfer.end transfer.end node.delete");
}

#[tokio::test]
async fn progress_is_written_once_a_second_and_a_changed_state_at_once() {
    let (world, a, b, id) = accepted().await;
    let (sender, receiver) = (TransferRole::Sender, TransferRole::Receiver);
    assert_eq!(world.report(a, id, sender, TransferState::Running).await, Reported::Taken);
    assert_eq!(world.report(a, id, sender, TransferState::Running).await, Reported::TooSoon);
    assert_eq!(world.report(a, id, sender, TransferState::Waiting).await, Reported::Taken);
    world.hand.advance(Duration::from_secs(1));
    assert_eq!(world.report(a, id, sender, TransferState::Waiting).await, Reported::Taken);
    assert_eq!(world.report(b, id, receiver, TransferState::Running).await, Reported::Taken);
    world.hand.advance(Duration::from_secs(2));
    assert_eq!(world.report(b, id, receiver, TransferState::Running).await, Reported::TooSoon);
    world.hand.advance(Duration::from_secs(3));
    assert_eq!(world.report(b, id, receiver, TransferState::Running).await, Reported::Taken);
}

#[tokio::test]
async fn a_cancelled_transfer_is_cancelled_once_and_told_to_both_ends() {
    let (world, a, b, id) = accepted().await;
    let told = transfers::jobs(&world.db, a, None).await.unwrap().until;
    assert_eq!(world.cancel(id).await.unwrap().standing.state, TransferState::Cancelled);
    assert_eq!(world.cancel(id).await.unwrap().standing.state, TransferState::Cancelled);
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE action = 'transfer.cancel'"), "1");
    let news = transfers::jobs(&world.db, a, Some(told)).await.unwrap();
    assert!(news.jobs[0].cancel);
    let (nodes, _) = transfers::nodes_with_new_jobs(&world.db, Some(told)).await.unwrap();
    assert_eq!(nodes, [a, b]);
    // A late success is kept beside it, and is the end of the job.
    assert_eq!(world.report(a, id, TransferRole::Sender, TransferState::Succeeded).await, Reported::Taken);
    assert_eq!(world.transfer(id).await.standing.state, TransferState::Cancelled);
    assert!(transfers::jobs(&world.db, a, None).await.unwrap().jobs.is_empty());
    // One that ended otherwise cannot be cancelled.
    let done = world.create(spec("a", "b")).await.unwrap().transfer.id;
    world.report(a, done, TransferRole::Sender, TransferState::Succeeded).await;
    assert_eq!(world.cancel(done).await, Err(transfers::HasEnded(TransferState::Succeeded)));
}

#[tokio::test]
async fn a_receiver_whose_end_did_not_come_is_told_until_it_does() {
    let (world, a, b, id) = accepted().await;
    world.report(a, id, TransferRole::Sender, TransferState::Succeeded).await;
    assert!(transfers::jobs(&world.db, a, None).await.unwrap().jobs.is_empty());
    let jobs = transfers::jobs(&world.db, b, None).await.unwrap().jobs;
    assert!(
        matches!(jobs.as_slice(), [job] if job.transfer == id && job.role == TransferRole::Receiver && !job.cancel)
    );
    world.report(b, id, TransferRole::Receiver, TransferState::Succeeded).await;
    assert!(transfers::jobs(&world.db, b, None).await.unwrap().jobs.is_empty());
}

#[tokio::test]
async fn a_transfer_whose_grant_is_over_ends() {
    let (world, _a, b, id) = accepted().await;
    let second = world.create(spec("a", "b")).await.unwrap().transfer.id;
    world.report(b, second, TransferRole::Receiver, TransferState::Succeeded).await;
    transfers::expire(&world.db, Uuid::nil()).await.unwrap();
    assert_eq!(world.transfer(id).await.standing.state, TransferState::Pending);
    world.hand.advance(Duration::from_hours(7 * 24));
    transfers::expire(&world.db, Uuid::nil()).await.unwrap();
    let ended = world.transfer(id).await.standing;
    assert_eq!(ended.state, TransferState::Failed);
    assert!(matches!(ended.error, Some(TransferError { reason, .. }) if reason == "GRANT_EXPIRED"));
    // The receiver had verified everything: that is what became of it.
    assert_eq!(world.transfer(second).await.standing.state, TransferState::Succeeded);
}

#[tokio::test]
async fn pages_filters_and_changes_find_each_transfer_once() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.node(name).await;
    }
    let mut ids = Vec::new();
    for to in ["b", "c", "b", "a"] {
        ids.push(world.create(spec("a", to)).await.unwrap().transfer.id);
        world.hand.advance(Duration::from_secs(1));
    }
    let all = TransferFilter::default();
    let first = transfers::page(&world.db, &all, None, 3).await.unwrap();
    let last = first.last().unwrap();
    let after = transfers::TransferPage { create_time: last.create_time, id: last.id };
    let second = transfers::page(&world.db, &all, Some(after), 3).await.unwrap();
    let found: Vec<_> = first.iter().chain(&second).map(|transfer| transfer.id).rev().collect();
    assert_eq!(found, ids);
    let with_c = TransferFilter { node: Some("c".to_owned()), state: Some(TransferState::Pending) };
    assert_eq!(transfers::page(&world.db, &with_c, None, 3).await.unwrap().len(), 1);
    let changed = transfers::changed(&world.db, first[2].revision, 10).await.unwrap();
    assert_eq!(changed.iter().map(|transfer| transfer.id).collect::<Vec<_>>(), ids[2..]);
}
