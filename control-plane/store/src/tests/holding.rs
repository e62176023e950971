//! Transfers that are held, and those that have a deadline.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proto_model::{
    TransferError, TransferId, TransferProgress, TransferReport, TransferRole, TransferSpec, TransferState,
};

use super::{transfers::spec, world::World};
use crate::{
    Context, Error,
    transfers::{self, CannotHold, RefuseTransfer, Standing, Transfer, TransferFilter},
};

const DAY: Duration = Duration::from_hours(24);

impl World {
    async fn pause(&self, id: TransferId, reason: &str) -> Result<Transfer, CannotHold> {
        let reason = reason.to_owned();
        let pause = self.db.write("test", Context::system(), move |tx| {
            Box::pin(async move { transfers::pause(tx, id, reason).await })
        });
        pause.await.map_err(|error: Error| error).unwrap().unwrap()
    }

    async fn resume(&self, id: TransferId) -> Result<Transfer, CannotHold> {
        let resume = self
            .db
            .write("test", Context::system(), move |tx| Box::pin(async move { transfers::resume(tx, id).await }));
        resume.await.map_err(|error: Error| error).unwrap().unwrap()
    }

    async fn standing(&self, id: TransferId) -> Standing {
        transfers::find(&self.db, id).await.unwrap().unwrap().standing
    }

    /// The transfer as a full list of jobs has it for each end: held or not, and by which order.
    async fn told(&self, transfer: &Transfer) -> Vec<(bool, u64)> {
        let mut told = Vec::new();
        for node in [transfer.source, transfer.destination] {
            let jobs = transfers::jobs(&self.db, node, None).await.unwrap().jobs;
            told.extend(jobs.iter().map(|job| (job.pause, job.order.value())));
        }
        told
    }

    fn actions(&self) -> String {
        let select = "SELECT coalesce(string_agg(action, ' ' ORDER BY sequence), '') FROM audit_events WHERE action LIKE 'transfer.%'";
        self.sql(select)
    }
}

async fn accepted(deadline: Option<TimeDelta>) -> (World, Transfer) {
    let world = World::new().await;
    world.node("a").await;
    world.node("b").await;
    let mut spec = spec("a", "b");
    spec.options.deadline = deadline.map(|in_time| world.db.clock().utc() + in_time);
    let transfer = world.create(spec).await.unwrap().transfer;
    (world, transfer)
}

fn waits(id: TransferId, reason: &str) -> TransferReport {
    TransferReport {
        state: TransferState::Waiting,
        error: Some(TransferError::new(reason, "…")),
        ..TransferReport::new(id, TransferRole::Sender)
    }
}

#[tokio::test]
async fn a_pause_is_told_to_both_ends_until_it_is_over_whatever_they_report() {
    let (world, transfer) = accepted(None).await;
    let (id, sender) = (transfer.id, transfer.source);
    let before = transfers::jobs(&world.db, sender, None).await.unwrap().until;
    let paused = world.pause(id, "the line is needed").await.unwrap();
    assert_eq!(paused.standing.present(), TransferState::Paused);
    // Once, and in the first one's words.
    let again = world.pause(id, "another reason").await.unwrap();
    assert_eq!(again.standing, paused.standing);
    let pause = again.standing.pause.unwrap();
    assert_eq!((pause.by.as_str(), pause.reason.as_str()), ("system", "the line is needed"));
    let news = transfers::jobs(&world.db, sender, Some(before)).await.unwrap().jobs;
    assert!(matches!(news.as_slice(), [job] if job.pause && !job.cancel));
    let orders = world.told(&transfer).await;
    assert!(matches!(orders.as_slice(), [(true, of_sender), (true, of_receiver)] if of_sender == of_receiver));

    // What was under way is still said, and changes nothing of it; that the sender stands still is seen.
    let running = TransferReport { state: TransferState::Running, ..TransferReport::new(id, TransferRole::Sender) };
    transfers::report(&world.db, sender, &running).await.unwrap();
    assert!(!world.standing(id).await.is_at_rest());
    transfers::report(&world.db, sender, &waits(id, "PAUSED")).await.unwrap();
    let standing = world.standing(id).await;
    assert_eq!((standing.present(), standing.is_at_rest()), (TransferState::Paused, true));
    let found = |state| TransferFilter { state: Some(state), node: None };
    for (state, count) in [(TransferState::Paused, 1), (TransferState::Waiting, 0)] {
        assert_eq!(transfers::page(&world.db, &found(state), None, 9).await.unwrap().len(), count, "{state}");
    }
    assert_eq!(transfers::active(&world.db).await.unwrap(), [("paused".to_owned(), 1)]);

    let resumed = world.resume(id).await.unwrap();
    assert_eq!((resumed.standing.present(), &resumed.standing.error), (TransferState::Waiting, &None));
    assert_eq!(world.resume(id).await.unwrap().standing, resumed.standing);
    let newer = world.told(&transfer).await;
    assert!(newer.iter().all(|(pause, order)| !pause && *order > orders[0].1), "{newer:?}");
    assert_eq!(world.actions(), "transfer.create transfer.pause transfer.resume");
    let reason = "SELECT detail ->> 'reason' FROM audit_events WHERE action = 'transfer.pause'";
    assert_eq!(world.sql(reason), "the line is needed");
}

