//! Refusals are counted, and recorded at most once a minute.

use std::{net::Ipv4Addr, time::Duration};

use super::world::World;
use crate::{Actor, Refusal, Refusals};

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
