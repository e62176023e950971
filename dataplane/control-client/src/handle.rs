//! What the rest of the agent holds of the session.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use foundation_runtime::{Cancelled, TaskGroup};
use proto_model::{
    AppliedConfig, BenchReport, ComponentHealth, HostFacts, NodeId, NodeName, NodeUid, SyncId, SyncReport, TransferId,
    TransferReport, TransferRole,
};
use proto_rpc::agent as rpc;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{
    endpoint::Endpoint,
    incoming::{BenchJob, Desired, PeerRecord, SyncJob},
    outbox::Outbox,
    outgoing::Outgoing,
};

/// A question asks for at most so many nodes (agent.proto).
const MAX_LOOKUP_NODES: usize = 100;

/// How the agent introduces itself; a change of the host's layer opens the session anew.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Introduction {
    /// What the host reports of itself.
    pub facts: HostFacts,
    /// The host's own layer of configuration, secrets left out.
    pub host_layer: String,
    /// Where it comes from, for people.
    pub host_layer_origin: String,
}

/// How the session is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// The session that stands.
    pub standing: Option<Standing>,
    /// Why none stands, or why the last one ended.
    pub trouble: Option<String>,
    /// What is wrong with the audit log, as far as this agent witnessed it.
    pub audit_trouble: Option<String>,
    /// The node's name, as the control plane last said it.
    pub name: Option<NodeName>,
}

/// A session that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// With whom.
    pub endpoint: Endpoint,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The control plane's version.
    pub server_version: String,
    /// How far this host's clock is ahead of the control plane's.
    pub skew_ms: Option<i64>,
    /// The address that this host has there.
    pub observed_address: Option<SocketAddr>,
}

/// Why no record came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no session.
    #[error("the control plane is not connected")]
    Disconnected,
    /// No answer in time.
    #[error("the control plane did not answer in time")]
    TimedOut,
    /// Too many questions at once.
    #[error("too many questions to the control plane wait for an answer")]
    Busy,
}

/// Why an end was not kept.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The disk.
    #[error("cannot keep the transfer's end on disk: {0}")]
    Io(#[from] io::Error),
    /// The agent is stopping.
    #[error(transparent)]
    Stopping(#[from] Cancelled),
}

/// The session, as the rest of the agent sees it. Clones are the same session.
#[derive(Debug, Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub outgoing: Outgoing,
    pub outbox: Mutex<Outbox>,
    pub desired: watch::Sender<Option<Arc<Desired>>>,
    pub ring: watch::Sender<Vec<SocketAddr>>,
    pub benches: watch::Sender<Vec<BenchJob>>,
    pub syncs: watch::Sender<Option<Vec<SyncJob>>>,
    pub connection: watch::Sender<Connection>,
    pub questions: Mutex<HashMap<u64, oneshot::Sender<Vec<PeerRecord>>>>,
    pub next_question: AtomicU64,
    pub tasks: TaskGroup,
}

impl Handle {
    /// The configuration that should be in force; only the newest counts. `None` until the control plane said one.
    pub fn desired(&self) -> watch::Receiver<Option<Arc<Desired>>> {
        self.0.desired.subscribe()
    }

    /// The nodes that store DHT records; empty until the control plane said them.
    pub fn ring(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.0.ring.subscribe()
    }

    /// All benches that the node is to run now.
    pub fn benches(&self) -> watch::Receiver<Vec<BenchJob>> {
        self.0.benches.subscribe()
    }

    /// Says how far a bench is, or how it ended. Only the newest of each is sent.
    pub fn bench(&self, report: BenchReport) {
        self.0.outgoing.bench(report.into());
    }

    /// All syncs that the node is an end of; `None` until the control plane said them.
    pub fn syncs(&self) -> watch::Receiver<Option<Vec<SyncJob>>> {
        self.0.syncs.subscribe()
    }

