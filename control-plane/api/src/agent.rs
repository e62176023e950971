//! `dwcp.agent.v1.AgentService`: how a host gets in, renews its certificate, tries the way in; its session is the fleet's.

mod session;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use control_plane_pki::JoinSecret;
use control_plane_store::{
    Actor, Context, Refusal,
    enrolment::{self, Candidate, EnrolError, RenewError, Renewal},
    join_tokens::JoinTokenState,
};
use foundation_listener::limit_hits;
use futures::{StreamExt as _, stream::BoxStream};
use proto_model::{HostFacts, NodeName, NodeUid};
use proto_rpc::agent::{self as rpc, agent_service_server::AgentService};
use tokio::net::UdpSocket;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    State,
    auth::{Remote, caller, connect_info},
    error::{self, Reason},
    rate_limit::RateLimit,
    request,
};

/// The largest certificate request: one over an Ed25519 key has about 200 bytes.
const MAX_CSR_BYTES: usize = 4096;
/// What a probe's datagram carries.
const NONCE_BYTES: usize = 16;
/// Probes of one node: `join` and `netcheck` make a few.
const PROBES_PER_MINUTE: u32 = 30;

/// The service.
#[derive(Clone, Debug)]
pub struct Agents {
    state: State,
    entries: Arc<RateLimit<IpAddr>>,
    probes: Arc<RateLimit<NodeUid>>,
}

impl Agents {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        let minute = Duration::from_mins(1);
        let entries = state.server.max_entries;
        Self {
            state,
            entries: Arc::new(RateLimit::new(entries, minute)),
            probes: Arc::new(RateLimit::new(PROBES_PER_MINUTE, minute)),
        }
    }

    /// Who has no node's key can name any node or token: so these records are nobody's.
    fn note(&self, action: &'static str, resource: &str, reason: &'static str, remote: Remote) {
        let from = match remote {
            Remote::Tcp(address) => Some(address.ip()),
            Remote::Unix => None,
        };
        let refusal = Refusal { actor: Actor::Anonymous, action, resource, reason, from };
        self.state.refusals.note(refusal, &request::trace_id());
    }

    fn admit_entry(&self, action: &'static str, remote: Remote) -> Result<(), Status> {
        let Remote::Tcp(address) = remote else { return Ok(()) };
        self.entries.admit(address.ip(), self.state.clock.now()).map_err(|after| {
            limit_hits::hit("limits.entries_per_minute");
            self.note(action, "nodes", "too many calls from one address", remote);
            error::exhausted(Reason::RateLimited, "too many hosts join from this address; try again", after)
        })
    }

    fn refuse_entry(&self, error: EnrolError, remote: Remote) -> Status {
        let note = |resource: &str, reason| self.note("node.enroll", resource, reason, remote);
        match error {
            EnrolError::Database(error) => error::store(error),
            EnrolError::Request(_) | EnrolError::WeakKey => error::invalid("csr", error.to_string()),
            EnrolError::UnknownToken => {
                note("joinTokens", "an unknown token");
                error::unauthenticated(Reason::JoinTokenUnknown, "the join token is not known")
            }
            EnrolError::TokenRefused { state, resource } => {
                let (reason, what, noted) = match state {
                    JoinTokenState::Expired => (Reason::JoinTokenExpired, "has expired", "the token has expired"),
                    JoinTokenState::Revoked => (Reason::JoinTokenRevoked, "was revoked", "the token was revoked"),
                    JoinTokenState::Used | JoinTokenState::Active => {
                        (Reason::JoinTokenUsed, "is used up", "the token is used up")
                    }
                };
                note(&resource, noted);
                error::permission_denied(reason, format!("the join token {what}; ask for another"), &[])
            }
            EnrolError::NameMissing => error::invalid("name", "is required: the token gives none"),
            EnrolError::NameTaken { name } => {
                note(&name.resource_name(), "the name is taken or reserved");
                error::status(
                    Code::AlreadyExists,
                    Reason::NameTaken,
                    format!(
                        "the name {name} is taken or reserved; `dwcp token create --node {name}` makes a token for it, and \
                         `dwcp node free {name}` frees that of a deleted node"
                    ),
                    &[("name", name.as_str())],
                )
            }
            EnrolError::KeyUsed => {
                note("nodes", "the key is or was another node's");
                error::status(
                    Code::AlreadyExists,
                    Reason::KeyUsed,
                    "this key belongs or belonged to another node; a new data directory makes a new key",
                    &[],
                )
            }
        }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    async fn enroll(&self, request: Request<rpc::EnrollRequest>) -> Result<Response<rpc::EnrollResponse>, Status> {
        let remote = connect_info(&request)?.remote;
        self.admit_entry("node.enroll", remote)?;
        let request = request.into_inner();
        if JoinSecret::parse(&request.token).is_err() {
            self.note("node.enroll", "joinTokens", "not a join token", remote);
        }
        let candidate = parse_candidate(request, remote)?;
        let context = entry_context();
        let keys = self.state.keys.clone();
        let enrolled = self.state.db.write("enroll-node", context, move |tx| {
            Box::pin(async move { enrolment::enrol(tx, &keys, candidate).await })
        });
        let enrolled = enrolled.await.map_err(|error| self.refuse_entry(error, remote))?;
        Ok(Response::new(rpc::EnrollResponse {
            name: enrolled.node.name.into(),
            uid: enrolled.node.uid.to_string(),
            certificate: enrolled.certificate,
            trust_bundle: Some(self.state.keys.trust_bundle().into()),
            endpoints: self.state.advertised.to_vec(),
        }))
    }

    async fn renew(&self, request: Request<rpc::RenewRequest>) -> Result<Response<rpc::RenewResponse>, Status> {
        let remote = connect_info(&request)?.remote;
        self.admit_entry("node.renew", remote)?;
        let renewal = parse_renewal(request.into_inner())?;
        let context = entry_context();
        let keys = self.state.keys.clone();
        let renewed = self.state.db.write("renew-certificate", context, move |tx| {
            Box::pin(async move { enrolment::renew(tx, &keys, renewal).await })
        });
        let renewed = renewed.await.map_err(|error| match error {
            RenewError::Database(error) => error::store(error),
            RenewError::Request(_) => error::invalid("csr", error.to_string()),
            RenewError::Skew => {
                self.note("node.renew", "nodes", "the request is old, or the clocks differ", remote);
                error::failed_precondition(Reason::ClockSkew, "time", error.to_string())
            }
            RenewError::Refused => {
                self.note("node.renew", "nodes", "deleted, another key, or not signed with it", remote);
                error::unauthenticated(Reason::CredentialsRefused, "the node is not known by this key")
            }
        })?;
        Ok(Response::new(rpc::RenewResponse {
            certificate: renewed.certificate,
            trust_bundle: Some(self.state.keys.trust_bundle().into()),
        }))
    }

    async fn probe_reach(
        &self,
        request: Request<rpc::ProbeReachRequest>,
    ) -> Result<Response<rpc::ProbeReachResponse>, Status> {
        let prober = caller(&request)?.clone();
        let node = prober.node()?;
        let Remote::Tcp(address) = connect_info(&request)?.remote else {
            return Err(error::failed_precondition(
                Reason::WrongState,
                "udp_port",
                "this call did not come over the network",
            ));
        };
        self.probes.admit(node, self.state.clock.now()).map_err(|after| {
            let refusal = Refusal {
                actor: prober.actor(),
                action: "call",
                resource: "dwcp.agent.v1.AgentService/ProbeReach",
                reason: "too many probes",
                from: Some(address.ip()),
            };
            self.state.refusals.note(refusal, &request::trace_id());
            error::exhausted(Reason::RateLimited, "too many probes; try again", after)
        })?;
        let request = request.into_inner();
        let port = u16::try_from(request.udp_port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| error::invalid("udp_port", "a port from 1 to 65535 is expected"))?;
        if request.nonce.len() != NONCE_BYTES {
            return Err(error::invalid("nonce", format!("{NONCE_BYTES} bytes are expected")));
        }
        // Only ever to where the call comes from: nobody can aim this at somebody else.
        let target = SocketAddr::new(address.ip().to_canonical(), port);
        send_datagram(target, &request.nonce)
            .await
            .map_err(|error| error::internal("the datagram could not be sent", &error))?;
        Ok(Response::new(rpc::ProbeReachResponse { observed_address: address.to_string() }))
    }

    type SessionStream = BoxStream<'static, Result<rpc::ServerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<rpc::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = caller(&request)?.node()?;
        let remote = connect_info(&request)?.remote.to_string();
        let incoming =
            request.into_inner().filter_map(|message| std::future::ready(session::incoming(message))).boxed();
        let outgoing = self.state.fleet.session(node, remote, incoming).map(session::outgoing);
        Ok(Response::new(outgoing.boxed()))
    }
}

