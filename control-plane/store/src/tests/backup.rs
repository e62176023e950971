//! What a backup holds, and what a new epoch makes of it.

use control_plane_audit as log;
use futures::StreamExt as _;
use proto_model::{Epoch, NodeRef, RosterSequence, TransferState};

use super::world::{World, start_of_time};
use crate::{
    Actor, Context, Db, Keys, Options,
    audit_log::{self, EventFilter, Order},
    backup::{self, LEFT_OUT, Restoration, RestoreError, Snapshot, SnapshotError, TABLES},
    epoch::{EpochError, Opened, Opening},
    nodes, replay, roster, transfers,
};

fn opening(epoch: Option<u64>) -> Opening {
    let detail = serde_json::Map::from_iter([("backup_time".to_owned(), "yesterday".into())]);
    Opening { epoch: epoch.map(Epoch::new), now: start_of_time(), actor: Actor::System, detail }
}

/// Copies a database as a backup and its restore do.
async fn copy(world: &World, into: &str, epoch: Option<u64>) -> Result<Opened, RestoreError> {
    let mut snapshot = Snapshot::begin(&Options::new(&world.url)).await.unwrap();
    let mut restoration = Restoration::begin(&Options::new(into), snapshot.facts().schema).await?;
    for table in snapshot.tables().to_vec() {
        let mut rows = snapshot.rows(&table).await.unwrap();
        let mut entering = restoration.table(&table).await?;
        while let Some(piece) = rows.next().await {
            entering.send(&piece.unwrap()).await?;
        }
        entering.finish().await?;
    }
    restoration.finish(&world.seal, opening(epoch)).await
}

#[tokio::test]
async fn every_table_is_in_a_backup_or_left_out_on_purpose_and_after_those_it_refers_to() {
    let world = World::new().await;
    let listed = |statement| {
        world.sql(statement).lines().map(|line| line.split('|').map(str::to_owned).collect()).collect::<Vec<Vec<_>>>()
    };
    let mut named: Vec<_> = TABLES.iter().chain(&LEFT_OUT).map(|table| vec![(*table).to_owned()]).collect();
    named.sort();
    let found = listed(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') ORDER BY relname COLLATE \"C\"",
    );
    assert_eq!(found, named, "name a new table in store/backup.rs");
    let place = |table: &String| TABLES.iter().position(|name| name == table);
    for reference in listed("SELECT conrelid::regclass, confrelid::regclass FROM pg_constraint WHERE contype = 'f'") {
        if let (Some(from), Some(to)) = (place(&reference[0]), place(&reference[1])) {
            assert!(from > to, "{reference:?}");
        }
    }
}

#[tokio::test]
async fn a_restore_is_the_whole_of_it_in_a_new_epoch_that_the_audit_log_tells_of() {
    let world = World::new().await;
    world.node("a").await;
    world.node("b").await;
    let token = world.token(3, None).await;
    let spec = super::transfers::spec("a", "b");
    let transfer = world.create(spec).await.unwrap().transfer;
    let head = audit_log::head(&world.db).await.unwrap().unwrap();
    let before = transfers::jobs(&world.db, transfer.source, None).await.unwrap().until;

    let into = tests_postgres::cluster().database();
    let opened = copy(&world, &into, None).await.unwrap();
    assert_eq!((opened.before, opened.epoch), (Epoch::new(1), Epoch::new(2)));
    assert_eq!((opened.audit_size, opened.join_tokens, opened.transfers, opened.nodes), (head.size, 1, 1, 2));

    let db = Db::connect(Options::new(&into), world.clock.clone(), &world.tasks).await.unwrap();
    db.migrate().await.unwrap();
    let keys = Keys::load(&db, &world.seal).await.unwrap().unwrap();
    assert_eq!((keys.epoch(), keys.fleet()), (Epoch::new(2), world.keys.fleet()));
    // The log goes on under another name, and its next record names the head that was restored.
    let events = audit_log::list(&db, EventFilter::default(), Order::Ascending, None, 1000).await.unwrap();
    let restored = events.last().unwrap();
    assert_eq!((restored.action.as_str(), restored.sequence), ("fleet.restore", head.size));
    assert_eq!(restored.detail["restored_head"], head.checkpoint);
    assert_eq!(restored.detail["backup_time"], "yesterday");
    let now = audit_log::head(&db).await.unwrap().unwrap();
    let origin = log::origin(&keys.fleet().to_string(), 2);
    assert_eq!(now.checkpoint.lines().next(), Some(origin.as_str()));
    super::audit::require_whole(&db, &now, &events);
    // The token is void; the node is known; the transfer goes on with a grant of the new epoch.
    let host = super::world::Host::new("late");
    let refused = super::world::enrol_over(&db, &keys, &host, &token, "late").await.unwrap_err();
    assert!(refused.to_string().contains("no longer good"), "{refused}");
    // Orders are above those that nodes were given after the backup.
    let transfers::Jobs { jobs, until, .. } = transfers::jobs(&db, transfer.source, None).await.unwrap();
    assert!(until.value() > before.value() + 1_000_000, "{before:?} {until:?}");
    let grant = proto_wire::grant::open(&keys.grant().verifying_key(), &jobs[0].grant).unwrap();
    assert_eq!((grant.epoch, grant.transfer), (Epoch::new(2), transfer.id));
    assert_eq!(transfers::find(&db, transfer.id).await.unwrap().unwrap().standing.state, TransferState::Pending);
    let generation = crate::configs::newest_generation(&db).await.unwrap();
    assert_eq!((generation.epoch, generation.number), (Epoch::new(2), 1));
    let members = nodes::list(&db, nodes::NodeFilter::default(), None, 10).await.unwrap();
    assert!(members.iter().all(|node| !node.connected && node.state_reason.contains("restored")), "{members:?}");
}

