//! An agent's session: the fleet's nouns from and to messages.

use std::time::Duration;

use control_plane_fleet::message::{
    BenchJob, ComeBack, ConfigStatus, FromAgent, HeldConfig, Hello, Job, NodeRecord, Observed, RefusedPeer,
    RosterPosition, SessionEnd, SyncJob, ToAgent, Welcome,
};
use control_plane_fleet::{MAX_LOOKUP_NODES, Snapshot};
use proto_model::{
    AppliedConfig, BenchReport, ComponentHealth, Digest, Generation, HostFacts, InvalidField, NodeId, PublicKey,
    SyncReport, TransferReport, to_timestamp,
};
use proto_rpc::agent::{self as rpc, agent_message, server_message};
use proto_wire::Signed;
use tonic::{Code, Status};

use crate::error::{self, Reason};

/// The longest host layer: as a document of the control plane.
const MAX_HOST_LAYER_BYTES: usize = proto_model::config::MAX_DOCUMENT_BYTES;

/// The largest value of a node record: BEP 44 takes 1,000 bytes with its length in front.
const MAX_RECORD_BYTES: usize = 1_000;

/// Revocations in one message (agent.proto).
const MAX_REPLAYED: usize = 500;

/// Keys that an agent says have no effect: more than there are keys.
const MAX_NOT_IN_FORCE: usize = 500;

/// Refusals that an agent may report at once: it counts them for seconds, so more is no count.
const MAX_REFUSED_AT_ONCE: u64 = 1_000_000;

/// Why nothing more comes from an agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The connection.
    #[error("the connection ended: {0}")]
    Connection(String),
    /// What opens the session is not understood.
    #[error("{0}")]
    Hello(#[from] InvalidField),
}

/// One message, or none for one that is not understood: of a newer agent, or damaged. It does not end the session, since what an agent
/// repeats until it is heard would end the next one too.
pub(super) fn incoming(message: Result<rpc::AgentMessage, Status>) -> Option<Result<FromAgent, Broken>> {
    let message = match message {
        Ok(message) => message.message?,
        Err(status) => return Some(Err(Broken::Connection(status.message().to_owned()))),
    };
    if let agent_message::Message::Hello(hello) = message {
        return Some(parse_hello(hello).map(Box::new).map(FromAgent::Hello).map_err(Broken::Hello));
    }
    match parse(message) {
        Ok(message) => Some(Ok(message)),
        Err(error) => {
            tracing::warn!(error = %error, "A message of an agent is not understood and left out");
            None
        }
    }
}

fn parse(message: agent_message::Message) -> Result<FromAgent, InvalidField> {
    use agent_message::Message;
    match message {
        Message::Hello(hello) => parse_hello(hello).map(Box::new).map(FromAgent::Hello),
        Message::ConfigStatus(status) => Ok(FromAgent::ConfigStatus(ConfigStatus {
            nonce: status.nonce,
            applied: parse_applied(status.applied)?,
            not_in_force: status
                .not_in_force
                .iter()
                .take(MAX_NOT_IN_FORCE)
                .map(|key| proto_model::escape_str(key))
                .collect(),
        })),
        Message::Observed(observed) => parse_observed(observed).map(FromAgent::Observed),
        Message::TransferReport(report) => {
            TransferReport::try_from(report).map(Box::new).map(FromAgent::TransferReport)
        }
        Message::BenchReport(report) => BenchReport::try_from(report).map(Box::new).map(FromAgent::BenchReport),
        Message::SyncReport(report) => SyncReport::try_from(report).map(Box::new).map(FromAgent::SyncReport),
        Message::LookupNodes(lookup) => {
            Ok(FromAgent::LookupNodes { request_id: lookup.request_id, node_ids: parse_ids(&lookup.node_ids)? })
        }
        Message::NodeRecord(record) => parse_record(record).map(FromAgent::NodeRecord),
        Message::RefusedPeer(refused) => Ok(FromAgent::RefusedPeer(RefusedPeer {
            peer: refused.peer_uid.parse().map_err(|_form| InvalidField::new("peer_uid", "is no uid"))?,
            reason: known_reason(&refused.reason),
            count: refused.count.clamp(1, MAX_REFUSED_AT_ONCE),
        })),
        Message::RevocationReplay(replay) => {
            let entries = replay.entries.into_iter().take(MAX_REPLAYED).map(Signed::try_from);
            entries
                .collect::<Result<_, _>>()
                .map(FromAgent::RevocationReplay)
                .map_err(|_length| InvalidField::new("entries", "a signature has 64 bytes"))
        }
        Message::AuditWitness(witness) => {
            Ok(FromAgent::AuditWitness { checkpoint: witness.checkpoint, consistent: witness.consistent })
        }
    }
}

