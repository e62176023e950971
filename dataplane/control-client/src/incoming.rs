//! What the control plane says in a session, parsed.

use std::{net::SocketAddr, time::Duration};

use chrono::{DateTime, Utc};
use proto_model::{
    BenchId, Epoch, Generation, NodeName, PublicKey, SyncId, SyncSpec, Traceparent, TransferId, TransferRole,
    TrustBundle, from_timestamp,
};
use proto_rpc::agent::{self as rpc, server_message::Message};
use proto_wire::signed::Signed;

use crate::endpoint::{Endpoint, MAX_ENDPOINTS};

/// So many jobs are taken in one message: more than an agent works on in a day; the rest comes with the next one.
const MAX_JOBS: usize = 10_000;
/// So many benches are taken; an agent runs few at once.
const MAX_BENCHES: usize = 64;
/// So many syncs are taken: as many as a node is an end of at the control plane.
pub const MAX_SYNCS: usize = 256;
/// So many records of one answer are read; a question asks for at most 100.
const MAX_RECORDS: usize = 100;
/// So many nodes of the ring are taken; 3 to 7 are meant.
const MAX_RING: usize = 64;
/// A layer of configuration is at most so long, and there are at most so many.
const MAX_LAYER_BYTES: usize = 1024 * 1024;
/// As above.
const MAX_LAYERS: usize = 64;
/// Observed is sent at least so often, whatever is asked.
const MAX_HEARTBEAT: Duration = Duration::from_secs(300);

/// The configuration that should be in force, as far as the control plane decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Which one.
    pub generation: Generation,
    /// To be answered with.
    pub nonce: u64,
    /// Over the layers: an equal one is in force already.
    pub digest: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<DesiredLayer>,
}

/// One layer of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredLayer {
    /// `configs/fleet`, `configs/node.NAME`.
    pub name: String,
    /// Its revision.
    pub revision: u64,
    /// YAML.
    pub document: String,
}

/// What the node should move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// Whether others that have not begun are withdrawn.
    pub full: bool,
    /// Each once.
    pub jobs: Vec<Job>,
}

/// One transfer, for one of its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Which.
    pub transfer: TransferId,
    /// What this node does in it.
    pub role: TransferRole,
    /// By what right; not opened yet.
    pub grant: Signed,
    /// W3C `traceparent` of the request that made it; empty where it has none.
    pub traceparent: String,
    /// Whether it is to be stopped.
    pub cancel: bool,
    /// Whether it is held.
    pub pause: bool,
    /// Grows with every change of what the ends should do.
    pub order: u64,
}

/// One bench that the node is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchJob {
    /// Which.
    pub bench: BenchId,
    /// By what right; not opened yet.
    pub grant: Signed,
    /// Of the request that made it.
    pub traceparent: Option<Traceparent>,
}

/// One sync, for one of its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncJob {
    /// Which.
    pub sync: SyncId,
    /// What this node does in it.
    pub role: TransferRole,
    /// By what standing right; not opened yet.
    pub grant: Signed,
    /// Whether it is held.
    pub pause: bool,
    /// Grows with every change of what the ends should do.
    pub order: u64,
    /// Grows with every run that is asked for beside those that are due.
    pub run_request: u64,
    /// The least time from the beginning of one run to that of the next.
    pub every: Duration,
}

/// A node's signed record, as the control plane keeps it; the signature is the reader's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRecord {
    /// Whose.
    pub public_key: PublicKey,
    /// BEP 44 `seq`.
    pub seq: i64,
    /// BEP 44 `v`, before bencoding.
    pub value: Vec<u8>,
    /// Over both.
    pub signature: Vec<u8>,
    /// Where the control plane sees the node for QUIC; on its word alone.
    pub observed: Vec<SocketAddr>,
}

/// The control plane's first words.
#[derive(Debug, Clone)]
pub(crate) struct Welcome {
    pub time: Option<DateTime<Utc>>,
    pub version: String,
    pub bundle: Option<TrustBundle>,
    pub endpoints: Vec<Endpoint>,
    pub observed_address: Option<SocketAddr>,
    pub name: Option<NodeName>,
    pub heartbeat: Duration,
}