#[tokio::test]
async fn what_has_ended_is_neither_paused_nor_resumed_and_an_end_ends_a_pause() {
    let (world, transfer) = accepted(None).await;
    let id = transfer.id;
    world.pause(id, "").await.unwrap();
    let done = TransferReport { state: TransferState::Succeeded, ..TransferReport::new(id, TransferRole::Sender) };
    transfers::report(&world.db, transfer.source, &done).await.unwrap();
    let standing = world.standing(id).await;
    assert_eq!((standing.present(), standing.pause), (TransferState::Succeeded, None));
    let ended = CannotHold::Ended(TransferState::Succeeded);
    assert_eq!(world.pause(id, "").await, Err(ended));
    assert_eq!(world.resume(id).await, Err(ended));
    // Nothing of a refusal is left.
    assert_eq!(world.actions(), "transfer.create transfer.pause transfer.end");
}

#[tokio::test]
async fn a_pause_that_outlives_the_grant_is_said_to_be_the_reason() {
    let (world, transfer) = accepted(None).await;
    world.pause(transfer.id, "").await.unwrap();
    world.hand.advance(7 * DAY);
    assert_eq!(world.resume(transfer.id).await, Err(CannotHold::GrantOver(transfer.grant_expire_time)));
    transfers::expire(&world.db).await.unwrap();
    let error = world.standing(transfer.id).await.error.unwrap();
    assert_eq!(error.reason, "GRANT_EXPIRED");
    assert!(error.message.contains("while the transfer was paused (by system, since "), "{}", error.message);
}

#[tokio::test]
async fn a_deadline_ends_what_has_not_ended_also_while_it_is_paused() {
    let hour = TimeDelta::hours(1);
    let (world, transfer) = accepted(Some(hour)).await;
    let (id, deadline) = (transfer.id, transfer.create_time + hour);
    assert_eq!(transfer.spec.options.deadline, Some(deadline));
    // Both ends know it by the grant.
    let job = transfers::jobs(&world.db, transfer.source, None).await.unwrap().jobs.remove(0);
    let grant = proto_wire::grant::open(&world.keys.grant().verifying_key(), &job.grant).unwrap();
    assert_eq!(grant.options.deadline, Some(deadline));
    let progress = TransferProgress { bytes_done: 5.into(), bytes_total: 9.into(), ..TransferProgress::default() };
    let report = TransferReport { progress, ..waits(id, "PEER_UNREACHABLE") };
    transfers::report(&world.db, transfer.source, &report).await.unwrap();
    world.pause(id, "").await.unwrap();

    world.hand.advance(Duration::from_hours(1));
    assert_eq!(world.resume(id).await, Err(CannotHold::DeadlinePassed(deadline)));
    // The sender may say so first.
    transfers::end_overdue(&world.db).await.unwrap();
    assert_eq!(world.standing(id).await.present(), TransferState::Paused);
    world.hand.advance(Duration::from_secs(3));
    transfers::end_overdue(&world.db).await.unwrap();
    let ended = world.standing(id).await;
    let error = ended.error.unwrap();
    assert_eq!((ended.state, error.reason.as_str()), (TransferState::Failed, "DEADLINE_EXCEEDED"));
    assert!(error.message.contains("by then 5 of 9 or more bytes"), "{}", error.message);
    assert!(transfers::jobs(&world.db, transfer.destination, None).await.unwrap().jobs[0].cancel);
    // Who stops as it is told contradicts nothing.
    let stopped = TransferReport { state: TransferState::Cancelled, ..TransferReport::new(id, TransferRole::Sender) };
    transfers::report(&world.db, transfer.source, &stopped).await.unwrap();
    assert_eq!(world.actions(), "transfer.create transfer.pause transfer.end");
}

#[tokio::test]
async fn a_deadline_lies_between_now_and_the_end_of_the_grant() {
    let world = World::new().await;
    world.node("a").await;
    world.node("b").await;
    let now = world.db.clock().utc();
    let at = |deadline: DateTime<Utc>| {
        let mut spec: TransferSpec = spec("a", "b");
        spec.options.deadline = Some(deadline);
        world.create(spec)
    };
    assert!(matches!(at(now).await, Err(RefuseTransfer::DeadlinePassed { .. })));
    let late = at(now + TimeDelta::days(7) + TimeDelta::seconds(1)).await;
    assert!(matches!(late, Err(RefuseTransfer::DeadlineAfterGrant(_))));
    assert_eq!(world.sql("SELECT count(*) FROM transfers"), "0");
    at(now + TimeDelta::days(7)).await.unwrap();
}