/// Who comes in is known only when it is in: the store puts the node in this place.
fn entry_context() -> Context {
    Context { actor: Actor::Anonymous, trace_id: request::trace_id(), request: None }
}

async fn send_datagram(target: SocketAddr, payload: &[u8]) -> std::io::Result<()> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.send_to(payload, target).await?;
    Ok(())
}

fn parse_candidate(request: rpc::EnrollRequest, remote: Remote) -> Result<Candidate, Status> {
    let secret = JoinSecret::parse(&request.token).map_err(error::at("token"))?;
    require_csr(&request.csr)?;
    let facts = HostFacts::try_from(request.facts.unwrap_or_default())
        .map_err(|field| error::invalid_field(field.within("facts")))?;
    let name = match request.name.as_str() {
        "" => NodeName::from_hostname(&facts.hostname),
        name => Some(name.parse().map_err(error::at("name"))?),
    };
    Ok(Candidate { secret, csr: request.csr, name, facts, remote: remote.to_string() })
}

fn parse_renewal(request: rpc::RenewRequest) -> Result<Renewal, Status> {
    require_csr(&request.csr)?;
    let time = request.time.ok_or_else(|| error::invalid("time", "is required"))?;
    let time = proto_model::from_timestamp(time).map_err(error::at("time"))?;
    Ok(Renewal {
        uid: request.uid.parse().map_err(error::at("uid"))?,
        time_ms: time.timestamp_millis(),
        signature: request
            .signature
            .try_into()
            .map_err(|_length| error::invalid("signature", "64 bytes are expected"))?,
        csr: request.csr,
    })
}

fn require_csr(csr: &[u8]) -> Result<(), Status> {
    match csr.len() {
        0 => Err(error::invalid("csr", "is required")),
        1..=MAX_CSR_BYTES => Ok(()),
        _ => Err(error::invalid("csr", format!("has more than {MAX_CSR_BYTES} bytes"))),
    }
}