#[tokio::test]
async fn a_database_that_is_not_empty_is_left_as_it_is_and_a_restore_broken_off_leaves_nothing() {
    let world = World::new().await;
    let into = tests_postgres::cluster().database();
    let sql = |statement| tests_postgres::cluster().sql(&into, statement);
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'";
    let mut broken_off = Restoration::begin(&Options::new(&into), 4).await.unwrap();
    let table = backup::Table { name: "operator_tokens".to_owned(), columns: vec!["id".to_owned()] };
    broken_off.table(&table).await.unwrap();
    drop(broken_off);
    let wrong_epoch = copy(&world, &into, Some(1)).await;
    assert!(matches!(wrong_epoch, Err(RestoreError::Epoch(EpochError::NotLater { .. }))), "{wrong_epoch:?}");
    assert_eq!(sql(tables), "0");

    sql("CREATE TABLE theirs (a int)");
    let refused = copy(&world, &into, None).await;
    assert!(
        matches!(&refused, Err(RestoreError::NotEmpty { count: 1, example }) if example == "theirs"),
        "{refused:?}"
    );
    let newer = Restoration::begin(&Options::new(&into), 10_000).await.map(drop);
    assert!(matches!(newer, Err(RestoreError::NewerSchema { found: 10_000, .. })), "{newer:?}");
    assert_eq!(sql(tables), "1");
    let nothing = Snapshot::begin(&Options::new(&into)).await.map(drop);
    assert!(matches!(nothing, Err(SnapshotError::NoFleet)), "{nothing:?}");
}

#[tokio::test]
async fn a_database_that_others_put_back_is_opened_in_the_epoch_asked_for() {
    let world = World::new().await;
    let opened = backup::reopen(&Options::new(&world.url), &world.seal, opening(Some(7))).await.unwrap();
    assert_eq!((opened.before, opened.epoch), (Epoch::new(1), Epoch::new(7)));
    assert_eq!(Keys::load(&world.db, &world.seal).await.unwrap().unwrap().epoch(), Epoch::new(7));
}

#[tokio::test]
async fn a_node_that_was_revoked_after_the_backup_is_revoked_again_and_nothing_else_is_taken_from_agents() {
    let world = World::new().await;
    let (gone, stays) = (world.node("gone").await.node, world.node("stays").await.node);
    let into = tests_postgres::cluster().database();
    let mut snapshot = Snapshot::begin(&Options::new(&world.url)).await.unwrap();
    // After the backup: one is revoked, another joins and is revoked too, a third joins.
    let joined = world.node("joined").await.node;
    world.node("newcomer").await;
    let delete = async |node: &nodes::Node| {
        let (keys, node) = (world.keys.clone(), NodeRef::Uid(node.uid));
        let delete = world.db.write("test", Context::system(), move |tx| {
            Box::pin(async move { nodes::delete(tx, &keys, &node, None).await })
        });
        delete.await.unwrap();
    };
    delete(&gone).await;
    delete(&joined).await;
    let entries: Vec<_> = roster::entries_after(&world.db, RosterSequence::default(), 100)
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.signed)
        .collect();
    assert_eq!(entries.len(), 4);
    let mut restoration = Restoration::begin(&Options::new(&into), snapshot.facts().schema).await.unwrap();
    for table in snapshot.tables().to_vec() {
        let mut rows = snapshot.rows(&table).await.unwrap();
        let mut entering = restoration.table(&table).await.unwrap();
        while let Some(piece) = rows.next().await {
            entering.send(&piece.unwrap()).await.unwrap();
        }
        entering.finish().await.unwrap();
    }
    restoration.finish(&world.seal, opening(None)).await.unwrap();
    let db = Db::connect(Options::new(&into), world.clock.clone(), &world.tasks).await.unwrap();
    let keys = Keys::load(&db, &world.seal).await.unwrap().unwrap();
    let reporter = stays.name.clone();
    assert_eq!(replay::revocations(&db, &keys, &entries, &reporter).await.unwrap(), 2);
    assert_eq!(replay::revocations(&db, &keys, &entries, &reporter).await.unwrap(), 0, "once");
    let sql = |statement| tests_postgres::cluster().sql(&into, statement);
    let states = "SELECT name, state, roster_epoch FROM nodes ORDER BY name";
    assert_eq!(sql(states), "gone|revoked|2\njoined|revoked|2\nstays|offline|1");
    assert_eq!(sql("SELECT actor FROM audit_events WHERE action = 'node.revocation_replayed' LIMIT 1"), "node:stays");
}
