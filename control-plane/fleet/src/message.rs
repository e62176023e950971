//! What an agent and its control plane say to each other in a session, as parsed nouns.
//!
//! The API translates these from and to the generated messages. What is the same for many agents is shared by `Arc` until the moment
//! it is put on the wire, so that a thousand agents that wait for the same configuration hold it once.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use proto_model::{
    AppliedConfig, BenchReport, ComponentHealth, Digest, Epoch, Generation, HostFacts, NodeId, NodeName, NodeUid,
    RosterSequence, SyncReport, TransferId, TransferReport, TransferRole, TrustBundle,
};
use proto_wire::Signed;

pub use control_plane_store::{benches::BenchJob, node_records::NodeRecord, syncs::SyncJob, transfers::Job};

use crate::snapshot::Snapshot;

/// From an agent.
#[derive(Clone, Debug)]
pub enum FromAgent {
    /// Opens a session.
    Hello(Box<Hello>),
    /// An answer to a desired state.
    ConfigStatus(ConfigStatus),
    /// Now and then, and on change.
    Observed(Observed),
    /// A transfer's progress or end.
    TransferReport(Box<TransferReport>),
    /// How far a bench is.
    BenchReport(Box<BenchReport>),
    /// How a sync's runs are.
    SyncReport(Box<SyncReport>),
    /// Asks for nodes' addresses.
    LookupNodes {
        /// To match the answer.
        request_id: u64,
        /// Whose; at most [`crate::MAX_LOOKUP_NODES`].
        node_ids: Vec<NodeId>,
    },
    /// The node's own record, as it was put into the DHT.
    NodeRecord(NodeRecord),
    /// What another node opened at this agent was refused.
    RefusedPeer(RefusedPeer),
    /// Revocations of an earlier epoch that this one does not know of.
    RevocationReplay(Vec<Signed>),
    /// The audit head that this agent last accepted.
    AuditWitness {
        /// The C2SP checkpoint.
        checkpoint: String,
        /// Whether it was consistent with the one before.
        consistent: bool,
    },
}

/// What another node opened at an agent was refused there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPeer {
    /// The other node, as the agent knows it by its key.
    pub peer: NodeUid,
    /// Why.
    pub reason: &'static str,
    /// How often since it was said last.
    pub count: u64,
}

/// Opens a session.
#[derive(Clone, Debug)]
pub struct Hello {
    /// What the host reports.
    pub facts: HostFacts,
    /// The host's own layer of configuration, as YAML; secrets left out.
    pub host_layer: String,
    /// Where the host's layer comes from, for people.
    pub host_layer_origin: String,
    /// What is in force.
    pub applied: AppliedConfig,
    /// The newest roster entry that the agent holds.
    pub roster: RosterPosition,
    /// The agent's clock.
    pub time: Option<DateTime<Utc>>,
    /// The checkpoint that the agent last accepted, if any.
    pub audit_checkpoint: Option<String>,
    /// The newest desired configuration that the agent holds.
    pub held_config: Option<HeldConfig>,
    /// Of the trust bundle that the agent holds.
    pub held_trust: Option<Digest>,
}

/// A desired configuration, by what tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldConfig {
    /// Which one.
    pub generation: Generation,
    /// Over its layers.
    pub digest: Digest,
}

/// How far an agent's roster goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RosterPosition {
    /// Counts restores.
    pub epoch: Epoch,
    /// The newest entry's number; 0 before the first.
    pub sequence: RosterSequence,
}

/// An answer to a desired state.
#[derive(Clone, Debug)]
pub struct ConfigStatus {
    /// The nonce that is answered.
    pub nonce: u64,
    /// What is in force now, and whether the newest was refused.
    pub applied: AppliedConfig,
    /// Keys that are set but have no effect on this host.
    pub not_in_force: Vec<String>,
}

/// What an agent observes of itself.
#[derive(Clone, Debug)]
pub struct Observed {
    /// By component.
    pub components: Vec<ComponentHealth>,
    /// Addresses and roots, where they changed.
    pub facts: Option<HostFacts>,
    /// The agent's clock.
    pub time: Option<DateTime<Utc>>,
}

