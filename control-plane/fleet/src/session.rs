//! One agent's session: what comes in is written down, what should be said is said, and its end is one of [`SessionEnd`].
//!
//! Three things run side by side in one task: the *reader* takes messages and writes what they say, the *sender* turns the outbox into
//! messages when the agent is ready for them, and the session's end may come from outside. None waits for another: an agent that does
//! not read still is heard, and one that says nothing still is told.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use control_plane_store::{
    Error, benches, node_records, sessions, sessions::Place, syncs, transfers, transfers::Reported,
};
use futures::{Stream, StreamExt, future::BoxFuture};
use proto_model::{Generation, NodeName, NodeUid};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    hub::Hub,
    message::{ConfigStatus, FromAgent, Hello, SessionEnd, ToAgent},
    outbox::{Kind, Outbox},
    pending::{Pending, Write},
    sender::Sender,
};

/// How often an agent should be heard.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// Three missed heartbeats and a little for the way: shorter would cut agents on paths that lose packets for a minute's half.
pub(crate) const SILENCE: Duration = Duration::from_secs(50);

/// The first message follows the handshake at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages between the sender and the connection: enough to fill its window, few enough that nothing grows stale in there.
pub(crate) const OUTGOING: usize = 4;

/// What is waited for at least, however long nothing was heard: a server that stood still itself looks into its sockets first.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// How long the last message may take to be handed over.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long writes rest after the database refused one.
const WRITE_RETRY: Duration = Duration::from_secs(2);

/// How long a report rests whose transfer was updated within the last second.
const PROGRESS_RETRY: Duration = Duration::from_millis(250);

/// A session as the hub knows it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: Uuid,
    pub(crate) node: NodeUid,
    pub(crate) name: NodeName,
    pub(crate) remote: String,
    pub(crate) outbox: Outbox,
    /// The newest desired configuration that was sent.
    sent: Mutex<Option<Sent>>,
    /// The head that the agent holds on to, having refused one.
    pub(crate) held_head: Mutex<Option<String>>,
    /// When the agent was last heard, Unix milliseconds.
    heard_ms: AtomicI64,
    end: OnceLock<SessionEnd>,
    ended: CancellationToken,
}

/// A desired configuration on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    nonce: u64,
    generation: Generation,
    at: Instant,
    is_answered: bool,
}

