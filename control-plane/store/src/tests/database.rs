//! Transactions, migrations, the bell, repeated requests.

use std::time::Duration;

use foundation_runtime::{Clock, TaskGroup};
use proto_model::{NodeRef, RequestId};
use uuid::Uuid;

use super::world::World;
use crate::{
    Actor, Context, Db, Error, Event, MigrateError, Options, RequestKey, Tx, join_tokens,
    nodes::{self, Change},
    observation,
};

async fn label_without_a_record(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("UPDATE nodes SET relay = true").execute(tx.connection()).await?;
    Ok(())
}

#[tokio::test]
async fn a_write_without_an_audit_record_is_rolled_back() {
    let world = World::new().await;
    world.node("a").await;
    let written = world.db.write("silent", Context::system(), |tx| Box::pin(label_without_a_record(tx))).await;
    assert!(matches!(written, Err(Error::Unaudited("silent"))), "{written:?}");
    assert_eq!(world.sql("SELECT relay FROM nodes"), "f");
}

#[tokio::test]
async fn a_failed_append_takes_the_change_with_it() {
    let world = World::new().await;
    world.node("a").await;
    world.sql("ALTER TABLE audit_events ADD CONSTRAINT full_disk CHECK (sequence < 0) NOT VALID");
    let keys = world.keys.clone();
    let node = NodeRef::from_resource_name("nodes/a").unwrap();
    let change = Change { labels: None, relay: Some(true) };
    let written = world
        .db
        .write("update", Context::system(), move |tx| {
            Box::pin(async move { nodes::update(tx, &keys, &node, None, change).await })
        })
        .await;
    assert!(matches!(written, Err(nodes::ChangeError::Database(Error::Statement { .. }))), "{written:?}");
    assert_eq!(world.sql("SELECT relay FROM nodes"), "f");
}

#[tokio::test]
async fn a_transaction_ends_though_its_request_went_away() {
    let world = World::new().await;
    let (entered, inside) = tokio::sync::oneshot::channel();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let write = world.db.write("slow", Context::system(), move |tx| {
        Box::pin(async move {
            sqlx::query("SELECT 1").execute(tx.connection()).await?;
            entered.send(()).unwrap();
            gone.await.unwrap();
            tx.audit(Event::new("test.slow", "test"));
            Ok::<_, Error>(())
        })
    });
    let mut bell = world.db.bell();
    tokio::select! {
        _ended = write => unreachable!("it waits"),
        _inside = inside => {}
    }
    go.send(()).unwrap();
    while world.sql("SELECT count(*) FROM audit_events WHERE action = 'test.slow'") != "1" {
        bell.changed().await.unwrap();
    }
    // Background work of the server may be inside a transaction of its own for a moment; one that was left stays.
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let freed = async {
        while world.sql(left) != "0" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), freed).await.expect("no transaction is left open");
}

#[tokio::test]
async fn two_servers_migrate_and_make_the_fleet_at_once() {
    let url = tests_postgres::cluster().database();
    let tasks = TaskGroup::new("test");
    let seal = std::sync::Arc::new(control_plane_pki::SealKey::generate().unwrap().0);
    let start = || async {
        let db = Db::connect(Options::new(&url), Clock::system(), &tasks).await.unwrap();
        db.migrate().await.unwrap();
        crate::Keys::load_or_create(&db, &seal).await.unwrap().trust_bundle()
    };
    let (one, two, three) = tokio::join!(start(), start(), start());
    assert_eq!(one, two);
    assert_eq!(two, three);
    let sql = |statement| tests_postgres::cluster().sql(&url, statement);
    assert_eq!(sql("SELECT count(*) FROM audit_events WHERE action = 'fleet.create'"), "1");
}

/// What a next version's migration may do: add a table, add a column with a default, let the old program work on.
const NEXT_MIGRATION: &str = "
    CREATE TABLE labels_of_tomorrow (node uuid PRIMARY KEY REFERENCES nodes (uid), text text NOT NULL);
    ALTER TABLE nodes ADD COLUMN zone text NOT NULL DEFAULT 'here';
    ALTER TABLE join_tokens ADD COLUMN note text;
    CREATE INDEX nodes_by_zone ON nodes (zone);
    INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'from the future', true, '', 0)";

#[tokio::test]
async fn this_program_works_on_the_schema_of_the_next_version_and_is_told_what_it_needs_of_a_later_one() {
    let world = World::new().await;
    world.sql(NEXT_MIGRATION);
    world.sql("UPDATE program SET newest_version = '{0,2,0}'");
    let (db, _keys) = world.another_server().await;
    db.migrate().await.unwrap();
    assert_eq!(
        world.sql("SELECT newest_version FROM program"),
        "{0,2,0}",
        "an older program does not take the mark back"
    );
    // Reads and writes of what the next version has changed.
    let node = world.node("a").await.node;
    let (keys, change) = (world.keys.clone(), Change { labels: None, relay: Some(true) });
    let by_uid = NodeRef::Uid(node.uid);
    let update = db.write("update", Context::system(), move |tx| {
        Box::pin(async move { nodes::update(tx, &keys, &by_uid, None, change).await })
    });
    assert!(update.await.unwrap().relay);

    world.sql("UPDATE program SET newest_version = '{0,3,0}'");
    let refused = world.db.migrate().await.unwrap_err();
    assert!(matches!(&refused, MigrateError::TooFarBehind { newest, .. } if newest == "0.3.0"), "{refused:?}");
    world.sql("UPDATE program SET newest_version = '{0,2,0}', least_version = '{0,1,7}'");
    let refused = world.db.migrate().await.unwrap_err();
    assert!(matches!(&refused, MigrateError::TooOld { least, .. } if least == "0.1.7"), "{refused:?}");
    assert!(!refused.to_string().contains('\n'), "{refused}");
}

