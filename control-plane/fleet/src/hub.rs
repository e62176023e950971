//! The hub: who is connected here, and what this server last read of what they should know.
//!
//! The tables are the truth. On every bell, and at least every two seconds (the bell rings by itself), the hub reads what stands after
//! the marks it keeps and marks the outboxes of those whom it concerns. Several servers over one database each do so for their own
//! agents; a session that another server has replaced is found in the same reading.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use chrono::DateTime;
use control_plane_store::{
    Actor, Db, Error, Keys, Refusal, Refusals,
    audit_log::{self, ProveError},
    backup, configs,
    observation::Observed as Row,
    replay,
    rollouts::{self, Answer},
    roster as entries, sessions,
    sessions::Tidy,
    transfers,
};
use foundation_merkle::{Checkpoint, VerifierKey};
use foundation_runtime::{Clock, TaskGroup};
use proto_model::{NodeName, NodeUid, Revision, RosterSequence, TransferState};
use proto_wire::{Signed, roster::open_entry};
use rand::RngExt;
use tokio_util::sync::WaitForCancellationFuture;
use uuid::Uuid;

use crate::{
    message::{ComeBack, Hello, Observed, RefusedPeer, RosterPosition, SessionEnd, Welcome},
    options::Options,
    outbox::Kind,
    roster::{Member, Roster},
    session::{HEARTBEAT, Session},
    snapshot::{SnapshotLayer, Snapshots, Stored},
    strangers::{AheadOfUs, Strangers, UnknownMember},
};

/// The newest audit head is sent to agents at most so often: an agent that is a witness every ten seconds leaves no gap that matters,
/// and a busy log costs each agent six messages a minute.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Roster entries that are read at a time.
const ROSTER_PAGE: u32 = 5_000;

/// When agents that are sent away come back: spread over this range, so that they do not come together.
const COME_BACK_SECONDS: std::ops::RangeInclusive<u32> = 2..=20;

/// A heartbeat that comes later after the one before than this is no longer in time: two of them, and a little.
const LATE_BEAT: Duration = Duration::from_secs(11);

/// Heartbeats must have been in time for so long before others are taken for gone: three of theirs then had their chance.
const STEADY_FOR: Duration = Duration::from_secs(15);

/// What this server last read. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) roster: Arc<Roster>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) ring: Arc<[String]>,
    pub(crate) checkpoint: Option<Head>,
}

/// A signed audit head.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) size: u64,
    pub(crate) text: Arc<str>,
}

/// The hub; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    keys: Arc<Keys>,
    refusals: Refusals,
    clock: Clock,
    tasks: TaskGroup,
    options: Options,
    server: Uuid,
    view: ArcSwap<View>,
    sessions: Mutex<HashMap<NodeUid, Arc<Session>>>,
    /// Whether this server's row stands: sessions refer to it.
    registered: AtomicBool,
    /// Held while the roster is read, so that an older reading never replaces a newer one.
    reading_roster: tokio::sync::Mutex<()>,
    /// Since when this server's heartbeats have been stored in time.
    steady: Mutex<Option<Steady>>,
    /// What agents say that does not fit the database.
    strangers: Strangers,
    /// The last consistency path that was made: nearly all agents ask for the same.
    path: Mutex<Option<Path>>,
}

/// Heartbeats without a gap.
#[derive(Clone, Copy, Debug)]
struct Steady {
    since: Instant,
    last: Instant,
}

/// How the audit log of one size continues that of another.
#[derive(Clone, Debug)]
struct Path {
    first: u64,
    /// The head that the path leads to, as it is signed.
    head: Arc<str>,
    hashes: Arc<[[u8; 32]]>,
}

/// What [`Hub::refresh`] reads.
#[derive(Clone, Copy, Debug)]
enum Part {
    Roster,
    Configs,
    Jobs,
    Ring,
    Checkpoint,
}

/// How far [`Hub::refresh`] has read.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    configs: Option<proto_model::Generation>,
    jobs: Option<Revision>,
    checkpoint_at: Option<Instant>,
}

