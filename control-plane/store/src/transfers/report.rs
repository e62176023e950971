//! What an end reports, and what it makes of the transfer.

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use prost::Message;
use proto_model::{NodeUid, TransferError, TransferId, TransferReport, TransferRole, TransferState};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Ends, Expiry, Standing, Transfer, lock, role_word, state_word};
use crate::{Context, Db, Error, Event, Tx, Unaudited};

/// Progress of one transfer is written at most so often (D13).
const PROGRESS_INTERVAL: TimeDelta = TimeDelta::seconds(1);

/// The receiver's share of that: the sender's figures are those that people look at.
const RECEIVER_INTERVAL: TimeDelta = TimeDelta::seconds(5);

/// Transfers that are ended in one transaction when their time is over; the next sweep takes the rest.
const MAX_EXPIRED_AT_ONCE: i64 = 200;

/// How long a sender that is there has to say by itself that the deadline passed: it knows more of what was done.
const DEADLINE_GRACE: TimeDelta = TimeDelta::seconds(3);

/// A sender whose session is younger than this is not taken to have said all that it has to say.
const SETTLED: TimeDelta = TimeDelta::seconds(30);

/// How long a sender that is away has, after the deadline, to come back and say how it ended; and how long a server is there before it
/// says that somebody is away.
const AWAY_GRACE: TimeDelta = TimeDelta::minutes(2);

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It is stored, or was before.
    Taken,
    /// Progress was written within the last second: try again in a moment.
    TooSoon,
    /// There is no such transfer.
    Unknown,
    /// The node does not have this role in this transfer.
    NotItsOwn,
}

pub(super) fn decode(bytes: Option<Vec<u8>>) -> Result<Option<Box<TransferReport>>, Error> {
    let Some(bytes) = bytes else { return Ok(None) };
    let report = proto_rpc::agent::TransferReport::decode(bytes.as_slice()).ok();
    let report = report.and_then(|report| TransferReport::try_from(report).ok());
    report.map(|report| Some(Box::new(report))).ok_or(Error::Damaged("transfer's report"))
}

impl Transfer {
    /// What an end last reported.
    #[must_use]
    pub fn end(&self, role: TransferRole) -> Option<&TransferReport> {
        match role {
            TransferRole::Sender => self.sender.as_deref(),
            TransferRole::Receiver => self.receiver.as_deref(),
        }
    }

    /// Whether a node has this role in this transfer.
    #[must_use]
    pub fn is_end_of(&self, node: NodeUid, role: TransferRole) -> bool {
        match role {
            TransferRole::Sender => self.source == node,
            TransferRole::Receiver => self.destination == node,
        }
    }

    /// How far it is by a report; `None` when that changes nothing.
    fn after(&self, report: &TransferReport, now: DateTime<Utc>) -> Option<Standing> {
        let late = || self.spec.options.deadline.and_then(|deadline| self.standing.on_late_success(report, deadline));
        self.standing.on_report(report, now).or_else(late)
    }

    /// Whether an end has ended; that report is never replaced.
    #[must_use]
    pub fn has_ended(&self, role: TransferRole) -> bool {
        self.end(role).is_some_and(|report| report.state.is_end())
    }
}

/// Takes a node's report. The end of a transfer is one record in the audit log; what its other end says is a second one only where it
/// says something else, and is stored beside it otherwise.
///
/// # Errors
/// The database failed; the report may come again.
pub async fn report(db: &Db, node: NodeUid, report: &TransferReport) -> Result<Reported, Error> {
    let report = report.clone();
    if !report.state.is_end() {
        return db
            .observe("transfers.progress", move |tx| async move { take_progress(tx, node, &report).await }.boxed())
            .await;
    }
    let quiet = report.clone();
    let quiet =
        db.observe("transfers.word", move |tx| async move { take_word(tx, node, &quiet).await }.boxed()).await?;
    if let Some(reported) = quiet {
        return Ok(reported);
    }
    db.write("transfers.end", Context::system(), move |tx| async move { take_end(tx, node, &report).await }.boxed())
        .await
}