    /// Says how a sync's runs are. Only the newest of each is sent, and again in each session.
    pub fn sync(&self, report: SyncReport) {
        self.0.outgoing.sync(report.into());
    }

    /// Nothing more is said of a sync: it was deleted.
    pub fn forget_sync(&self, sync: SyncId) {
        self.0.outgoing.forget_sync(&sync.to_string());
    }

    /// How the session is.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.0.connection.subscribe()
    }

    /// Answers a desired configuration; also what the next Hello says is in force.
    pub fn answer(&self, nonce: u64, applied: AppliedConfig, not_in_force: Vec<String>) {
        self.0.outgoing.status(rpc::ConfigStatus { nonce, applied: Some(applied.into()), not_in_force });
    }

    /// Says how the components are.
    pub fn observe(&self, components: Vec<ComponentHealth>) {
        let components = components.into_iter().map(Into::into).collect();
        self.0.outgoing.observed(rpc::Observed { components, facts: None, time: None });
    }

    /// Gives the control plane the node's own record, as it was put into the DHT.
    pub fn publish(&self, record: &PeerRecord) {
        self.0.outgoing.record(rpc::NodeRecord {
            node_id: record.public_key.node_id().to_string(),
            public_key: record.public_key.into(),
            seq: record.seq,
            value: record.value.clone(),
            signature: record.signature.clone(),
            observed_addresses: Vec::new(),
        });
    }

    /// Says that what this peer opened was refused, and why; counted, and sent with the next heartbeat.
    pub fn refused_peer(&self, peer: NodeUid, reason: &str) {
        self.0.outgoing.refused(peer.to_string(), reason.to_owned());
    }

    /// Says how far a transfer is. Only the newest of each is sent.
    pub fn progress(&self, report: TransferReport) {
        self.0.outgoing.progress(report.into());
    }

    /// Whether the end of a transfer is kept here and not stored by the control plane yet.
    #[must_use]
    pub fn keeps_end(&self, transfer: TransferId, role: TransferRole) -> bool {
        let key = (transfer.to_string(), rpc::TransferRole::from(role).into());
        self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner).keeps(&key)
    }

    /// Says how a transfer ended: kept on disk before this returns, and said until the control plane stored it.
    ///
    /// # Errors
    /// It could not be kept.
    pub async fn end(&self, report: TransferReport) -> Result<(), ReportError> {
        let report: rpc::TransferReport = report.into();
        let shared = Arc::clone(&self.0);
        let kept = self
            .0
            .tasks
            .blocking("keep a report", move || {
                shared.outbox.lock().unwrap_or_else(PoisonError::into_inner).keep(report)
            })
            .await??;
        self.0.outgoing.end(kept);
        Ok(())
    }

    /// Asks for nodes' records; those that are not known are left out of the answer.
    ///
    /// # Errors
    /// No answer within `limit`.
    pub async fn lookup(&self, nodes: &[NodeId], limit: Duration) -> Result<Vec<PeerRecord>, LookupError> {
        if self.0.connection.borrow().standing.is_none() {
            return Err(LookupError::Disconnected);
        }
        let request_id = self.0.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let question = Question { shared: &self.0, request_id };
        self.0.questions().insert(request_id, answer);
        let node_ids = nodes.iter().take(MAX_LOOKUP_NODES).map(ToString::to_string).collect();
        if !self.0.outgoing.lookup(rpc::LookupNodes { request_id, node_ids }) {
            return Err(LookupError::Busy);
        }
        let result = timeout(limit, answered).await;
        drop(question);
        match result {
            Ok(Ok(records)) => Ok(records),
            Ok(Err(_session_ended)) => Err(LookupError::Disconnected),
            Err(_elapsed) => Err(LookupError::TimedOut),
        }
    }
}

impl Shared {
    pub(crate) fn questions(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Vec<PeerRecord>>>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the question back when its asker went away.
struct Question<'a> {
    shared: &'a Shared,
    request_id: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.shared.questions().remove(&self.request_id);
    }
}