impl Hub {
    pub(crate) fn new(
        db: Db,
        keys: Arc<Keys>,
        refusals: Refusals,
        clock: Clock,
        tasks: TaskGroup,
        options: Options,
    ) -> Self {
        let view = View {
            roster: Arc::default(),
            snapshots: Arc::new(Snapshots::empty()),
            ring: Arc::from([]),
            checkpoint: None,
        };
        Self(Arc::new(Inner {
            db,
            keys,
            refusals,
            clock,
            tasks,
            options,
            server: Uuid::now_v7(),
            view: ArcSwap::from_pointee(view),
            sessions: Mutex::default(),
            registered: AtomicBool::new(false),
            reading_roster: tokio::sync::Mutex::new(()),
            steady: Mutex::default(),
            path: Mutex::default(),
            strangers: Strangers::default(),
        }))
    }

    pub(crate) fn db(&self) -> &Db {
        &self.0.db
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// A node said something of a transfer that is not its to say.
    pub(crate) fn refuse_report(&self, node: &NodeName, transfer: &str) {
        let refusal = Refusal {
            actor: Actor::Node(node.to_string()),
            action: "transfer.report",
            resource: transfer,
            reason: "the node does not have this role in this transfer",
            from: None,
        };
        self.0.refusals.note(refusal, "");
    }

    /// A node says that it refused what another one opened. Its word alone: so the record is its, and names the other as what it is about.
    pub(crate) fn note_refused_peer(&self, node: &NodeName, refused: &RefusedPeer) {
        let peer = format!("nodes/{}", refused.peer);
        let refusal = Refusal {
            actor: Actor::Node(node.to_string()),
            action: "transfer.refuse_peer",
            resource: &peer,
            reason: refused.reason,
            from: None,
        };
        self.0.refusals.note_many(refusal, refused.count, "");
    }

    pub(crate) fn server(&self) -> Uuid {
        self.0.server
    }

    pub(crate) fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.0.tasks.cancelled()
    }

    pub(crate) fn view(&self) -> View {
        View::clone(&self.0.view.load())
    }

    // ---- what does not fit

    /// An agent whose roster is newer than this database: the database was put back, and nobody opened a new epoch.
    fn is_ahead(&self, node: NodeUid, hello: &Hello) -> bool {
        let (held, here) = (hello.roster, self.view().roster.position());
        // Before the first reading nothing can be said.
        if here == RosterPosition::default() || (held.epoch, held.sequence) <= (here.epoch, here.sequence) {
            return false;
        }
        let ahead = AheadOfUs { hostname: hello.facts.hostname.clone(), held, here };
        if self.0.strangers.ahead(node, ahead) {
            tracing::error!(
                component = "fleet",
                node = %node,
                held = format!("{}.{}", held.epoch, held.sequence),
                here = format!("{}.{}", here.epoch, here.sequence),
                "An agent holds a newer roster than this database, which was put back without a new epoch: \
                 stop the servers, and run `dwcp-control-plane open-epoch`"
            );
        }
        true
    }

    fn remember_unknown(&self, node: NodeUid, remote: &str, hello: &Hello) {
        let hostname = hello.facts.hostname.clone();
        let member = UnknownMember { uid: node, hostname: hostname.clone(), remote: remote.to_owned() };
        if self.0.strangers.unknown(member) {
            tracing::warn!(
                component = "fleet",
                node = %node,
                hostname,
                remote,
                "A host with a certificate of this fleet is not in its database: it joined after the backup that was restored. \
                 `dwcp token create --node NAME` lets it in again"
            );
            let reason = "the certificate is this fleet's, and the node is not in its database";
            let resource = format!("nodes/{node}");
            let refusal =
                Refusal { actor: Actor::Anonymous, action: "session.open", resource: &resource, reason, from: None };
            self.0.refusals.note(refusal, "");
        }
    }

    pub(crate) fn unknown_members(&self) -> Vec<UnknownMember> {
        self.0.strangers.unknown_members()
    }

    pub(crate) fn agents_ahead(&self) -> Vec<AheadOfUs> {
        self.0.strangers.agents_ahead()
    }