#[tokio::test]
async fn another_seal_key_opens_nothing() {
    let world = World::new().await;
    let stranger = std::sync::Arc::new(control_plane_pki::SealKey::generate().unwrap().0);
    let tasks = TaskGroup::new("test");
    let db = Db::connect(Options::new(&world.url), Clock::system(), &tasks).await.unwrap();
    assert!(matches!(crate::Keys::load_or_create(&db, &stranger).await, Err(crate::KeysError::Sealed(_))));
}

#[tokio::test]
async fn the_bell_rings_on_another_server() {
    let world = World::new().await;
    let (other, _keys) = world.another_server().await;
    let mut bell = other.bell();
    // What rings by itself while a listener connects, and the timer, are not what is waited for.
    let heard = async {
        loop {
            bell.mark_unchanged();
            if !nodes::list(&other, nodes::NodeFilter::default(), None, 10).await.unwrap().is_empty() {
                return;
            }
            bell.changed().await.unwrap();
        }
    };
    let (_node, heard) = tokio::join!(world.node("a"), tokio::time::timeout(Duration::from_secs(20), heard));
    heard.unwrap();
}

#[tokio::test]
async fn a_repeated_request_changes_nothing_and_another_one_with_its_id_is_refused() {
    let world = World::new().await;
    let id = RequestId::new(Uuid::new_v4());
    let create = |fingerprint| {
        let request = RequestKey { method: "test/Create", id, fingerprint: [fingerprint; 32] };
        let context = Context { actor: Actor::Socket(0), trace_id: String::new(), request: Some(request) };
        let new = join_tokens::NewJoinToken {
            ttl: chrono::TimeDelta::hours(1),
            max_uses: 1,
            node_labels: proto_model::Labels::new(),
            relay: false,
            node_name: None,
        };
        world.db.write("create", context, move |tx| Box::pin(join_tokens::create(tx, new)))
    };
    let (one, two) = tokio::join!(create(1), create(1));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.0, two.0);
    assert!(one.1.is_some() != two.1.is_some(), "the secret is shown once");
    assert_eq!(world.sql("SELECT count(*) FROM join_tokens"), "1");
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE action = 'join_token.create'"), "1");
    let reused = create(2).await;
    assert!(matches!(reused, Err(join_tokens::CreateError::Database(Error::RequestIdReused))));
}

#[tokio::test]
async fn a_connection_that_was_left_in_a_transaction_is_not_handed_on() {
    let world = World::new().await;
    let options = Options { max_connections: 2, ..Options::new(&world.url) };
    let db = Db::connect(options, Clock::system(), &TaskGroup::new("test")).await.unwrap();
    for _ in 0..4 {
        db.read(|connection| {
            Box::pin(async move {
                sqlx::raw_sql("BEGIN").execute(connection).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
        // SAVEPOINT is an error outside of a transaction, and only there.
        let savepoint = db.read(|connection| {
            Box::pin(async move {
                sqlx::raw_sql("SAVEPOINT s").execute(connection).await?;
                Ok(())
            })
        });
        assert!(savepoint.await.unwrap_err().chain().contains("can only be used in transaction blocks"));
    }
}

#[tokio::test]
async fn reads_and_writes_go_on_after_every_backend_was_killed() {
    let world = World::new().await;
    world.node("a").await;
    world.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    assert_eq!(nodes::list(&world.db, nodes::NodeFilter::default(), None, 10).await.unwrap().len(), 1);
    world.node("b").await;
    assert_eq!(world.sql("SELECT count(*) FROM nodes"), "2");
}

/// A write that refers to a node must not wait for one that changes it: they take their other locks in another order.
#[tokio::test]
async fn a_change_of_a_node_does_not_lock_out_what_refers_to_it() {
    let world = World::new().await;
    let node = world.node("a").await.node;
    let observed = observation::Observed { connected: Some(true), ..observation::Observed::default() };
    let db = world.db.clone();
    let done: Result<(), Error> = world
        .db
        .observe("test", move |tx| {
            Box::pin(async move {
                observation::observe(tx, node.uid, observed).await?;
                let uid = node.uid.uuid();
                let referring = db.observe::<(), Error, _>("test", move |tx| {
                    Box::pin(async move {
                        sqlx::query("SELECT FROM nodes WHERE uid = $1 FOR KEY SHARE NOWAIT")
                            .bind(uid)
                            .execute(tx.connection())
                            .await?;
                        Ok(())
                    })
                });
                referring.await
            })
        })
        .await;
    done.unwrap();
}
