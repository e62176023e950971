//! The hub: who is connected here, and what this server last read of what they should know.
//!
//! The tables are the truth. On every bell, and at least every two seconds (the bell rings by itself), the hub reads what stands after
//! the marks it keeps and marks the outboxes of those whom it concerns. Several servers over one database each do so for their own
//! agents; a session that another server has replaced is found in the same reading.

mod arrivals;
mod heartbeat;
mod misfits;
mod reading;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use control_plane_store::{
    Db, Error, Keys, Refusals,
    audit_log::{self, Order, ProveError, StoredEvent},
    benches,
    epoch::RESTORE,
    observation::Observed as Row,
    rollouts, sessions, syncs,
    transfers::{self, Granter},
};
use foundation_merkle::{Checkpoint, VerifierKey};
use foundation_runtime::{Clock, TaskGroup};
use proto_model::{Digest, NodeName, NodeUid};
use rand::RngExt;
use tokio_util::sync::WaitForCancellationFuture;
use uuid::Uuid;

pub(crate) use self::reading::Marks;
use self::{arrivals::Arrivals, heartbeat::Steady};
use crate::{
    message::{ComeBack, Hello, Observed, RestoreProof, SessionEnd, Welcome},
    options::Options,
    outbox::Kind,
    roster::Roster,
    session::{HEARTBEAT, Session},
    snapshot::Snapshots,
    strangers::Strangers,
};

/// When agents that are sent away come back: spread over this range, so that they do not come together.
const COME_BACK_SECONDS: std::ops::RangeInclusive<u32> = 2..=20;

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
    arrivals: Arrivals,
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

/// How the audit log of one size continues that of another.
#[derive(Clone, Debug)]
struct Path {
    first: u64,
    /// The head that the path leads to, as it is signed.
    head: Arc<str>,
    hashes: Arc<[[u8; 32]]>,
}

/// Restores that are looked through for the one that an agent has to hear of.
const MAX_RESTORES: u32 = 1000;

/// A head that an agent holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldHead {
    pub(crate) epoch: u64,
    pub(crate) size: u64,
    /// Whether the control plane was restored since.
    pub(crate) is_of_before: bool,
}

/// What became of the log that an agent saw before a restore.
#[derive(Debug)]
pub(crate) enum Across {
    /// All of it was restored.
    Whole,
    /// Its end was lost.
    Lost(RestoreProof),
    /// The log says nothing of a restore.
    Unexplained,
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
            arrivals: Arrivals::new(options.max_new_sessions),
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

    pub(crate) fn server(&self) -> Uuid {
        self.0.server
    }

