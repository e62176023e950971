//! Transfers that are held, and those that have a deadline.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proto_model::{
    HostFacts, TransferError, TransferId, TransferProgress, TransferReport, TransferRole, TransferSpec, TransferState,
};

use uuid::Uuid;

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
    transfers::expire(&world.db, Uuid::nil()).await.unwrap();
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
    let report = TransferReport { progress, ..waits(id, "PAUSED") };
    transfers::report(&world.db, transfer.source, &report).await.unwrap();

    world.hand.advance(Duration::from_hours(1));
    assert_eq!(world.resume(id).await, Err(CannotHold::DeadlinePassed(deadline)));
    // The sender may say so first. Where it is does not matter, nor how long the server is there: it stands still.
    let server = world.server().await;
    transfers::end_overdue(&world.db, server).await.unwrap();
    assert_eq!(world.standing(id).await.present(), TransferState::Paused);
    world.hand.advance(Duration::from_secs(3));
    transfers::end_overdue(&world.db, server).await.unwrap();
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
async fn who_is_away_at_the_deadline_has_a_while_to_come_back_and_say_how_it_ended() {
    let (world, transfer) = accepted(Some(TimeDelta::hours(1))).await;
    let id = transfer.id;
    let is_over = async |server| {
        transfers::expire(&world.db, server).await.unwrap();
        transfers::end_overdue(&world.db, server).await.unwrap();
        world.standing(id).await.state.is_end()
    };
    let old = world.server().await;
    world.hand.advance(Duration::from_hours(1) + Duration::from_secs(60));
    assert!(!is_over(old).await, "the sender may come back");
    world.hand.advance(Duration::from_hours(1));
    let new = world.server().await;
    assert!(!is_over(new).await, "a server that has just begun knows nobody yet");
    // One that is back and has said nothing has nothing to say.
    world.connect(new, transfer.source, HostFacts::default()).await;
    world.hand.advance(Duration::from_secs(29));
    assert!(!is_over(new).await, "it has just come back");
    world.hand.advance(Duration::from_secs(1));
    assert!(is_over(new).await);

    // One that never comes back is not waited for.
    world.node("c").await;
    let mut spec = spec("b", "c");
    spec.options.deadline = Some(world.db.clock().utc() + TimeDelta::hours(1));
    let lost = world.create(spec).await.unwrap().transfer.id;
    world.hand.advance(Duration::from_hours(1) + Duration::from_secs(119));
    transfers::end_overdue(&world.db, new).await.unwrap();
    assert_eq!(world.standing(lost).await.state, TransferState::Pending);
    world.hand.advance(Duration::from_secs(1));
    transfers::end_overdue(&world.db, new).await.unwrap();
    assert_eq!(world.standing(lost).await.error.unwrap().reason, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_success_by_the_deadline_stands_though_it_is_heard_after_it_was_said_to_have_passed() {
    let hour = TimeDelta::hours(1);
    let (world, transfer) = accepted(Some(hour)).await;
    let mut second = spec("a", "b");
    second.options.deadline = transfer.spec.options.deadline;
    let second = world.create(second).await.unwrap().transfer.id;
    let server = world.server().await;
    world.hand.advance(Duration::from_hours(2));
    transfers::end_overdue(&world.db, server).await.unwrap();
    let deadline = transfer.create_time + hour;
    let done = |id, end: DateTime<Utc>| TransferReport {
        state: TransferState::Succeeded,
        end_time: Some(end),
        ..TransferReport::new(id, TransferRole::Sender)
    };
    for (id, end) in [(transfer.id, deadline), (second, deadline + TimeDelta::milliseconds(1))] {
        let failed = world.standing(id).await;
        assert_eq!((failed.state, failed.error.unwrap().reason.as_str()), (TransferState::Failed, "DEADLINE_EXCEEDED"));
        for _twice in 0..2 {
            transfers::report(&world.db, transfer.source, &done(id, end)).await.unwrap();
        }
    }
    let stands = world.standing(transfer.id).await;
    assert_eq!((stands.state, stands.error, stands.end_time), (TransferState::Succeeded, None, Some(deadline)));
    assert_eq!(world.standing(second).await.state, TransferState::Failed, "it was too late");
    let ends = format!(
        "SELECT string_agg((detail ->> 'state') || ' ' || coalesce(detail ->> 'reason', detail ->> 'instead_of'), ', ' ORDER BY sequence) \
         FROM audit_events WHERE action = 'transfer.end' AND resource = 'transfers/{}'",
        transfer.id
    );
    assert_eq!(world.sql(&ends), "failed DEADLINE_EXCEEDED, succeeded DEADLINE_EXCEEDED");
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