impl Session {
    pub(crate) fn new(id: Uuid, node: NodeUid, name: NodeName, remote: String, now_ms: i64) -> Self {
        Self {
            id,
            node,
            name,
            remote,
            outbox: Outbox::default(),
            sent: Mutex::new(None),
            held_head: Mutex::new(None),
            heard_ms: AtomicI64::new(now_ms),
            end: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Ends the session from outside; the first reason stands.
    pub(crate) fn finish(&self, end: SessionEnd) {
        let _first = self.end.set(end);
        self.ended.cancel();
    }

    pub(crate) fn heard_ms(&self) -> i64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    async fn finished(&self) -> SessionEnd {
        self.ended.cancelled().await;
        self.end.get().cloned().unwrap_or(SessionEnd::Replaced)
    }

    /// Notes what is sent.
    pub(crate) fn send_desired(&self, nonce: u64, generation: Generation, at: Instant) {
        *self.sent() = Some(Sent { nonce, generation, at, is_answered: false });
    }

    /// Since when a desired configuration waits for its answer: until then the agent is not given another.
    pub(crate) fn unanswered_since(&self) -> Option<Instant> {
        self.sent().filter(|sent| !sent.is_answered).map(|sent| sent.at)
    }

    /// The agent answered; a newer configuration may follow.
    fn on_answer(&self, nonce: u64) {
        if let Some(sent) = self.sent().as_mut().filter(|sent| sent.nonce == nonce) {
            sent.is_answered = true;
        }
        self.outbox.mark(Kind::Desired);
    }

    /// Which configuration an answer is for; `None` for an answer to one that a newer has replaced.
    fn answered(&self, status: &ConfigStatus) -> Option<Generation> {
        self.sent().filter(|sent| sent.nonce == status.nonce).map(|sent| sent.generation)
    }

    fn sent(&self) -> MutexGuard<'_, Option<Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a session from its first message to its end.
pub(crate) async fn run<S, E>(hub: Hub, node: NodeUid, remote: String, mut incoming: S, out: mpsc::Sender<Outgoing>)
where
    S: Stream<Item = Result<FromAgent, E>> + Send + Unpin,
    E: std::fmt::Display + Send,
{
    let end = match open(&hub, node, &remote, &mut incoming).await {
        Ok(Some((session, hello))) => {
            let end = drive(&hub, &session, &hello, remote, &mut incoming, &out).await;
            hub.leave(&session).await;
            end
        }
        Ok(None) => None,
        Err(end) => Some(end),
    };
    let Some(end) = end else { return };
    tracing::info!(node = %node, reason = %end, "The control plane ended a session");
    if let SessionEnd::Stopping(come_back) | SessionEnd::Busy(come_back) = &end {
        let come_back = ToAgent::ComeBack(come_back.clone());
        drop(tokio::time::timeout(FAREWELL, out.send(Ok(come_back))).await);
    }
    drop(tokio::time::timeout(FAREWELL, out.send(Err(end))).await);
}

/// What goes to the connection; an error closes it.
pub(crate) type Outgoing = Result<ToAgent, SessionEnd>;

/// Takes the Hello and registers the session; `None` when the agent went away before.
async fn open<S, E>(
    hub: &Hub,
    node: NodeUid,
    remote: &str,
    incoming: &mut S,
) -> Result<Option<(std::sync::Arc<Session>, Box<Hello>)>, SessionEnd>
where
    S: Stream<Item = Result<FromAgent, E>> + Send + Unpin,
    E: std::fmt::Display + Send,
{
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, incoming.next()).await {
        Err(_elapsed) => return Err(SessionEnd::Silent(HELLO_TIMEOUT.as_secs())),
        Ok(None) => return Ok(None),
        Ok(Some(Err(error))) => return Err(SessionEnd::Malformed(error.to_string())),
        Ok(Some(Ok(FromAgent::Hello(hello)))) => hello,
        Ok(Some(Ok(_other))) => {
            return Err(SessionEnd::Malformed("the first message of a session is Hello".to_owned()));
        }
    };
    let session = hub.join(node, remote, &hello).await?;
    Ok(Some((session, hello)))
}

/// Reads, sends, and waits for an end from outside, until the first of them is over; `None` when the agent closed by itself.
async fn drive<S, E>(
    hub: &Hub,
    session: &Session,
    hello: &Hello,
    remote: String,
    incoming: &mut S,
    out: &mpsc::Sender<Outgoing>,
) -> Option<SessionEnd>
where
    S: Stream<Item = Result<FromAgent, E>> + Send + Unpin,
    E: std::fmt::Display + Send,
{
    let mut sender = Sender::new(hub, session, hello, out);
    // Every arm may be dropped: what was taken from the outbox is told anew in the next session, and writes run in tasks of
    // their own.
    tokio::select! {
        end = read(hub, session, incoming) => end,
        () = sender.run(remote) => None,
        end = session.finished() => Some(end),
        () = hub.stopping() => Some(SessionEnd::Stopping(hub.come_back("the server is stopping".to_owned()))),
    }
}

/// A write that is being made.
type Writing<'a> = BoxFuture<'a, (Write, Result<Done, Error>)>;

/// Takes messages until the agent closes (`None`), falls silent or breaks the protocol. Writes run beside it, one at a time: a database
/// that is slow or away makes nobody look silent.
async fn read<S, E>(hub: &Hub, session: &Session, incoming: &mut S) -> Option<SessionEnd>
where
    S: Stream<Item = Result<FromAgent, E>> + Send + Unpin,
    E: std::fmt::Display + Send,
{
    let mut pending = Pending::new(hub.clock().now());
    let mut heard = hub.clock().now();
    let mut writing: Option<Writing<'_>> = None;
    loop {
        let now = hub.clock().now();
        if writing.is_none() {
            writing = pending.next_write(now).map(|write| begin(hub, session, write));
        }
        let patience = SILENCE.saturating_sub(now.saturating_duration_since(heard)).max(LAST_LOOK);
        let due = pending.next_due(now).filter(|_| writing.is_none());
        let wait = due.map_or(patience, |due| patience.min(due.saturating_duration_since(now)));
        let message = tokio::select! {
            (write, result) = finished(&mut writing) => {
                writing = None;
                settle(hub, session, &mut pending, write, result);
                continue;
            }
            message = tokio::time::timeout(wait, incoming.next()) => message,
        };
        let message = match message {
            Err(_elapsed) if hub.clock().now().saturating_duration_since(heard) >= SILENCE + LAST_LOOK => {
                return Some(SessionEnd::Silent(SILENCE.as_secs()));
            }
            Err(_elapsed) => continue,
            Ok(None) => break,
            Ok(Some(Err(error))) => return Some(SessionEnd::Malformed(error.to_string())),
            Ok(Some(Ok(message))) => message,
        };
        heard = hub.clock().now();
        session.heard_ms.store(hub.clock().unix_ms(), Ordering::Relaxed);
        if let Err(end) = take(hub, session, message, &mut pending, heard) {
            return Some(end);
        }
    }
    // What it said before it closed; once each.
    loop {
        let next = || pending.next_write(hub.clock().now()).map(|write| begin(hub, session, write));
        let running = writing.take().or_else(next)?;
        let (write, result) = running.await;
        settle(hub, session, &mut pending, write, result);
    }
}

fn begin<'a>(hub: &'a Hub, session: &'a Session, write: Write) -> Writing<'a> {
    Box::pin(async move {
        let result = store(hub, session, &write).await;
        (write, result)
    })
}

/// Never, where nothing is being written. Cancel safe.
async fn finished(writing: &mut Option<Writing<'_>>) -> (Write, Result<Done, Error>) {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

/// Sorts one message: into what is to be written, or into what is to be answered.
fn take(
    hub: &Hub,
    session: &Session,
    message: FromAgent,
    pending: &mut Pending,
    now: Instant,
) -> Result<(), SessionEnd> {
    match message {
        FromAgent::Hello(_) => return Err(SessionEnd::Malformed("a session has one Hello".to_owned())),
        FromAgent::ConfigStatus(status) => {
            session.on_answer(status.nonce);
            pending.on_answer(status);
        }
        FromAgent::Observed(observed) => pending.on_observed(observed),
        FromAgent::TransferReport(report) => pending.on_report(*report, now),
        FromAgent::BenchReport(report) => pending.on_bench(report),
        FromAgent::SyncReport(report) => pending.on_sync(report, now),
        FromAgent::LookupNodes { request_id, node_ids } => session.outbox.lookup(request_id, node_ids),
        FromAgent::NodeRecord(record) => pending.on_record(record),
        FromAgent::RefusedPeer(refused) => hub.note_refused_peer(&session.name, &refused),
        FromAgent::RevocationReplay(entries) => pending.on_replay(entries),
        FromAgent::AuditWitness { checkpoint, consistent } => witness(session, checkpoint, consistent),
    }
    Ok(())
}

/// An agent that saw two heads that do not fit is the alarm that the audit log exists for. Said once a session; the agent's own state says
/// it as long as it lasts.
fn witness(session: &Session, checkpoint: String, consistent: bool) {
    if consistent {
        return;
    }
    metrics::counter!("dwcp_audit_verify_failures_total").increment(1);
    let mut held = session.held_head.lock().unwrap_or_else(PoisonError::into_inner);
    if held.as_ref() != Some(&checkpoint) {
        tracing::error!(
            component = "audit",
            node = %session.name,
            checkpoint = %proto_model::escape(checkpoint.as_bytes()),
            "An agent found an audit head that does not continue the one before it: run `dwcp audit verify`"
        );
        *held = Some(checkpoint);
    }
}

/// What became of a write: over, or to be tried again.
fn settle(hub: &Hub, session: &Session, pending: &mut Pending, write: Write, result: Result<Done, Error>) {
    let now = hub.clock().now();
    match (result, write) {
        (Ok(Done::Written), _) => pending.on_written(),
        (Ok(Done::TooSoon), Write::Report(report)) => pending.give_back_report(report, now + PROGRESS_RETRY),
        (Ok(Done::TooSoon | Done::PlaceLost), write) => pending.give_back(write, now + WRITE_RETRY),
        (Err(error), write) => {
            error.log(&session.name, "What an agent reported could not be stored");
            // What PostgreSQL refuses for what it is, it refuses again: it must not hold up all else that this agent says.
            if error.is_temporary() {
                pending.give_back(write, now + WRITE_RETRY);
            }
        }
    }
}

enum Done {
    Written,
    TooSoon,
    /// The session has no place until the server's next heartbeat.
    PlaceLost,
}

async fn store(hub: &Hub, session: &Session, write: &Write) -> Result<Done, Error> {
    let place = match write {
        Write::Answer(status) => match session.answered(status) {
            Some(generation) => {
                let (applied, not_in_force) = (status.applied.clone(), status.not_in_force.clone());
                sessions::answer(hub.db(), session.node, session.id, generation, applied, not_in_force).await?
            }
            None => Place::Held,
        },
        // Signed by the node, with a number that only grows: it needs no fence.
        Write::Record(record) => {
            node_records::put(hub.db(), session.node, record.clone()).await?;
            Place::Held
        }
        Write::Observed(observed) => {
            sessions::observe(hub.db(), session.node, session.id, hub.observation(observed)).await?
        }
        // Signed by the fleet itself: whoever gives it back is believed.
        Write::Replay(entries) => {
            hub.replay_revocations(&session.name, entries).await?;
            Place::Held
        }
        Write::Report(report) => return store_report(hub, session, report).await,
        Write::Sync(report) => {
            match syncs::report(hub.db(), session.node, report).await? {
                Reported::Taken | Reported::TooSoon => {}
                // It was deleted, and its agent has not heard of it yet.
                Reported::Unknown => {}
                Reported::NotItsOwn => hub.refuse_report(&session.name, &format!("syncs/{}", report.sync)),
            }
            Place::Held
        }
        Write::Bench(report) => {
            match benches::report(hub.db(), session.node, report).await? {
                Reported::Taken | Reported::TooSoon => {}
                // An agent may say the end of a bench again that was forgotten here.
                Reported::Unknown => {}
                Reported::NotItsOwn => hub.refuse_report(&session.name, &report.bench.resource_name()),
            }
            Place::Held
        }
    };
    Ok(match place {
        Place::Held => Done::Written,
        Place::Lost => Done::PlaceLost,
        Place::Taken => {
            metrics::counter!("dwcp_fenced_writes_total").increment(1);
            session.finish(SessionEnd::Replaced);
            Done::Written
        }
    })
}

async fn store_report(hub: &Hub, session: &Session, report: &proto_model::TransferReport) -> Result<Done, Error> {
    match transfers::report(hub.db(), session.node, report).await? {
        Reported::TooSoon => return Ok(Done::TooSoon),
        Reported::Taken => {}
        // A restored database may not know a transfer that an agent finished: repeating its end would never help.
        Reported::Unknown => {
            tracing::warn!(node = %session.name, transfer = %report.transfer, "Report of a transfer that is not known here");
        }
        Reported::NotItsOwn => {
            tracing::warn!(
                node = %session.name,
                transfer = %report.transfer,
                "Refused a report: the node does not have this role in this transfer"
            );
            hub.refuse_report(&session.name, &report.transfer.resource_name());
            return Ok(Done::Written);
        }
    }
    if report.state.is_end() {
        session.outbox.ack(report.transfer, report.role);
    }
    Ok(Done::Written)
}