    pub(crate) fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.0.tasks.cancelled()
    }

    pub(crate) fn view(&self) -> View {
        View::clone(&self.0.view.load())
    }

    // ---- who is connected

    /// Registers a session; an older one of the same node is told that it is replaced.
    pub(crate) async fn join(&self, node: NodeUid, remote: &str, hello: &Hello) -> Result<Arc<Session>, SessionEnd> {
        self.admit(node)?;
        // Says when it was let in, whatever its transaction waits for.
        let id = Uuid::now_v7();
        if !self.0.registered.load(Ordering::Relaxed) {
            self.beat().await.map_err(|error| unavailable(node, &error))?;
        }
        let position = self.view().roster.position();
        if hello.roster.epoch == position.epoch && hello.roster.sequence > position.sequence {
            // Another server told it more than this one has read: it must not be told less.
            self.refresh_roster().await.map_err(|error| unavailable(node, &error))?;
        }
        let ahead = self.is_ahead(node, hello);
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

    /// Whether one more session may begin here, and now; before anything is asked of the database for it.
    fn admit(&self, node: NodeUid) -> Result<(), SessionEnd> {
        let Options { max_sessions, max_new_sessions, .. } = self.0.options;
        let (limit, come_back) = if self.connected() >= max_sessions && !self.sessions().contains_key(&node) {
            let reason = format!("this server holds its {max_sessions} sessions already (limits.agent_sessions)");
            ("limits.agent_sessions", self.come_back(reason))
        } else if let Err(after_seconds) = self.0.arrivals.admit(node, self.0.clock.now()) {
            let reason = format!(
                "this server begins {max_new_sessions} sessions a second (limits.new_sessions_per_second), and more agents come"
            );
            ("limits.new_sessions_per_second", ComeBack { after_seconds, reason })
        } else {
            return Ok(());
        };
        metrics::counter!("dwcp_agents_sent_away_total").increment(1);
        metrics::counter!("dwcp_limit_hits_total", "limit" => limit).increment(1);
        Err(SessionEnd::Busy(come_back))
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

    pub(crate) fn welcome(&self, name: &NodeName, remote: String, held_trust: Option<Digest>) -> Welcome {
        let options = &self.0.options;
        Welcome {
            time: self.0.clock.utc(),
            version: options.version.clone(),
            trust_bundle: Some(self.0.keys.trust_bundle()).filter(|bundle| held_trust != Some(bundle.digest())),
            endpoints: options.endpoints.clone(),
            observed_address: remote,
            name: name.clone(),
            heartbeat_seconds: u32::try_from(HEARTBEAT.as_secs()).expect("the heartbeat is a few seconds"),
        }
    }

    pub(crate) fn come_back(&self, reason: String) -> ComeBack {
        ComeBack { after_seconds: rand::rng().random_range(COME_BACK_SECONDS), reason }
    }

    /// A head that an agent says it holds; `None` when this fleet's key did not sign it.
    pub(crate) fn held_head(&self, text: &str) -> Option<HeldHead> {
        let key: VerifierKey = self.0.keys.audit_verifier_key().parse().ok()?;
        let held = Checkpoint::parse_and_verify(text, &key).ok()?;
        let name = control_plane_audit::key_name(&self.0.keys.fleet().to_string());
        let epoch = control_plane_audit::epoch_of(&held.origin, &name)?;
        let present = self.0.keys.epoch().value();
        (epoch <= present).then_some(HeldHead { is_of_before: epoch < present, epoch, size: held.size })
    }

    /// Where the proof for an agent starts that holds a head of an earlier epoch: at that head, where what was restored has all of it, or with the
    /// record of the restore that lost its end.
    pub(crate) async fn across_restore(&self, held: HeldHead, head: &Head) -> Result<Across, Error> {
        let filter = audit_log::EventFilter::action(RESTORE);
        let restores = audit_log::list(&self.0.db, filter, Order::Ascending, None, MAX_RESTORES).await?;
        let after = |event: &&StoredEvent| {
            let restore = event.record().and_then(|record| control_plane_audit::Restore::of(&record));
            restore.is_some_and(|restore| restore.epoch > held.epoch)
        };
        let Some(restore) = restores.iter().find(after).filter(|event| event.sequence < head.size) else {
            return Ok(Across::Unexplained);
        };
        if held.size <= restore.sequence {
            return Ok(Across::Whole);
        }
        match audit_log::prove_inclusion(&self.0.db, head.size, restore.sequence).await {
            Ok(path) => {
                let inclusion = path.into_iter().map(|hash| hash.0).collect();
                Ok(Across::Lost(RestoreProof { leaf: restore.leaf.clone(), inclusion }))
            }
            Err(ProveError::Database(error)) => Err(error),
            Err(ProveError::Proof(error)) => {
                tracing::error!(component = "audit", error = %error, "The audit log cannot prove its own head: run `dwcp audit verify`");
                Ok(Across::Unexplained)
            }
        }
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

    /// Ends transfers whose deadline passed.
    pub(crate) async fn end_overdue(&self) -> Result<(), Error> {
        transfers::end_overdue(&self.0.db, self.0.server).await
    }

    /// Ends what nobody else ends: transfers without a future, rollouts whose last answer was stored but not counted.
    pub(crate) async fn sweep(&self) -> Result<(), Error> {
        transfers::expire(&self.0.db, self.0.server).await?;
        benches::sweep(&self.0.db).await?;
        let keys = &self.0.keys;
        let granter = Granter { fleet: keys.fleet(), epoch: keys.epoch(), key: keys.grant().clone() };
        let renewed = syncs::renew(&self.0.db, &granter).await?;
        if renewed > 0 {
            tracing::info!(component = "sync", renewed, "Standing grants were renewed");
        }
        rollouts::settle(&self.0.db).await
    }
}

fn unavailable(node: NodeUid, error: &Error) -> SessionEnd {
    error.log(node, "A session could not be registered");
    SessionEnd::Unavailable
}