/// An agent's word goes into the log only where it is one that is known.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 5] =
        ["GRANT_INVALID", "GRANT_NOT_YET_VALID", "GRANT_EXPIRED", "GRANT_OF_OTHER_EPOCH", "NOT_ACCEPTED"];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("of another kind")
}

fn parse_hello(hello: rpc::Hello) -> Result<Hello, InvalidField> {
    if hello.host_layer.len() > MAX_HOST_LAYER_BYTES {
        return Err(InvalidField::new("host_layer", format!("has more than {MAX_HOST_LAYER_BYTES} bytes")));
    }
    let facts = HostFacts::try_from(hello.facts.unwrap_or_default()).map_err(|field| field.within("facts"))?;
    Ok(Hello {
        facts,
        // PostgreSQL's text takes no zero characters, and YAML none either.
        host_layer: hello.host_layer.replace('\0', ""),
        host_layer_origin: proto_model::escape_str(&hello.host_layer_origin),
        applied: parse_applied(hello.applied)?,
        roster: RosterPosition { epoch: hello.roster_epoch.into(), sequence: hello.roster_sequence.into() },
        time: hello.time.and_then(|time| proto_model::from_timestamp(time).ok()),
        audit_checkpoint: Some(hello.audit_checkpoint).filter(|checkpoint| !checkpoint.is_empty()),
        held_config: hello.held_config.and_then(parse_held),
        held_trust: Digest::try_from(hello.trust_bundle_digest.as_slice()).ok(),
    })
}

/// What is not understood is not held: its agent is sent all.
fn parse_held(held: rpc::HeldConfig) -> Option<HeldConfig> {
    let generation = Generation { epoch: held.epoch.into(), number: held.generation };
    Digest::try_from(held.digest.as_slice()).ok().map(|digest| HeldConfig { generation, digest })
}

fn parse_applied(applied: Option<proto_rpc::v1::AppliedConfig>) -> Result<AppliedConfig, InvalidField> {
    AppliedConfig::try_from(applied.unwrap_or_default()).map_err(|field| field.within("applied"))
}

fn parse_observed(observed: rpc::Observed) -> Result<Observed, InvalidField> {
    let components = observed.components.into_iter().take(ComponentHealth::MAX_REPORTED).map(ComponentHealth::try_from);
    Ok(Observed {
        components: components.collect::<Result<_, _>>()?,
        facts: observed.facts.map(HostFacts::try_from).transpose().map_err(|field| field.within("facts"))?,
        time: observed.time.and_then(|time| proto_model::from_timestamp(time).ok()),
    })
}

fn parse_ids(ids: &[String]) -> Result<Vec<NodeId>, InvalidField> {
    if ids.len() > MAX_LOOKUP_NODES {
        return Err(InvalidField::new("node_ids", format!("has more than {MAX_LOOKUP_NODES} ids")));
    }
    ids.iter().map(|id| id.parse().map_err(|error| InvalidField::new("node_ids", error))).collect()
}

fn parse_record(record: rpc::NodeRecord) -> Result<NodeRecord, InvalidField> {
    if record.value.len() > MAX_RECORD_BYTES {
        return Err(InvalidField::new("value", format!("has more than {MAX_RECORD_BYTES} bytes")));
    }
    if record.signature.len() != 64 {
        return Err(InvalidField::new("signature", "64 bytes are expected"));
    }
    Ok(NodeRecord {
        public_key: PublicKey::try_from(record.public_key.as_slice())
            .map_err(|error| InvalidField::new("public_key", error))?,
        seq: record.seq,
        value: record.value,
        signature: record.signature,
        // Where it is seen is ours to say.
        observed_addresses: Vec::new(),
    })
}