/// What may be said of an end by this node now; or why nothing is to be done.
async fn open_end(
    connection: &mut PgConnection,
    node: NodeUid,
    report: &TransferReport,
) -> Result<Result<Transfer, Reported>, Error> {
    let Some(transfer) = lock(connection, report.transfer).await? else { return Ok(Err(Reported::Unknown)) };
    if !transfer.is_end_of(node, report.role) {
        return Ok(Err(Reported::NotItsOwn));
    }
    Ok(if transfer.has_ended(report.role) { Err(Reported::Taken) } else { Ok(transfer) })
}

/// Takes an end that needs no record; `None` for one that does.
async fn take_word(tx: &mut Unaudited, node: NodeUid, report: &TransferReport) -> Result<Option<Reported>, Error> {
    let transfer = match open_end(tx.connection(), node, report).await? {
        Ok(transfer) => transfer,
        Err(reported) => return Ok(Some(reported)),
    };
    let now = tx.now();
    if transfer.after(report, now).is_some() || contradicts(&transfer, report) {
        return Ok(None);
    }
    write_end(tx.connection(), report, now).await?;
    write_standing(tx, report.transfer, &transfer.standing, Moved { jobs: true }).await?;
    Ok(Some(Reported::Taken))
}

/// Whether an end says something else than how the transfer ended.
fn contradicts(transfer: &Transfer, report: &TransferReport) -> bool {
    let Standing { state, error, .. } = &transfer.standing;
    // Who is told to stop because the deadline passed does what it is told.
    let late = error.as_ref().is_some_and(|error| error.reason == TransferError::DEADLINE_EXCEEDED);
    let stopped = late && report.state == TransferState::Cancelled;
    state.is_end() && report.state != *state && !stopped
}

/// An end is kept for good; the sender's first one is the transfer's.
async fn take_end(tx: &mut Tx, node: NodeUid, report: &TransferReport) -> Result<Reported, Error> {
    let mut transfer = match open_end(tx.connection(), node, report).await? {
        Ok(transfer) => transfer,
        Err(reported) => {
            tx.discard();
            return Ok(reported);
        }
    };
    let now = tx.now();
    write_end(tx.connection(), report, now).await?;
    let next = transfer.after(report, now);
    let event = end_event(&transfer, report);
    // What was said of it without a report is put right.
    let event = match transfer.standing.error.as_ref().filter(|_| next.is_some() && transfer.standing.state.is_end()) {
        Some(error) => event.with("instead_of", error.reason.clone()),
        None => event,
    };
    let ends = next.as_ref().is_some_and(|standing| standing.state.is_end());
    transfer.standing = next.unwrap_or(transfer.standing);
    tx.audit(event);
    // What the other end said before.
    let other = match report.role {
        TransferRole::Sender => TransferRole::Receiver,
        TransferRole::Receiver => TransferRole::Sender,
    };
    if let Some(other) = transfer.end(other).filter(|other| other.state.is_end())
        && ends
        && contradicts(&transfer, other)
    {
        tx.audit(end_event(&transfer, other));
    }
    write_standing(tx.unaudited(), report.transfer, &transfer.standing, Moved { jobs: true }).await?;
    if ends {
        tx.after_commit(move || count(&transfer));
    }
    Ok(Reported::Taken)
}

fn end_event(transfer: &Transfer, report: &TransferReport) -> Event {
    let node = match report.role {
        TransferRole::Sender => &transfer.source_name,
        TransferRole::Receiver => &transfer.destination_name,
    };
    let event = Event::new("transfer.end", report.transfer.resource_name())
        .with("node", node.resource_name())
        .with("role", role_word(report.role))
        .with("state", state_word(report.state))
        .with("issueCount", report.issue_count)
        .in_trace(&transfer.trace_id);
    match &report.error {
        Some(error) => event.with("reason", error.reason.clone()),
        None => event,
    }
}