    /// Nodes that were revoked after the backup that was restored are revoked again.
    pub(crate) async fn replay_revocations(&self, reporter: &NodeName, entries: &[Signed]) -> Result<(), Error> {
        let revoked = replay::revocations(&self.0.db, &self.0.keys, entries, reporter).await?;
        if revoked > 0 {
            tracing::warn!(component = "fleet", revoked, reporter = %reporter, "Nodes were revoked again that a restore had let in");
        }
        Ok(())
    }

    // ---- who is connected

    /// Registers a session; an older one of the same node is told that it is replaced.
    pub(crate) async fn join(&self, node: NodeUid, remote: &str, hello: &Hello) -> Result<Arc<Session>, SessionEnd> {
        let max = self.0.options.max_sessions;
        if self.connected() >= max && !self.sessions().contains_key(&node) {
            metrics::counter!("dwcp_agents_sent_away_total").increment(1);
            metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.agent_sessions").increment(1);
            return Err(SessionEnd::ComeBack(format!("this server holds its {max} sessions already")));
        }
        if !self.0.registered.load(Ordering::Relaxed) {
            self.beat().await.map_err(|error| unavailable(node, &error))?;
        }
        let position = self.view().roster.position();
        if hello.roster.epoch == position.epoch && hello.roster.sequence > position.sequence {
            // Another server told it more than this one has read: it must not be told less.
            self.refresh_roster().await.map_err(|error| unavailable(node, &error))?;
        }
        let ahead = self.is_ahead(node, hello);
        let id = Uuid::now_v7();
        let opened = sessions::open(&self.0.db, self.opening(node, id, remote, hello))
            .await
            .map_err(|error| unavailable(node, &error))?;
        let name = match opened {
            sessions::Opened::Member(name) => name,
            sessions::Opened::Revoked => return Err(SessionEnd::Revoked),
            sessions::Opened::Unknown => {
                self.remember_unknown(node, remote, hello);
                return Err(SessionEnd::Unknown);
            }
        };
        if !ahead {
            self.0.strangers.fits(node);
        }
        tracing::info!(node = %name, remote, agent_version = %hello.facts.agent_version, "Agent connected");
        let session = Arc::new(Session::new(id, node, name, remote.to_owned(), self.0.clock.unix_ms()));
        let older = self.sessions().insert(node, Arc::clone(&session));
        if let Some(older) = older {
            older.finish(SessionEnd::Replaced);
        }
        self.count();
        Ok(session)
    }

    /// Forgets a session that is over, unless a newer one has its place.
    pub(crate) async fn leave(&self, session: &Session) {
        {
            let mut sessions = self.sessions();
            if sessions.get(&session.node).is_some_and(|held| held.id == session.id) {
                sessions.remove(&session.node);
            }
        }
        self.count();
        let closed = sessions::close(&self.0.db, session.node, session.id).await;
        if let Err(error) = closed {
            // The row goes with the server's heartbeat, or when the node connects again.
            error.log(&session.name, "The end of a session could not be stored");
        }
    }

    pub(crate) fn connected(&self) -> usize {
        self.sessions().len()
    }

    pub(crate) fn connected_nodes(&self) -> Vec<(NodeUid, NodeName)> {
        self.sessions().values().map(|session| (session.node, session.name.clone())).collect()
    }

    /// Cuts a node's session, if it has one here.
    pub(crate) fn cut(&self, node: NodeUid, end: SessionEnd) {
        let session = self.sessions().get(&node).cloned();
        if let Some(session) = session {
            session.finish(end);
        }
    }

    fn mark_all(&self, kind: Kind) {
        for session in self.sessions().values() {
            session.outbox.mark(kind);
        }
    }