/// One message to an agent, or the status that ends its session.
pub(super) fn outgoing(message: Result<ToAgent, SessionEnd>) -> Result<rpc::ServerMessage, Status> {
    use server_message::Message;
    let message = match message.map_err(ended)? {
        ToAgent::Welcome(welcome) => Message::Welcome(write_welcome(*welcome)),
        ToAgent::DesiredConfig { nonce, snapshot } => Message::DesiredConfig(write_desired(nonce, &snapshot)),
        ToAgent::UnchangedConfig { nonce, held } => Message::DesiredConfig(rpc::DesiredConfig {
            epoch: held.generation.epoch.value(),
            generation: held.generation.number,
            nonce,
            digest: held.digest.into(),
            layers: Vec::new(),
            unchanged: true,
        }),
        ToAgent::Roster { full, entries, head } => Message::Roster(rpc::RosterUpdate {
            full,
            entries: entries.iter().map(|entry| Signed::clone(entry).into()).collect(),
            head: head.map(|head| Signed::clone(&head).into()),
        }),
        ToAgent::TransferJobs { full, jobs } => {
            Message::TransferJobs(rpc::TransferJobs { full, jobs: jobs.into_iter().map(write_job).collect() })
        }
        ToAgent::BenchJobs(jobs) => {
            Message::BenchJobs(rpc::BenchJobs { jobs: jobs.into_iter().map(write_bench_job).collect() })
        }
        ToAgent::SyncJobs(jobs) => {
            Message::SyncJobs(rpc::SyncJobs { jobs: jobs.into_iter().map(write_sync_job).collect() })
        }
        ToAgent::TransferAck { transfer, role } => Message::TransferAck(rpc::TransferAck {
            transfer_id: transfer.to_string(),
            role: rpc::TransferRole::from(role).into(),
        }),
        ToAgent::NodeRecords { request_id, records } => Message::NodeRecords(rpc::NodeRecords {
            request_id,
            records: records.into_iter().map(write_record).collect(),
        }),
        ToAgent::DhtRing(nodes) => Message::DhtRing(rpc::DhtRing { nodes: nodes.to_vec() }),
        ToAgent::AuditCheckpoint { checkpoint, consistency, from_size, restore } => {
            let (restore_leaf, inclusion) = restore.map(|proof| (proof.leaf, proof.inclusion)).unwrap_or_default();
            Message::AuditCheckpoint(rpc::AuditCheckpoint {
                checkpoint: checkpoint.as_ref().to_owned(),
                consistency: consistency.iter().map(|hash| hash.to_vec()).collect(),
                from_size,
                restore_leaf,
                restore_inclusion: inclusion.iter().map(|hash| hash.to_vec()).collect(),
            })
        }
        ToAgent::ComeBack(ComeBack { after_seconds, reason }) => {
            Message::ComeBack(rpc::ComeBack { after_seconds, reason })
        }
    };
    Ok(rpc::ServerMessage { message: Some(message) })
}

fn write_welcome(welcome: Welcome) -> rpc::Welcome {
    rpc::Welcome {
        time: Some(to_timestamp(welcome.time)),
        version: welcome.version,
        trust_bundle: welcome.trust_bundle.map(Into::into),
        endpoints: welcome.endpoints,
        observed_address: welcome.observed_address,
        name: welcome.name.into(),
        heartbeat_seconds: welcome.heartbeat_seconds,
    }
}

fn write_desired(nonce: u64, snapshot: &Snapshot) -> rpc::DesiredConfig {
    let layers = snapshot.layers.iter().map(|layer| rpc::ConfigLayer {
        name: layer.name.to_string(),
        revision: layer.revision.value(),
        document: layer.document.as_ref().to_owned(),
    });
    rpc::DesiredConfig {
        epoch: snapshot.generation.epoch.value(),
        generation: snapshot.generation.number,
        nonce,
        digest: snapshot.digest.into(),
        layers: layers.collect(),
        unchanged: false,
    }
}

fn write_job(job: Job) -> rpc::TransferJob {
    rpc::TransferJob {
        transfer_id: job.transfer.to_string(),
        role: rpc::TransferRole::from(job.role).into(),
        grant: Some(job.grant.into()),
        traceparent: job.traceparent,
        cancel: job.cancel,
        pause: job.pause,
        order: job.order.value(),
    }
}

fn write_bench_job(job: BenchJob) -> rpc::BenchJob {
    rpc::BenchJob { bench_id: job.bench.to_string(), grant: Some(job.grant.into()), traceparent: job.traceparent }
}

fn write_sync_job(job: SyncJob) -> rpc::SyncJob {
    rpc::SyncJob {
        sync_id: job.sync.to_string(),
        role: rpc::TransferRole::from(job.role).into(),
        grant: Some(job.grant.into()),
        pause: job.pause,
        order: job.order.value(),
        run_request: job.run_request,
        every_ms: job.every_ms,
    }
}

fn write_record(record: NodeRecord) -> rpc::NodeRecord {
    rpc::NodeRecord {
        node_id: record.public_key.node_id().to_string(),
        public_key: record.public_key.into(),
        seq: record.seq,
        value: record.value,
        signature: record.signature,
        observed_addresses: record.observed_addresses,
    }
}

fn ended(end: SessionEnd) -> Status {
    let text = end.to_string();
    match end {
        SessionEnd::Replaced => error::status(Code::Aborted, Reason::WrongState, text, &[]),
        SessionEnd::Revoked => error::permission_denied(Reason::Revoked, text, &[]),
        SessionEnd::Unknown => error::unauthenticated(Reason::CredentialsRefused, text),
        SessionEnd::Silent(_) => error::status(Code::DeadlineExceeded, Reason::NodeOffline, text, &[]),
        SessionEnd::Malformed(_) => error::invalid("message", text),
        SessionEnd::Unavailable => error::unavailable(Reason::DatabaseUnavailable, text),
        SessionEnd::Stopping(_) => error::unavailable(Reason::Stopping, text),
        SessionEnd::Busy(come_back) => {
            error::exhausted(Reason::RateLimited, text, Duration::from_secs(come_back.after_seconds.into()))
        }
    }
}