/// Progress moves the state of a transfer that has not ended, and is never audited.
async fn take_progress(tx: &mut Unaudited, node: NodeUid, report: &TransferReport) -> Result<Reported, Error> {
    let Some(transfer) = lock(tx.connection(), report.transfer).await? else { return Ok(Reported::Unknown) };
    if !transfer.is_end_of(node, report.role) {
        return Ok(Reported::NotItsOwn);
    }
    if transfer.has_ended(report.role) || transfer.standing.state.is_end() {
        return Ok(Reported::Taken);
    }
    let now = tx.now();
    let next = transfer.standing.on_report(report, now);
    let decides = next.is_some() || transfer.end(report.role).is_none_or(|held| held.state != report.state);
    if !decides && too_soon(tx.connection(), report, now).await? {
        return Ok(Reported::TooSoon);
    }
    write_end(tx.connection(), &with_figures(report, &transfer), now).await?;
    let standing = next.unwrap_or(transfer.standing);
    write_standing(tx, report.transfer, &standing, Moved { jobs: false }).await?;
    Ok(Reported::Taken)
}

/// An end that was started anew while it is held does not know how far it was: what it said before stands.
fn with_figures(report: &TransferReport, transfer: &Transfer) -> TransferReport {
    let is_held = report.error.as_ref().is_some_and(|error| error.reason == TransferError::PAUSED);
    let before = transfer.end(report.role).filter(|_| is_held && report.progress.files_total == 0);
    let progress = before.map_or(report.progress, |before| before.progress);
    TransferReport { progress, ..report.clone() }
}