/// One message.
#[derive(Debug)]
pub(crate) enum Incoming {
    Welcome(Box<Welcome>),
    Desired(Desired),
    /// What is held still should be in force; `layers` is empty.
    Unchanged(Desired),
    Roster(rpc::RosterUpdate),
    Jobs(Jobs),
    /// All there are.
    Benches(Vec<BenchJob>),
    /// All there are.
    Syncs(Vec<SyncJob>),
    Ack {
        transfer: String,
        role: i32,
    },
    Records {
        request: u64,
        records: Vec<PeerRecord>,
    },
    Ring(Vec<SocketAddr>),
    Checkpoint(rpc::AuditCheckpoint),
    ComeBack {
        after: Duration,
        reason: String,
    },
    /// Of a newer control plane.
    Unknown,
}

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncomingError {
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("{field}: {found} are over the bound of {bound}")]
    TooMany { field: &'static str, found: usize, bound: usize },
}

impl TryFrom<rpc::ServerMessage> for Incoming {
    type Error = IncomingError;

    fn try_from(message: rpc::ServerMessage) -> Result<Self, IncomingError> {
        Ok(match message.message {
            None => Self::Unknown,
            Some(Message::Welcome(welcome)) => Self::Welcome(Box::new(parse_welcome(welcome)?)),
            Some(Message::DesiredConfig(desired)) if desired.unchanged => Self::Unchanged(parse_desired(desired)?),
            Some(Message::DesiredConfig(desired)) => Self::Desired(parse_desired(desired)?),
            Some(Message::Roster(update)) => Self::Roster(update),
            Some(Message::TransferJobs(jobs)) => Self::Jobs(parse_jobs(jobs)?),
            Some(Message::BenchJobs(jobs)) => {
                let jobs = jobs.jobs.into_iter().take(MAX_BENCHES).map(parse_bench);
                Self::Benches(jobs.collect::<Result<_, _>>()?)
            }
            Some(Message::SyncJobs(jobs)) => {
                // All or nothing: one that is missing was deleted.
                let found = jobs.jobs.len();
                if found > MAX_SYNCS {
                    return Err(IncomingError::TooMany { field: "syncs", found, bound: MAX_SYNCS });
                }
                Self::Syncs(jobs.jobs.into_iter().map(parse_sync).collect::<Result<_, _>>()?)
            }
            Some(Message::TransferAck(ack)) => Self::Ack { transfer: ack.transfer_id, role: ack.role },
            Some(Message::NodeRecords(records)) => {
                let request = records.request_id;
                Self::Records { request, records: parse_records(records) }
            }
            Some(Message::DhtRing(ring)) => Self::Ring(addresses(&ring.nodes, MAX_RING)),
            Some(Message::AuditCheckpoint(checkpoint)) => Self::Checkpoint(checkpoint),
            Some(Message::ComeBack(come_back)) => Self::ComeBack {
                after: Duration::from_secs(come_back.after_seconds.into()),
                reason: proto_model::escape(come_back.reason.as_bytes()),
            },
        })
    }
}

fn wrong<E: std::fmt::Display>(field: &'static str) -> impl FnOnce(E) -> IncomingError {
    move |reason| IncomingError::Field { field, reason: reason.to_string() }
}

fn parse_welcome(welcome: rpc::Welcome) -> Result<Welcome, IncomingError> {
    let heartbeat = Duration::from_secs(welcome.heartbeat_seconds.into());
    Ok(Welcome {
        time: welcome.time.and_then(|time| from_timestamp(time).ok()),
        version: proto_model::escape(welcome.version.as_bytes()),
        bundle: welcome.trust_bundle.map(TrustBundle::try_from).transpose().map_err(wrong("welcome.trust_bundle"))?,
        endpoints: welcome.endpoints.iter().filter_map(|text| text.parse().ok()).take(MAX_ENDPOINTS).collect(),
        observed_address: welcome.observed_address.parse().ok(),
        name: Some(&welcome.name)
            .filter(|name| !name.is_empty())
            .map(|name| name.parse())
            .transpose()
            .map_err(wrong("welcome.name"))?,
        heartbeat: if heartbeat.is_zero() { MAX_HEARTBEAT } else { heartbeat.min(MAX_HEARTBEAT) },
    })
}