    fn count(&self) {
        let connected = u32::try_from(self.connected()).unwrap_or(u32::MAX);
        metrics::gauge!("dwcp_agents_connected").set(f64::from(connected));
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<NodeUid, Arc<Session>>> {
        // The map is changed by single calls only, so a poisoned lock holds a whole map.
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what is said

    pub(crate) fn welcome(&self, name: &NodeName, remote: String) -> Welcome {
        let options = &self.0.options;
        Welcome {
            time: self.0.clock.utc(),
            version: options.version.clone(),
            trust_bundle: self.0.keys.trust_bundle(),
            endpoints: options.endpoints.clone(),
            observed_address: remote,
            name: name.clone(),
            heartbeat_seconds: u32::try_from(HEARTBEAT.as_secs()).expect("the heartbeat is a few seconds"),
        }
    }

    pub(crate) fn come_back(&self, reason: &str) -> ComeBack {
        ComeBack { after_seconds: rand::rng().random_range(COME_BACK_SECONDS), reason: reason.to_owned() }
    }

    /// The size of a head that an agent says it holds; `None` when this fleet's key did not sign it.
    pub(crate) fn checkpoint_size(&self, text: &str) -> Option<u64> {
        let key: VerifierKey = self.0.keys.audit_verifier_key().parse().ok()?;
        let origin = control_plane_audit::origin(&self.0.keys.fleet().to_string(), self.0.keys.epoch().value());
        // A head of an older epoch is of another log: this one is new to the agent.
        let held = Checkpoint::parse_and_verify(text, &key).ok().filter(|held| held.origin == origin);
        held.map(|held| held.size)
    }

    /// The path from one size of the audit log to a head, made once for all agents that ask for the same. Empty where there is none: an
    /// agent that holds a head larger than ours finds that out by itself.
    pub(crate) async fn consistency(&self, first: u64, head: &Head) -> Result<Arc<[[u8; 32]]>, Error> {
        if first == 0 || first >= head.size {
            return Ok(Arc::from([]));
        }
        let made = self.path().clone().filter(|made| made.first == first && made.head == head.text);
        if let Some(made) = made {
            return Ok(made.hashes);
        }
        let hashes: Arc<[[u8; 32]]> = match audit_log::prove_consistency(&self.0.db, first, head.size).await {
            Ok(path) => path.into_iter().map(|hash| hash.0).collect(),
            Err(ProveError::Database(error)) => return Err(error),
            Err(ProveError::Proof(error)) => {
                tracing::error!(component = "audit", error = %error, "The audit log cannot prove its own head: run `dwcp audit verify`");
                return Ok(Arc::from([]));
            }
        };
        *self.path() = Some(Path { first, head: Arc::clone(&head.text), hashes: Arc::clone(&hashes) });
        Ok(hashes)
    }

    fn path(&self) -> MutexGuard<'_, Option<Path>> {
        self.0.path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- what is written

    fn opening(&self, node: NodeUid, id: Uuid, remote: &str, hello: &Hello) -> sessions::Opening {
        let now = self.0.clock.utc();
        sessions::Opening {
            node,
            session: id,
            server: self.0.server,
            remote_address: remote.to_owned(),
            facts: hello.facts.clone(),
            host_layer: hello.host_layer.clone(),
            host_layer_origin: hello.host_layer_origin.clone(),
            applied: hello.applied.clone(),
            clock_skew_ms: hello.time.map(|time| (time - now).num_milliseconds()),
        }
    }

    pub(crate) fn observation(&self, observed: &Observed) -> Row {
        let now = self.0.clock.utc();
        Row {
            components: Some(observed.components.clone()),
            facts: observed.facts.clone(),
            clock_skew_ms: observed.time.map(|time| (time - now).num_milliseconds()),
            ..Row::default()
        }
    }

    /// Says that this server and its sessions live; ends the sessions that have lost their place.
    pub(crate) async fn beat(&self) -> Result<(), Error> {
        let server = sessions::Server {
            id: self.0.server,
            version: self.0.options.version.clone(),
            ring_address: self.0.options.ring_address.clone(),
        };
        let held: Vec<_> = self.sessions().values().cloned().collect();
        let rows = held.iter().map(|session| sessions::Held {
            node: session.node,
            session: session.id,
            remote_address: session.remote.clone(),
            heard: DateTime::from_timestamp_millis(session.heard_ms()).unwrap_or_default(),
        });
        let begun = self.0.clock.now();
        let beat = sessions::beat(&self.0.db, server, rows.collect(), self.may_tidy(begun)).await?;
        self.beaten(begun);
        self.0.registered.store(true, Ordering::Relaxed);
        for session in held.iter().filter(|session| beat.taken.contains(&session.id)) {
            session.finish(SessionEnd::Replaced);
        }
        for (node, session) in beat.entered_again {
            // One that ended while its place was entered again has none.
            if self.sessions().get(&node).is_none_or(|held| held.id != session) {
                sessions::close(&self.0.db, node, session).await?;
            }
        }
        self.measure().await
    }

    /// Others are judged only by a server whose own heartbeats were stored in time for as long as theirs were not.
    fn may_tidy(&self, now: Instant) -> Tidy {
        let steady = self.steady().is_some_and(|steady| {
            now.saturating_duration_since(steady.last) <= LATE_BEAT
                && now.saturating_duration_since(steady.since) >= STEADY_FOR
        });
        if steady { Tidy::Yes } else { Tidy::NotYet }
    }

    fn beaten(&self, begun: Instant) {
        let now = self.0.clock.now();
        let mut steady = self.steady();
        // One that took long was late, too.
        let in_time = steady.filter(|steady| now.saturating_duration_since(steady.last) <= LATE_BEAT);
        *steady = Some(Steady { since: in_time.map_or(begun, |steady| steady.since), last: now });
    }

    fn steady(&self) -> MutexGuard<'_, Option<Steady>> {
        self.0.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what nobody else ends: transfers without a future, rollouts whose last answer was stored but not counted.
    pub(crate) async fn sweep(&self) -> Result<(), Error> {
        transfers::expire(&self.0.db).await?;
        rollouts::settle(&self.0.db).await
    }

    // ---- what is read

    /// Reads what stands after the marks and tells whom it concerns. A row that cannot be read keeps nothing else back.
    pub(crate) async fn refresh(&self, marks: &mut Marks) -> Result<(), Error> {
        let mut first = Ok(());
        for part in [Part::Roster, Part::Configs, Part::Jobs, Part::Ring, Part::Checkpoint] {
            let read = match part {
                Part::Roster => self.refresh_roster().await,
                Part::Configs => self.refresh_configs(marks).await,
                Part::Jobs => self.refresh_jobs(marks).await,
                Part::Ring => self.refresh_ring().await,
                Part::Checkpoint => self.refresh_checkpoint(marks).await,
            };
            match read {
                Err(error) if error.is_temporary() => return Err(error),
                read => first = first.and(read),
            }
        }
        first
    }

    async fn refresh_roster(&self) -> Result<(), Error> {
        let _reading = self.0.reading_roster.lock().await;
        let held = self.view().roster;
        let position = held.position();
        let epoch = self.0.keys.epoch();
        let mut head = entries::head(&self.0.db, epoch, self.0.clock.utc()).await?;
        if (head.epoch, head.sequence) == (position.epoch, position.sequence) {
            return Ok(());
        }
        let mut roster = Roster::clone(&held);
        let mut revoked = Vec::new();
        // A head is signed for just what stands in the roster: when more came while it was read, again.
        while roster.position() != (RosterPosition { epoch, sequence: head.sequence }) {
            let held = roster.position();
            let after = if held.epoch == epoch { held.sequence } else { RosterSequence::default() };
            let page = entries::entries_after(&self.0.db, after, ROSTER_PAGE).await?;
            if page.is_empty() {
                break;
            }
            revoked.extend(roster.apply(epoch, page.into_iter().filter_map(|entry| self.member(entry)).collect()));
            head = entries::head(&self.0.db, epoch, self.0.clock.utc()).await?;
        }
        roster.set_head(entries::sign_head(&self.0.keys, head));
        let roster = Arc::new(roster);
        self.replace(|view| view.roster = Arc::clone(&roster));
        for node in revoked {
            self.cut(node, SessionEnd::Revoked);
        }
        self.mark_all(Kind::Roster);
        Ok(())
    }

    /// An entry as agents will read it; one that this fleet's key did not sign is left out.
    fn member(&self, entry: entries::SignedEntry) -> Option<Member> {
        match open_entry(&self.0.keys.roster().verifying_key(), &entry.signed) {
            Ok(opened) => Some(Member {
                sequence: entry.sequence,
                uid: opened.uid,
                revoked: opened.revoked,
                signed: Arc::new(entry.signed),
            }),
            Err(error) => {
                tracing::error!(sequence = %entry.sequence, error = %error, "A stored roster entry is not what was signed");
                None
            }
        }
    }

    async fn refresh_configs(&self, marks: &mut Marks) -> Result<(), Error> {
        if marks.configs == Some(configs::newest_generation(&self.0.db).await?) {
            return Ok(());
        }
        let (stored, generation) = configs::all(&self.0.db).await?;
        let stored = stored.into_iter().map(|config| Stored {
            generation: config.generation,
            layer: config.live.then(|| SnapshotLayer {
                name: config.name.clone(),
                revision: config.revision,
                document: config.document.into(),
            }),
            name: config.name,
        });
        let snapshots = Arc::new(Snapshots::build(stored.collect()));
        self.replace(|view| view.snapshots = Arc::clone(&snapshots));
        marks.configs = Some(generation);
        self.mark_all(Kind::Desired);
        Ok(())
    }

    async fn refresh_jobs(&self, marks: &mut Marks) -> Result<(), Error> {
        let (nodes, revision) = transfers::nodes_with_new_jobs(&self.0.db, marks.jobs).await?;
        marks.jobs = Some(revision);
        let sessions = self.sessions();
        for session in nodes.iter().filter_map(|node| sessions.get(node)) {
            session.outbox.mark(Kind::Jobs);
        }
        Ok(())
    }

    async fn refresh_ring(&self) -> Result<(), Error> {
        let ring: Arc<[String]> = sessions::ring(&self.0.db).await?.into();
        if ring != self.view().ring {
            self.replace(|view| view.ring = Arc::clone(&ring));
            self.mark_all(Kind::Ring);
        }
        Ok(())
    }

    async fn refresh_checkpoint(&self, marks: &mut Marks) -> Result<(), Error> {
        let now = self.0.clock.now();
        if marks.checkpoint_at.is_some_and(|at| now.saturating_duration_since(at) < CHECKPOINT_INTERVAL) {
            return Ok(());
        }
        let Some(head) = audit_log::head(&self.0.db).await? else { return Ok(()) };
        // Not the size alone: a log that was rewritten may be as long as it was.
        if self.view().checkpoint.is_none_or(|held| *held.text != *head.checkpoint) {
            let head = Head { size: head.size, text: head.checkpoint.into() };
            self.replace(|view| view.checkpoint = Some(head.clone()));
            marks.checkpoint_at = Some(now);
            self.mark_all(Kind::Checkpoint);
        }
        Ok(())
    }

    /// What is in the tables, as gauges: every server shows the same.
    async fn measure(&self) -> Result<(), Error> {
        self.count();
        if let Some(time) = backup::last_success(&self.0.db).await? {
            #[allow(clippy::cast_precision_loss, reason = "a metric; exact for every time of these millions of years")]
            metrics::gauge!("dwcp_backup_last_success_timestamp_seconds").set(time.timestamp() as f64);
        }
        let zero = [TransferState::Pending, TransferState::Running, TransferState::Waiting].map(transfers::state_word);
        let active = transfers::active(&self.0.db).await?;
        for state in zero {
            let count = active.iter().find(|(word, _)| word == state).map_or(0, |(_, count)| *count);
            metrics::gauge!("dwcp_transfers_active", "state" => state).set(gauge(count));
        }
        let targets = rollouts::target_counts(&self.0.db).await?;
        for answer in [Answer::Offline, Answer::Pending, Answer::Applied, Answer::Rejected].map(Answer::as_str) {
            let count = targets.iter().find(|(word, _)| word == answer).map_or(0, |(_, count)| *count);
            metrics::gauge!("dwcp_rollout_targets", "state" => answer).set(gauge(count));
        }
        Ok(())
    }

    fn replace(&self, change: impl Fn(&mut View)) {
        self.0.view.rcu(|view| {
            let mut view = View::clone(view);
            change(&mut view);
            view
        });
    }
}

fn unavailable(node: NodeUid, error: &Error) -> SessionEnd {
    error.log(node, "A session could not be registered");
    SessionEnd::Unavailable
}

fn gauge(count: i64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}