async fn too_soon(connection: &mut PgConnection, report: &TransferReport, now: DateTime<Utc>) -> Result<bool, Error> {
    let times: (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
        sqlx::query_as("SELECT progress_time, receiver_progress_time FROM transfers WHERE id = $1")
            .bind(report.transfer.uuid())
            .fetch_one(connection)
            .await?;
    let within = |time: Option<DateTime<Utc>>, interval| time.is_some_and(|time| now - time < interval);
    Ok(within(times.0, PROGRESS_INTERVAL)
        || (report.role == TransferRole::Receiver && within(times.1, RECEIVER_INTERVAL)))
}

/// Keeps the report, unless the end it is of has ended.
async fn write_end(connection: &mut PgConnection, report: &TransferReport, now: DateTime<Utc>) -> Result<(), Error> {
    let bytes = proto_rpc::agent::TransferReport::from(report.clone()).encode_to_vec();
    sqlx::query(
        "INSERT INTO transfer_ends (transfer, role, ended, report, update_time) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (transfer, role) DO UPDATE SET ended = $3, report = $4, update_time = $5 WHERE NOT transfer_ends.ended",
    )
    .bind(report.transfer.uuid())
    .bind(role_word(report.role))
    .bind(report.state.is_end())
    .bind(bytes)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE transfers SET progress_time = $2, \
         receiver_progress_time = CASE WHEN $3 THEN $2 ELSE receiver_progress_time END WHERE id = $1",
    )
    .bind(report.transfer.uuid())
    .bind(now)
    .bind(report.role == TransferRole::Receiver)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether what the ends should do changed too.
pub(super) struct Moved {
    pub(super) jobs: bool,
}

pub(super) async fn write_standing(
    tx: &mut Unaudited,
    id: TransferId,
    standing: &Standing,
    moved: Moved,
) -> Result<(), Error> {
    let now = tx.now();
    let revision = tx.next_revision().await?.value().cast_signed();
    let error = standing.error.as_ref();
    let pause = standing.pause.as_ref();
    sqlx::query(
        "UPDATE transfers SET state = $2, error_reason = $3, error_message = $4, start_time = $5, end_time = $6, \
         update_time = $7, revision = $8, job_revision = CASE WHEN $9 THEN $8 ELSE job_revision END, \
         pause_time = $10, paused_by = $11, pause_reason = $12 WHERE id = $1",
    )
    .bind(id.uuid())
    .bind(state_word(standing.state))
    .bind(error.map_or("", |error| error.reason.as_str()))
    .bind(error.map_or("", |error| error.message.as_str()))
    .bind(standing.start_time)
    .bind(standing.end_time)
    .bind(now)
    .bind(revision)
    .bind(moved.jobs)
    .bind(pause.map(|pause| pause.since))
    .bind(pause.map_or("", |pause| pause.by.as_str()))
    .bind(pause.map_or("", |pause| pause.reason.as_str()))
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// A transfer that cannot be cancelled any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HasEnded(pub TransferState);

/// Stops a transfer. Cancelled already is fine, and changes nothing; `None` when there is no such transfer.
///
/// # Errors
/// The database failed.
pub async fn cancel(tx: &mut Tx, id: TransferId) -> Result<Option<Result<Transfer, HasEnded>>, Error> {
    let Some(mut transfer) = lock(tx.connection(), id).await? else {
        tx.discard();
        return Ok(None);
    };
    let Some(standing) = transfer.standing.on_cancel(tx.now()) else {
        tx.discard();
        let state = transfer.standing.state;
        let answer = if state == TransferState::Cancelled { Ok(transfer) } else { Err(HasEnded(state)) };
        return Ok(Some(answer));
    };
    tx.audit(Event::new("transfer.cancel", id.resource_name()));
    write_standing(tx.unaudited(), id, &standing, Moved { jobs: true }).await?;
    transfer.standing = standing;
    transfer.update_time = tx.now();
    let counted = transfer.clone();
    tx.after_commit(move || count(&counted));
    Ok(Some(Ok(transfer)))
}

/// Ends transfers that can no longer go on: the deadline passed, the grant's time is over, or an end was revoked. Any server may do so at
/// any time; this one knows whose sessions it has, and since when.
///
/// # Errors
/// The database failed.
pub async fn expire(db: &Db, server: Uuid) -> Result<(), Error> {
    let now = db.clock().utc();
    let found = db.read(move |connection| hopeless(connection, server, now).boxed()).await?;
    if found.is_empty() { Ok(()) } else { end_hopeless(db, server).await }
}

/// The same, where a deadline passed: looked for so often that it may be asked for every few seconds.
///
/// # Errors
/// The database failed.
pub async fn end_overdue(db: &Db, server: Uuid) -> Result<(), Error> {
    let due = db.clock().utc() - DEADLINE_GRACE;
    let select = "SELECT EXISTS (SELECT FROM transfers WHERE end_time IS NULL AND deadline <= $1)";
    let overdue = sqlx::query_scalar(select).bind(due);
    let overdue: bool =
        db.read(move |connection| async move { Ok(overdue.fetch_one(connection).await?) }.boxed()).await?;
    if overdue { expire(db, server).await } else { Ok(()) }
}

async fn end_hopeless(db: &Db, server: Uuid) -> Result<(), Error> {
    db.write("transfers.expire", Context::system(), move |tx| {
        async move {
            let now = tx.now();
            let found = hopeless(tx.connection(), server, now).await?;
            // Another server, or a report, was first.
            if end_without_a_report(tx, found).await? == 0 {
                tx.discard();
            }
            Ok(())
        }
        .boxed()
    })
    .await
}

/// Ends what names a node that is being removed, as far as one transaction bears it; [`expire`] takes the rest. After the node's row
/// was locked, and before any revision is taken.
pub(crate) async fn end_of_node(tx: &mut Tx, node: NodeUid) -> Result<(), Error> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM transfers WHERE end_time IS NULL AND (source = $1 OR destination = $1) ORDER BY id LIMIT $2",
    )
    .bind(node.uuid())
    .bind(MAX_EXPIRED_AT_ONCE)
    .fetch_all(tx.connection())
    .await?;
    let found = ids.into_iter().map(|id| (TransferId::new(id), Expiry::NodeRevoked)).collect();
    end_without_a_report(tx, found).await.map(|_ended| ())
}

