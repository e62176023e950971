//! Refusals are counted, and recorded at most once a minute.

use std::time::Duration;

use super::world::World;
use crate::{Actor, Refusals};

#[tokio::test]
async fn many_refusals_are_few_records() {
    let world = World::new().await;
    let tasks = world.tasks.child("refusals");
    let refusals = Refusals::start(world.db.clone(), &tasks);
    let mut bell = world.db.bell();
    refusals.note(Actor::Anonymous, "call", "dwcp.v1.NodeService/ListNodes", "an unknown token", "");
    let counts = || world.sql("SELECT detail->>'count' FROM audit_events WHERE outcome = 'refused' ORDER BY sequence");
    while counts().is_empty() {
        bell.changed().await.unwrap();
    }
    for _ in 0..500 {
        refusals.note(Actor::Anonymous, "call", "dwcp.v1.NodeService/ListNodes", "an unknown token", "");
    }
    // What is left is written at the end, whatever the time.
    tasks.shutdown(Duration::from_secs(20)).await.unwrap();
    assert_eq!(counts(), "1\n500");
}