/// From the control plane.
#[derive(Clone, Debug)]
pub enum ToAgent {
    /// First of all.
    Welcome(Box<Welcome>),
    /// The configuration that should be in force.
    DesiredConfig {
        /// To be answered with.
        nonce: u64,
        /// What should be in force.
        snapshot: Arc<Snapshot>,
    },
    /// What the agent holds still should be in force.
    UnchangedConfig {
        /// To be answered with.
        nonce: u64,
        /// What it holds.
        held: HeldConfig,
    },
    /// Who is in the fleet.
    Roster {
        /// Whether what the agent holds beside it is to be forgotten.
        full: bool,
        /// In order of their sequence numbers.
        entries: Vec<Arc<Signed>>,
        /// With the last part of an update.
        head: Option<Arc<Signed>>,
    },
    /// What the node should move.
    TransferJobs {
        /// Whether others that the agent has not begun are withdrawn.
        full: bool,
        /// Each once.
        jobs: Vec<Job>,
    },
    /// All that the node should measure now.
    BenchJobs(Vec<BenchJob>),
    /// All syncs that the node is an end of.
    SyncJobs(Vec<SyncJob>),
    /// The end of a transfer was stored.
    TransferAck {
        /// The transfer.
        transfer: TransferId,
        /// Whose end.
        role: TransferRole,
    },
    /// The answer to a question for addresses.
    NodeRecords {
        /// Of the question.
        request_id: u64,
        /// Those that are known.
        records: Vec<NodeRecord>,
    },
    /// The ring that stores DHT records, `IP:PORT` each.
    DhtRing(Arc<[String]>),
    /// The newest signed audit head.
    AuditCheckpoint {
        /// The C2SP checkpoint.
        checkpoint: Arc<str>,
        /// RFC 6962 consistency path.
        consistency: Arc<[[u8; 32]]>,
        /// The size that the path starts from.
        from_size: u64,
        /// Where a restore lost the end of the log that the agent saw: the record of that.
        restore: Option<RestoreProof>,
    },
    /// Close, and come back later.
    ComeBack(ComeBack),
}

/// The record of a restore, and that it stands in a head.
#[derive(Clone, Debug)]
pub struct RestoreProof {
    /// The record in canonical form.
    pub leaf: Vec<u8>,
    /// RFC 6962 inclusion path.
    pub inclusion: Vec<[u8; 32]>,
}

/// Opens a session.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The control plane's clock.
    pub time: DateTime<Utc>,
    /// The program's version.
    pub version: String,
    /// What to trust, where the agent does not hold it.
    pub trust_bundle: Option<TrustBundle>,
    /// Where the control plane is, `HOST:PORT` each.
    pub endpoints: Vec<String>,
    /// The address that this session comes from.
    pub observed_address: String,
    /// The node's name.
    pub name: NodeName,
    /// How often the agent should be heard, in seconds.
    pub heartbeat_seconds: u32,
}

/// Close, and come back later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComeBack {
    /// At least so long.
    pub after_seconds: u32,
    /// Why.
    pub reason: String,
}

/// Why a session ended, when it was not the agent that closed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The node opened a newer one.
    #[error("the node opened a newer session")]
    Replaced,
    /// The node is not in the fleet any more.
    #[error("the node was removed from the fleet")]
    Revoked,
    /// The node is not in the fleet.
    #[error("the node is not known to this fleet")]
    Unknown,
    /// Nothing was heard for too long.
    #[error("nothing was heard of the agent for {0} seconds")]
    Silent(u64),
    /// The agent broke the protocol.
    #[error("{0}")]
    Malformed(String),
    /// The database could not be reached.
    #[error("the control plane cannot reach its database; come back later")]
    Unavailable,
    /// The server is stopping; a [`ToAgent::ComeBack`] went before.
    #[error("{}", .0.reason)]
    Stopping(ComeBack),
    /// The server has as many sessions as it may, or begins as many; a [`ToAgent::ComeBack`] went before.
    #[error("{}", .0.reason)]
    Busy(ComeBack),
}