/// How many of them this ended.
async fn end_without_a_report(tx: &mut Tx, found: Vec<(TransferId, Expiry)>) -> Result<usize, Error> {
    let now = tx.now();
    let mut ended = Vec::new();
    for (id, expiry) in found {
        let Some(mut transfer) = lock(tx.connection(), id).await? else { continue };
        let ends = Ends { sender: transfer.sender.as_deref(), receiver: transfer.receiver.as_deref() };
        let Some(standing) = transfer.standing.on_expiry(expiry, ends, now) else { continue };
        let event = Event::new("transfer.end", id.resource_name()).with("state", state_word(standing.state));
        let reason = standing.error.as_ref().map_or_else(String::new, |error| error.reason.clone());
        tx.audit(event.with("reason", reason).in_trace(&transfer.trace_id));
        transfer.standing = standing;
        ended.push(transfer);
    }
    // The revision counter comes after all rows.
    for transfer in &ended {
        write_standing(tx.unaudited(), transfer.id, &transfer.standing, Moved { jobs: true }).await?;
    }
    let count_of = ended.len();
    tx.after_commit(move || {
        for transfer in &ended {
            tracing::warn!(transfer = %transfer.id, error = ?transfer.standing.error, "Transfer can no longer go on");
            count(transfer);
        }
    });
    Ok(count_of)
}

/// What cannot go on any more. Past the deadline that is sure, as far as it can be, where the sender has said that it stands still, or
/// where it is there and says nothing; one that is away may have ended in time, and has a while to say so.
async fn hopeless(
    connection: &mut PgConnection,
    server: Uuid,
    now: DateTime<Utc>,
) -> Result<Vec<(TransferId, Expiry)>, Error> {
    let rows: Vec<(Uuid, bool, Option<DateTime<Utc>>)> = sqlx::query_as(
        "SELECT t.id, s.revoke_time IS NOT NULL OR d.revoke_time IS NOT NULL, t.deadline FROM transfers t JOIN nodes s ON s.uid = t.source \
         JOIN nodes d ON d.uid = t.destination \
         WHERE t.end_time IS NULL AND (s.revoke_time IS NOT NULL OR d.revoke_time IS NOT NULL \
         OR (t.deadline IS NULL AND t.grant_expire_time <= $1) OR (t.deadline <= $3 AND ( \
         (t.pause_time IS NOT NULL AND t.error_reason = $4) \
         OR EXISTS (SELECT FROM node_sessions n WHERE n.node = t.source AND n.server = $5 AND n.connect_time <= $6) \
         OR (t.deadline <= $7 AND EXISTS (SELECT FROM servers v WHERE v.id = $5 AND v.start_time <= $7))))) \
         ORDER BY t.id LIMIT $2",
    )
    .bind(now)
    .bind(MAX_EXPIRED_AT_ONCE)
    .bind(now - DEADLINE_GRACE)
    .bind(TransferError::PAUSED)
    .bind(server)
    .bind(now - SETTLED)
    .bind(now - AWAY_GRACE)
    .fetch_all(connection)
    .await?;
    let expiry = |revoked, deadline: Option<DateTime<Utc>>| match deadline.filter(|deadline| *deadline <= now) {
        _ if revoked => Expiry::NodeRevoked,
        // It is never after the end of the grant.
        Some(deadline) => Expiry::DeadlineExceeded(deadline),
        None => Expiry::GrantExpired,
    };
    let expired = |(id, revoked, deadline)| (TransferId::new(id), expiry(revoked, deadline));
    Ok(rows.into_iter().map(expired).collect())
}

/// Makes the counters appear before the first end, so that a rate has something to begin with.
pub fn show_counters() {
    for outcome in
        [TransferState::Succeeded, TransferState::SucceededInPart, TransferState::Failed, TransferState::Cancelled]
    {
        metrics::counter!("dwcp_transfers_total", "outcome" => state_word(outcome)).increment(0);
    }
}

/// Counts an end, once, where it was stored.
fn count(transfer: &Transfer) {
    metrics::counter!("dwcp_transfers_total", "outcome" => state_word(transfer.standing.state)).increment(1);
    if let (Some(start), Some(end)) = (transfer.standing.start_time, transfer.standing.end_time)
        && let Ok(duration) = (end - start).to_std()
    {
        metrics::histogram!("dwcp_transfer_duration_seconds").record(duration.as_secs_f64());
    }
}
