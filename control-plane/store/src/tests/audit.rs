//! The log is one chain, verifies, and its proofs do too.

use control_plane_audit as log;
use foundation_merkle::{Checkpoint, verify_consistency, verify_inclusion};
use proto_model::Filter;

use super::world::World;
use crate::{
    Context, Db, Error, Event,
    audit_log::{self, EventFilter, Head, Order, StoredEvent},
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
        assert_eq!(event.record.sequence, index);
        assert_eq!(event.record.leaf_bytes(), event.leaf, "columns and leaf say the same");
        assert_eq!(log::Record::from_leaf(&event.leaf).unwrap(), event.record);
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
        let sequence = event.record.sequence;
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
            events.into_iter().map(|event| event.record.action).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("action=join_token.*,actor=system", Order::Ascending).await, ["join_token.create"]);
    assert_eq!(listed("", Order::Descending).await[0], "join_token.create");
    // An underscore is itself, not a pattern.
    assert_eq!(listed("action=join%*", Order::Ascending).await, Vec::<String>::new());
    assert!(EventFilter::try_from(&"colour=red".parse::<Filter>().unwrap()).is_err());
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
