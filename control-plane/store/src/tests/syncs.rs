//! Syncs: the standing grant and its renewal, what an operator changes, what the sender reports.

use std::time::Duration;

use chrono::TimeDelta;
use proto_model::{
    NodeUid, SyncGrant, SyncId, SyncReport, SyncResult, SyncRun, SyncSpec, SyncState, SyncStatus, TransferProgress,
    TransferRole, from_unix_ms,
};
use uuid::Uuid;

use super::world::World;
use crate::{
    Context, nodes,
    syncs::{self, CannotChange, CreateSync, Order, RefuseSync, Sync},
    transfers::{Granter, Reported},
};

fn spec(source: &str, destination: &str) -> SyncSpec {
    SyncSpec {
        source_node: "a".parse::<proto_model::NodeName>().unwrap().into(),
        source_path: source.parse().unwrap(),
        destination_node: "b".parse::<proto_model::NodeName>().unwrap().into(),
        destination_path: destination.parse().unwrap(),
        every: Duration::from_secs(300),
        exclude: vec!["*.tmp".parse().unwrap()],
        checksum: false,
    }
}

impl World {
    fn granter(&self) -> Granter {
        Granter { fleet: self.keys.fleet(), epoch: self.keys.epoch(), key: self.keys.grant().clone() }
    }

    async fn create_sync(&self, name: &str, spec: SyncSpec) -> Result<Sync, RefuseSync> {
        let (id, name) = (SyncId::new(Uuid::now_v7()), name.parse().unwrap());
        let (create, granter) = (CreateSync { id, name, spec, adopt: false, validate_only: false }, self.granter());
        let create = self.db.write("test", Context::system(), move |tx| {
            Box::pin(async move { syncs::create(tx, create, syncs::Bounds::default(), &granter).await })
        });
        create.await
    }

    async fn order(&self, order: Order) -> Result<Sync, CannotChange> {
        let granter = self.granter();
        let change = self.db.write("test", Context::system(), move |tx| {
            Box::pin(async move { syncs::change(tx, &"photos".parse().unwrap(), None, order, &granter).await })
        });
        change.await
    }

    /// The grant as this node is told it.
    async fn told_of_sync(&self, node: NodeUid) -> (syncs::SyncJob, SyncGrant) {
        let job = syncs::jobs(&self.db, node).await.unwrap().pop().unwrap();
        let grant = proto_wire::sync::open(&self.keys.grant().verifying_key(), &job.grant).unwrap();
        (job, grant)
    }

    fn sync_actions(&self) -> String {
        let select = "SELECT coalesce(string_agg(action, ' ' ORDER BY sequence), '') FROM audit_events WHERE action LIKE 'sync.%'";
        self.sql(select)
    }
}

async fn accepted() -> (World, [NodeUid; 2], Sync) {
    let world = World::new().await;
    let ends = [world.node("a").await.node.uid, world.node("b").await.node.uid];
    let sync = world.create_sync("photos", spec("data:/photos", "in:/")).await.unwrap();
    (world, ends, sync)
}

fn ended(sync: SyncId, numbers: std::ops::RangeInclusive<u64>) -> SyncReport {
    let run = |number| SyncRun {
        number,
        result: SyncResult::Succeeded,
        start_time: from_unix_ms(1).unwrap(),
        end_time: from_unix_ms(2).unwrap(),
        progress: TransferProgress::default(),
        error: None,
        issues: Vec::new(),
        issue_count: 0,
        transfer: sync.run(number),
    };
    let status = SyncStatus { run: *numbers.end(), runs: numbers.rev().map(run).collect(), ..SyncStatus::default() };
    SyncReport { sync, status }
}