fn parse_desired(desired: rpc::DesiredConfig) -> Result<Desired, IncomingError> {
    let layers = desired.layers;
    if layers.len() > MAX_LAYERS {
        return Err(IncomingError::TooMany { field: "layers", found: layers.len(), bound: MAX_LAYERS });
    }
    for layer in &layers {
        let found = layer.document.len();
        if found > MAX_LAYER_BYTES {
            return Err(IncomingError::TooMany { field: "bytes of a layer", found, bound: MAX_LAYER_BYTES });
        }
    }
    Ok(Desired {
        generation: Generation { epoch: Epoch::new(desired.epoch), number: desired.generation },
        nonce: desired.nonce,
        digest: desired.digest,
        layers: layers
            .into_iter()
            .map(|layer| DesiredLayer { name: layer.name, revision: layer.revision, document: layer.document })
            .collect(),
    })
}

fn parse_jobs(update: rpc::TransferJobs) -> Result<Jobs, IncomingError> {
    if update.jobs.len() > MAX_JOBS {
        return Err(IncomingError::TooMany { field: "jobs", found: update.jobs.len(), bound: MAX_JOBS });
    }
    let jobs = update.jobs.into_iter().map(parse_job).collect::<Result<_, _>>()?;
    Ok(Jobs { full: update.full, jobs })
}

fn parse_job(job: rpc::TransferJob) -> Result<Job, IncomingError> {
    Ok(Job {
        transfer: job.transfer_id.parse().map_err(wrong("jobs.transfer_id"))?,
        role: TransferRole::from_number(job.role).map_err(wrong("jobs.role"))?,
        grant: job.grant.unwrap_or_default().try_into().map_err(wrong("jobs.grant"))?,
        traceparent: job.traceparent,
        cancel: job.cancel,
        pause: job.pause,
        order: job.order,
    })
}

fn parse_bench(job: rpc::BenchJob) -> Result<BenchJob, IncomingError> {
    Ok(BenchJob {
        bench: job.bench_id.parse().map_err(wrong("jobs.bench_id"))?,
        grant: job.grant.unwrap_or_default().try_into().map_err(wrong("jobs.grant"))?,
        traceparent: Traceparent::from_optional_text(&job.traceparent),
    })
}

fn parse_sync(job: rpc::SyncJob) -> Result<SyncJob, IncomingError> {
    Ok(SyncJob {
        sync: job.sync_id.parse().map_err(wrong("syncs.sync_id"))?,
        role: TransferRole::from_number(job.role).map_err(wrong("syncs.role"))?,
        grant: job.grant.unwrap_or_default().try_into().map_err(wrong("syncs.grant"))?,
        pause: job.pause,
        order: job.order,
        run_request: job.run_request,
        every: SyncSpec::check_every(Duration::from_millis(job.every_ms)).map_err(wrong("syncs.every_ms"))?,
    })
}

/// A record that cannot be read is left out: the others are still of use.
fn parse_records(records: rpc::NodeRecords) -> Vec<PeerRecord> {
    let record = |record: rpc::NodeRecord| {
        let public_key = PublicKey::try_from(record.public_key.as_slice()).ok()?;
        // The id is of the key, whatever the message says.
        if public_key.node_id().to_string() != record.node_id {
            return None;
        }
        Some(PeerRecord {
            public_key,
            seq: record.seq,
            value: record.value,
            signature: record.signature,
            observed: addresses(&record.observed_addresses, 16),
        })
    };
    records.records.into_iter().take(MAX_RECORDS).filter_map(record).collect()
}

fn addresses(texts: &[String], bound: usize) -> Vec<SocketAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).take(bound).collect()
}
