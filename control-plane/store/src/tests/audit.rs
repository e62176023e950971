//! The log is one chain, verifies, and its proofs do too.

use control_plane_audit as log;
use foundation_merkle::{Checkpoint, verify_consistency, verify_inclusion};
use proto_model::Filter;

use super::world::World;
use crate::{
    Context, Db, Error, Event,
    audit_log::{self, EventFilter, Head, LogReader, Order, StoredEvent},
};

async fn append(db: &Db, count: u32) {
    db.write("append", Context::system(), move |tx| {
        Box::pin(async move {
            for number in 0..count {
                tx.audit(Event::new("test.append", "test").with("number", number).with("text", "a\u{0}\u{1b}[31m\n"));
            }
            Ok::<_, Error>(())
        })
    })
    .await
    .unwrap();
}

async fn whole(db: &Db) -> (Head, Vec<StoredEvent>) {
    let head = audit_log::head(db).await.unwrap().unwrap();
    let events = audit_log::list(db, EventFilter::default(), Order::Ascending, None, 100_000).await.unwrap();
    (head, events)
}

pub(crate) fn require_whole(db: &Db, head: &Head, events: &[StoredEvent]) {
    let verifier = db.audit_key().unwrap().verifier();
    let checkpoint = Checkpoint::parse_and_verify(&head.checkpoint, verifier).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (head.size, head.root));
    let mut frontier = foundation_merkle::Frontier::new();
    for (index, event) in (0_u64..).zip(events) {
        assert_eq!(event.sequence, index);
        assert!(event.is_as_hashed(), "columns and leaf say the same");
        assert_eq!(log::Record::from_leaf(&event.leaf).ok(), event.record());
        frontier.append(foundation_merkle::leaf_hash(&event.leaf));
    }
    assert_eq!((frontier.size(), frontier.root()), (head.size, head.root));
}

#[tokio::test]
async fn the_log_verifies_and_its_proofs_do_too() {
    let world = World::new().await;
    let mut heads = Vec::new();
    for count in [1, 3, 1, 7, 20] {
        append(&world.db, count).await;
        heads.push(audit_log::head(&world.db).await.unwrap().unwrap());
    }
    let (head, events) = whole(&world.db).await;
    require_whole(&world.db, &head, &events);
    for event in &events {
        let sequence = event.sequence;
        let proof = audit_log::prove_inclusion(&world.db, head.size, sequence).await.unwrap();
        verify_inclusion(&head.root, head.size, sequence, &event.leaf, &proof).unwrap();
    }
    for earlier in &heads {
        let proof = audit_log::prove_consistency(&world.db, earlier.size, head.size).await.unwrap();
        verify_consistency(earlier.size, &earlier.root, head.size, &head.root, &proof).unwrap();
    }
    assert!(audit_log::prove_inclusion(&world.db, head.size, head.size).await.is_err());
}

#[tokio::test]
async fn many_writers_on_two_servers_make_one_chain() {
    let world = World::new().await;
    let (other, _keys) = world.another_server().await;
    let writers = (0..40).map(|number| {
        let db = if number % 2 == 0 { world.db.clone() } else { other.clone() };
        async move { append(&db, 1 + number % 3).await }
    });
    futures::future::join_all(writers).await;
    let (head, events) = whole(&other).await;
    require_whole(&other, &head, &events);
    let appended: u64 = (0..40).map(|number| 1 + number % 3).sum();
    // Before them: the fleet was made.
    assert_eq!(head.size, 1 + appended);
}

#[tokio::test]
async fn a_new_start_continues_the_log() {
    let world = World::new().await;
    append(&world.db, 5).await;
    world.tasks.shutdown(std::time::Duration::from_secs(10)).await.unwrap();
    let tasks = foundation_runtime::TaskGroup::new("second");
    let db = Db::connect(crate::Options::new(&world.url), world.clock.clone(), &tasks).await.unwrap();
    db.migrate().await.unwrap();
    let keys = crate::Keys::load_or_create(&db, &world.seal).await.unwrap();
    assert_eq!(keys.trust_bundle(), world.keys.trust_bundle());
    append(&db, 4).await;
    let (head, events) = whole(&db).await;
    require_whole(&db, &head, &events);
    assert_eq!(head.size, 10);
}