#[tokio::test]
async fn both_ends_are_told_of_a_standing_grant_until_the_sync_is_deleted() {
    let (world, [a, b], sync) = accepted().await;
    let (of_sender, grant) = world.told_of_sync(a).await;
    let (of_receiver, same) = world.told_of_sync(b).await;
    assert_eq!((of_sender.role, of_receiver.role), (TransferRole::Sender, TransferRole::Receiver));
    assert_eq!((of_sender.every_ms, &grant), (300_000, &same));
    assert_eq!((grant.sync(), grant.serial, grant.overwrite), (sync.id, 1, 0));
    assert!(grant.grant.options.delete);
    let etag = sync.etag();
    let (found, name) = (world.order(Order::Pause { reason: "why".into() }).await.unwrap(), sync.name.clone());
    assert_eq!((found.state(found.update_time), world.told_of_sync(b).await.0.pause), (SyncState::Paused, true));
    assert!(matches!(world.order(Order::Run { overwrite: false }).await, Err(CannotChange::Paused)));
    let stale = world.db.write("test", Context::system(), {
        let name = name.clone();
        move |tx| Box::pin(async move { syncs::delete(tx, &name, Some(&etag), false).await })
    });
    assert!(matches!(stale.await, Err(CannotChange::Stale(_))));
    world.order(Order::Resume).await.unwrap();
    let delete = world.db.write("test", Context::system(), move |tx| {
        Box::pin(async move { syncs::delete(tx, &name, None, false).await })
    });
    delete.await.unwrap();
    for node in [a, b] {
        assert_eq!(syncs::jobs(&world.db, node).await.unwrap(), []);
    }
    assert_eq!(world.sync_actions(), "sync.create sync.pause sync.resume sync.delete");
    // Its name is free again.
    world.create_sync("photos", spec("data:/photos", "in:/")).await.unwrap();
}

#[tokio::test]
async fn two_syncs_never_write_to_one_place_and_names_are_unique() {
    let (world, _ends, _sync) = accepted().await;
    let taken = world.create_sync("photos", spec("data:/other", "in:/")).await;
    assert!(matches!(taken, Err(RefuseSync::NameTaken)));
    for (source, destination) in
        [("data:/photos", "in:/"), ("data:/x/", "in:/photos"), ("data:/y", "in:/photos/deep"), ("data:/z/", "in:/")]
    {
        let meets = world.create_sync("other", spec(source, destination)).await;
        assert!(matches!(meets, Err(RefuseSync::DestinationTaken(_))), "{source} {destination}");
    }
    world.create_sync("other", spec("data:/films", "in:/")).await.unwrap();
}

#[tokio::test]
async fn of_syncs_that_are_created_at_once_one_gets_the_place_and_one_the_name() {
    let (world, _ends, _sync) = accepted().await;
    for round in 0..5 {
        let one = |n: usize, name: String, to: String| {
            let world = &world;
            async move { (n, world.create_sync(&name, spec("data:/x/", &to)).await) }
        };
        let place = format!("in:/place-{round}");
        let made = futures::future::join_all((0..4).map(|n| one(n, format!("place-{round}-{n}"), place.clone()))).await;
        let refused =
            |made: &[(usize, Result<Sync, RefuseSync>)]| made.iter().filter(|(_, made)| made.is_err()).count();
        assert_eq!(refused(&made), 3, "{made:?}");
        let made = made.iter().filter_map(|(_, made)| made.as_ref().err());
        assert!(made.into_iter().all(|refused| matches!(refused, RefuseSync::DestinationTaken(_))));
        let name = format!("name-{round}");
        let made =
            futures::future::join_all((0..4).map(|n| one(n, name.clone(), format!("in:/name-{round}-{n}")))).await;
        assert_eq!(refused(&made), 3, "{made:?}");
        let mut made = made.iter().filter_map(|(_, made)| made.as_ref().err());
        assert!(made.all(|refused| matches!(refused, RefuseSync::NameTaken)));
    }
}

