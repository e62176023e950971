//! Refusals are counted, and recorded at most once a minute.

use std::{net::Ipv4Addr, time::Duration};

use tokio::sync::oneshot;

use super::world::World;
use crate::{Actor, Context, Error, Event, Refusal, Refusals};

fn unknown_token() -> Refusal<'static> {
    Refusal {
        actor: Actor::Anonymous,
        action: "call",
        resource: "dwcp.v1.NodeService/ListNodes",
        reason: "an unknown token",
        from: Some(Ipv4Addr::LOCALHOST.into()),
    }
}

#[tokio::test]
async fn many_refusals_are_few_records() {
    let world = World::new().await;
    let tasks = world.tasks.child("refusals");
    let refusals = Refusals::start(world.db.clone(), &tasks);
    let mut bell = world.db.bell();
    refusals.note(unknown_token(), "");
    let counts = || world.sql("SELECT detail->>'count' FROM audit_events WHERE outcome = 'refused' ORDER BY sequence");
    while counts().is_empty() {
        bell.changed().await.unwrap();
    }
    for number in 0..500_u32 {
        refusals.note(Refusal { from: Some(Ipv4Addr::from(number).into()), ..unknown_token() }, "");
    }
    // What is left is written at the end, whatever the time.
    tasks.shutdown(Duration::from_secs(20)).await.unwrap();
    assert_eq!(counts(), "1\n500");
    let from = world.sql("SELECT jsonb_array_length(detail->'from') FROM audit_events ORDER BY sequence DESC LIMIT 1");
    assert_eq!(from, "8");
}

#[tokio::test]
async fn names_without_end_take_neither_memory_nor_rows_without_end() {
    let world = World::new().await;
    let tasks = world.tasks.child("refusals");
    let refusals = Refusals::start(world.db.clone(), &tasks);
    for number in 0..20_000 {
        let name = format!("nodes/{number}{}", "x".repeat(number % 300));
        refusals.note(Refusal { resource: &name, ..unknown_token() }, "");
    }
    tasks.shutdown(Duration::from_secs(60)).await.unwrap();
    let rows =
        world.sql("SELECT count(*) <= 65, sum((detail->>'count')::int) FROM audit_events WHERE outcome = 'refused'");
    assert_eq!(rows, "t|20000");
}

#[tokio::test]
async fn an_end_in_the_middle_of_writing_loses_no_count() {
    let world = World::new().await;
    let tasks = world.tasks.child("refusals");
    let refusals = Refusals::start(world.db.clone(), &tasks);
    // Nobody appends while somebody else does.
    let ((held, holds), (release, released)) = (oneshot::channel(), oneshot::channel::<()>());
    let holding = world.db.write("test", Context::system(), |tx| {
        Box::pin(async move {
            let locked = sqlx::query("SELECT FROM audit_head FOR UPDATE").execute(tx.connection()).await;
            tx.audit(Event::new("test", "log"));
            held.send(()).unwrap();
            released.await.unwrap();
            locked.map(drop).map_err(Error::from)
        })
    });
    let ended = async {
        holds.await.unwrap();
        for resource in ["nodes/a", "nodes/b", "nodes/c"] {
            refusals.note(Refusal { resource, ..unknown_token() }, "");
        }
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while world.sql(waits) == "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::join!(tasks.shutdown(Duration::from_secs(20)), async { release.send(()).unwrap() })
    };
    let (wrote, (ended, ())) = tokio::join!(holding, ended);
    wrote.unwrap();
    ended.unwrap();
    assert_eq!(world.sql("SELECT count(*) FROM audit_events WHERE outcome = 'refused'"), "3");
}