#[tokio::test]
async fn events_are_listed_by_what_they_are_and_never_changed() {
    let world = World::new().await;
    append(&world.db, 2).await;
    world.token(1, None).await;
    let listed = |text: &str, order| {
        let filter = EventFilter::try_from(&text.parse::<Filter>().unwrap()).unwrap();
        let db = world.db.clone();
        async move {
            let events = audit_log::list(&db, filter, order, None, 10).await.unwrap();
            events.into_iter().map(|event| event.action).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("action=join_token.*,actor=system", Order::Ascending).await, ["join_token.create"]);
    assert_eq!(listed("", Order::Descending).await[0], "join_token.create");
    // An underscore is itself, not a pattern.
    assert_eq!(listed("action=join%*", Order::Ascending).await, Vec::<String>::new());
    let unknown = EventFilter::try_from(&"colour=red".parse::<Filter>().unwrap()).unwrap_err().to_string();
    assert!(unknown.contains("actor, action, resource, outcome, since, until"), "{unknown}");
    for wrong in ["since=yesterday", "outcome=maybe", "actor=a,actor=b", "until=2026*"] {
        assert!(EventFilter::try_from(&wrong.parse::<Filter>().unwrap()).is_err(), "{wrong}");
    }
    assert_eq!(listed("since=2100-01-01T00:00:00Z", Order::Ascending).await, Vec::<String>::new());
    assert_eq!(listed("until=2100-01-01T00:00:00Z,action=fleet.*", Order::Ascending).await, ["fleet.create"]);
    for statement in ["UPDATE audit_events SET actor = 'x'", "DELETE FROM audit_nodes", "TRUNCATE audit_events"] {
        let changed = sqlx_error(&world.db, statement).await;
        assert!(changed.contains("append-only"), "{changed}");
    }
}

async fn sqlx_error(db: &Db, statement: &'static str) -> String {
    let done: Result<(), Error> = db
        .observe("test", move |tx| {
            Box::pin(async move {
                sqlx::query(statement).execute(tx.connection()).await?;
                Ok(())
            })
        })
        .await;
    done.unwrap_err().chain()
}

/// What an append answers.
async fn append_refused(db: &Db) -> String {
    let done = db.write("append", Context::system(), |tx| {
        Box::pin(async move {
            tx.audit(Event::new("test.append", "test"));
            Ok::<_, Error>(())
        })
    });
    done.await.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_head_that_somebody_else_wrote_is_never_signed_on() {
    let world = World::new().await;
    append(&world.db, 5).await;
    world.sql("CREATE TABLE kept_head AS TABLE audit_head");
    append(&world.db, 5).await;
    world.sql("CREATE TABLE newest_head AS TABLE audit_head");
    let put = |table: &str| {
        let columns = "origin, verifier_key, size, frontier, root, checkpoint, time";
        world.sql(&format!("UPDATE audit_head SET ({columns}) = (SELECT {columns} FROM {table})"));
    };
    // A tree of other events, under the signature of the true one.
    world.sql("UPDATE audit_head SET frontier = sha256('x') || substring(frontier FROM 33)");
    assert!(append_refused(&world.db).await.contains("not the one that was signed"));
    put("newest_head");
    world.sql("UPDATE audit_head SET checkpoint = replace(checkpoint, E'\\n11\\n', E'\\n12\\n')");
    assert!(append_refused(&world.db).await.contains("not signed as it should be"));
    put("newest_head");
    world.sql("UPDATE audit_head SET verifier_key = 'x'");
    assert!(append_refused(&world.db).await.contains("names another key"));
    // An older head is signed: who committed a newer one knows better, and so does who has it from its own disk.
    put("kept_head");
    assert!(append_refused(&world.db).await.contains("rolled back"));
    put("newest_head");
    append(&world.db, 1).await;
    world.db.audit_key().unwrap().refuse("an anchor says otherwise");
    assert!(append_refused(&world.db).await.contains("an anchor says otherwise"));
}

#[tokio::test]
async fn no_row_hides_behind_another_of_its_number_or_behind_what_cannot_be_read() {
    let world = World::new().await;
    append(&world.db, 8).await;
    let read = async |first: u64, end: u64| {
        let mut reader = LogReader::new(world.db.clone(), first, end);
        let mut sequences = Vec::new();
        loop {
            let rows = reader.read(3).await.unwrap();
            if rows.is_empty() {
                return sequences;
            }
            sequences.extend(rows.into_iter().map(|row| row.sequence));
        }
    };
    assert_eq!(read(0, 9).await, (0..9).collect::<Vec<_>>());
    assert_eq!(read(4, 6).await, [4, 5]);
    assert!(read(9, 9).await.is_empty());
    world.sql("ALTER TABLE audit_events DISABLE TRIGGER append_only");
    world.sql("ALTER TABLE audit_events DROP CONSTRAINT audit_events_pkey, DROP CONSTRAINT audit_events_outcome_check");
    world.sql("ALTER TABLE audit_events ALTER actor DROP NOT NULL");
    // At the end of what is read at once, where paging would pass it by.
    world.sql("INSERT INTO audit_events SELECT * FROM audit_events WHERE sequence = 2");
    assert_eq!(read(0, 9).await, [0, 1, 2, 2, 3, 4, 5, 6, 7, 8]);
    world
        .sql("UPDATE audit_events SET time = 'infinity', outcome = 'x', actor = NULL, detail = '7' WHERE sequence = 4");
    let row = audit_log::event(&world.db, 4).await.unwrap().unwrap();
    assert!(!row.is_as_hashed() && row.record().is_none());
}