#[tokio::test]
async fn an_order_to_overwrite_stands_in_a_newer_grant_and_grants_are_renewed_well_before_their_end() {
    let (world, [a, _b], sync) = accepted().await;
    world.order(Order::Run { overwrite: false }).await.unwrap();
    let (job, grant) = world.told_of_sync(a).await;
    assert_eq!((job.run_request, grant.serial, grant.overwrite), (1, 1, 0));
    world.order(Order::Run { overwrite: true }).await.unwrap();
    let (job, grant) = world.told_of_sync(a).await;
    assert_eq!((job.run_request, grant.serial, grant.overwrite), (2, 2, 1));
    assert_eq!(syncs::renew(&world.db, &world.granter()).await.unwrap(), 0);
    let day = "UPDATE syncs SET grant_expire_time = grant_expire_time - interval '11 days'";
    world.sql(day);
    assert_eq!(syncs::renew(&world.db, &world.granter()).await.unwrap(), 1);
    let (_job, renewed) = world.told_of_sync(a).await;
    assert_eq!((renewed.serial, renewed.overwrite), (3, 1));
    assert!(renewed.grant.not_after - renewed.grant.not_before > TimeDelta::days(29));
    assert_eq!(world.sync_actions(), "sync.create sync.run sync.run sync.renew");
    // The other end hears that a removed node's syncs are over.
    let before = syncs::find(&world.db, &sync.name).await.unwrap().unwrap().revision;
    let keys = world.keys.clone();
    let remove = world.db.write("test", Context::system(), move |tx| {
        Box::pin(
            async move { nodes::delete(tx, &keys, &"b".parse::<proto_model::NodeName>().unwrap().into(), None).await },
        )
    });
    remove.await.unwrap();
    let (told, _until) = syncs::nodes_with_new_jobs(&world.db, Some(before)).await.unwrap();
    assert!(told.contains(&a));
    assert_eq!(syncs::jobs(&world.db, a).await.unwrap(), []);
    let cut = syncs::find(&world.db, &sync.name).await.unwrap().unwrap();
    assert_eq!(cut.state(cut.update_time), SyncState::Ended);
}

#[tokio::test]
async fn after_a_restore_a_syncs_numbers_are_above_those_that_its_nodes_saw_before() {
    let (world, [a, _b], _sync) = accepted().await;
    let backup = "CREATE TABLE before AS SELECT id, grant_serial, overwrite_order, run_request FROM syncs";
    world.sql(backup);
    for _ in 0..3 {
        world.order(Order::Run { overwrite: true }).await.unwrap();
    }
    let (seen, grant_seen) = world.told_of_sync(a).await;
    // What the backup has, in the next epoch.
    world.sql(
        "UPDATE syncs y SET grant_serial = b.grant_serial, overwrite_order = b.overwrite_order, run_request = b.run_request \
         FROM before b WHERE b.id = y.id",
    );
    let granter = Granter { epoch: proto_model::Epoch::new(2), ..world.granter() };
    assert_eq!(syncs::renew(&world.db, &granter).await.unwrap(), 1);
    let (_job, renewed) = world.told_of_sync(a).await;
    assert!(renewed.serial > grant_seen.serial, "{} {}", renewed.serial, grant_seen.serial);
    assert!(renewed.overwrite <= grant_seen.overwrite, "nobody ordered it again");
    let change = world.db.write("test", Context::system(), move |tx| {
        Box::pin(async move {
            let order = Order::Run { overwrite: true };
            syncs::change(tx, &"photos".parse().unwrap(), None, order, &granter).await
        })
    });
    change.await.unwrap();
    let (job, ordered) = world.told_of_sync(a).await;
    assert!(ordered.overwrite > grant_seen.overwrite && ordered.serial > renewed.serial);
    assert!(job.run_request > seen.run_request);
}

#[tokio::test]
async fn ends_of_runs_are_one_record_each_time_they_are_heard_of_and_only_the_senders_word_counts() {
    let (world, [a, b], sync) = accepted().await;
    let say = async |node, report: SyncReport| syncs::report(&world.db, node, &report).await.unwrap();
    assert_eq!(say(b, ended(sync.id, 1..=1)).await, Reported::NotItsOwn);
    assert_eq!(say(a, ended(SyncId::new(Uuid::now_v7()), 1..=1)).await, Reported::Unknown);
    assert_eq!(say(a, ended(sync.id, 1..=3)).await, Reported::Taken);
    assert_eq!(say(a, ended(sync.id, 1..=3)).await, Reported::Taken);
    assert_eq!(say(a, ended(sync.id, 2..=4)).await, Reported::Taken);
    let runs = "SELECT string_agg((detail ->> 'firstRun') || '-' || (detail ->> 'lastRun'), ' ' ORDER BY sequence) FROM audit_events WHERE action = 'sync.runs'";
    assert_eq!(world.sql(runs), "1-3 4-4");
    let found = syncs::find(&world.db, &sync.name).await.unwrap().unwrap();
    assert_eq!((found.status.run, found.state(found.update_time)), (4, SyncState::InStep));
}
