//! One session: Hello, Welcome, then both sides as they like, until it ends.

use std::{sync::Arc, time::Duration};

use dataplane_identity::{RosterPosition, tls};
use proto_model::to_timestamp;
use proto_rpc::agent::{self as rpc, AgentMessage, agent_message::Message, agent_service_client::AgentServiceClient};
use tokio::{
    sync::{mpsc, watch},
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic_types::StatusExt as _;

use crate::{
    client::Driver,
    dial::dial,
    endpoint::Endpoint,
    handle::{Introduction, Standing},
    incoming::{Incoming, Welcome},
};

/// Until the control plane's Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// What is said waits in so many messages for HTTP/2; above that it waits where the newest takes the older one's place.
const SEND_QUEUE: usize = 8;
/// A full roster of 10,000 entries of 300 bytes is 3 MB; with room for long labels.
const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// How often the certificate's age is looked at.
const RENEW_CHECK: Duration = Duration::from_secs(3600);

/// What a host is told whose node was deleted.
pub const REVOKED: &str = "an operator revoked this node";

/// What a host is told that joined after the backup was made that the control plane was restored from.
pub const FORGOTTEN: &str = "the control plane does not know this node";

/// How a control plane says that it has no such node.
const UNKNOWN_NODE: &str = "not known to this fleet";

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It is to be opened again at once: the agent has something new to say of itself.
    Again,
    /// Nobody takes the jobs any more.
    AgentStops,
    /// The control plane sheds load.
    ComeBack { after: Duration, reason: String },
    /// Anything else.
    Failed(String),
    /// The connection broke, and nobody said why: a refusal that got lost on its way looks like this.
    Broke(String),
}

pub(crate) struct Session {
    endpoint: Endpoint,
    send: mpsc::Sender<AgentMessage>,
    receive: Streaming<rpc::ServerMessage>,
    introduction: watch::Receiver<Introduction>,
    host_layer: String,
    heartbeat: Duration,
}

impl Session {
    /// Dials, says Hello, and waits for the Welcome.
    pub(crate) async fn open(driver: &mut Driver, endpoint: &Endpoint) -> Result<Self, Ended> {
        let tls = tls::grpc_client_config(&driver.options.identity).map_err(failed)?;
        let channel = dial(endpoint, &tls).await.map_err(failed)?;
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut introduction = driver.options.introduction.clone();
        let said = introduction.borrow_and_update().clone();
        let host_layer = said.host_layer.clone();
        let (send, queue) = mpsc::channel(SEND_QUEUE);
        send.send(hello(driver, said)).await.map_err(failed)?;
        let asked = driver.clock.now();
        let asked_utc = driver.clock.utc();
        let opened = async {
            let mut receive = client.session(ReceiverStream::new(queue)).await?.into_inner();
            let first = receive.message().await?;
            Ok::<_, tonic::Status>((receive, first))
        };
        let (receive, first) = timeout(WELCOME_TIMEOUT, opened)
            .await
            .map_err(|_elapsed| Ended::Failed(format!("{endpoint} did not open a session within 15 s")))?
            .map_err(|status| ended(&status))?;
        let first = first.ok_or_else(|| Ended::Failed("the control plane closed the session at once".to_owned()))?;
        let welcome = match Incoming::try_from(first).map_err(failed)? {
            Incoming::Welcome(welcome) => welcome,
            Incoming::ComeBack { after, reason } => return Err(Ended::ComeBack { after, reason }),
            _other => return Err(Ended::Failed("the control plane did not begin with a Welcome".to_owned())),
        };
        let half_way = asked_utc + driver.clock.now().saturating_duration_since(asked) / 2;
        let skew_ms = welcome.time.map(|time| (half_way - time).num_milliseconds());
        let heartbeat = welcome.heartbeat;
        welcomed(driver, endpoint, *welcome, skew_ms).await?;
        Ok(Self { endpoint: endpoint.clone(), send, receive, introduction, host_layer, heartbeat })
    }

    /// Speaks and listens until the session ends.
    pub(crate) async fn run(mut self, driver: &mut Driver) -> Ended {
        let shared = Arc::clone(&driver.shared);
        {
            let outbox = shared.outbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            shared.outgoing.reopened(outbox.waiting().cloned());
        }
        driver.replay_revocations();
        let mut heartbeat = interval(self.heartbeat);
        heartbeat.reset();
        let mut certificate = interval(RENEW_CHECK);
        loop {
            tokio::select! {
                // Every branch is cancel safe.
                message = self.receive.message() => match message {
                    Ok(Some(message)) => if let Err(ended) = take(driver, message).await { return ended },
                    Ok(None) => return Ended::Failed("the control plane closed the session".to_owned()),
                    Err(status) => return ended(&status),
                },
                permit = self.send.reserve(), if shared.outgoing.is_waiting() => match permit {
                    Ok(permit) => if let Some(message) = shared.outgoing.next() {
                        permit.send(stamped(message, driver));
                    },
                    Err(_closed) => return Ended::Failed("the session broke".to_owned()),
                },
                () = shared.outgoing.rung() => {}
                _tick = heartbeat.tick() => shared.outgoing.heartbeat(),
                _tick = certificate.tick() => {
                    if driver.clock.utc() >= driver.options.identity.certificate().renew_at() {
                        driver.renew(&self.endpoint).await;
                    }
                }
                changed = self.introduction.changed() => {
                    if changed.is_err() { return Ended::AgentStops }
                    let said = self.introduction.borrow_and_update().clone();
                    if said.host_layer != self.host_layer { return Ended::Again }
                    shared.outgoing.facts(said.facts.into());
                }
            }
        }
    }
}

fn failed<E: std::error::Error>(error: E) -> Ended {
    Ended::Failed(chain(&error))
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// What the end of a session means.
fn ended(status: &tonic::Status) -> Ended {
    let reason = explain(status);
    // Who is told when to come back obeys, also where that is all that it heard.
    let told = status.get_details_retry_info().and_then(|told| told.retry_delay);
    if let (tonic::Code::ResourceExhausted, Some(after)) = (status.code(), told) {
        return Ended::ComeBack { after, reason };
    }
    if reason.starts_with(BROKE) { Ended::Broke(reason) } else { Ended::Failed(reason) }
}

/// What an explanation begins with where it knows no more.
pub const BROKE: &str = "the session with the control plane broke";

/// What a refusal means for people.
pub(crate) fn explain(status: &tonic::Status) -> String {
    let message = proto_model::escape(status.message().as_bytes());
    match status.code() {
        tonic::Code::Unauthenticated if message.contains(UNKNOWN_NODE) => format!(
            "{FORGOTTEN}: it was restored from a backup that was made before this host joined; \
             an operator makes a token (`dwcp token create --node NAME`), and `dwcp-agent join` with it lets the host in again"
        ),
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
            format!("the control plane refuses this node: {message}")
        }
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => broken(status, &message),
        code => format!("the control plane answered {code:?}: {message}"),
    }
}

fn broken(status: &tonic::Status, message: &str) -> String {
    let cause = std::error::Error::source(status).map_or_else(|| message.to_owned(), chain);
    // TLS 1.3 refuses a client's certificate only once the client believes that the connection stands.
    if cause.contains("CertificateRevoked") {
        return format!(
            "{REVOKED}, and its key is never admitted again; to let the host in again: `dwcp token create --node NAME`, \
             then `dwcp-agent join` with an empty data directory"
        );
    }
    if cause.contains("CertificateExpired") {
        return "this node's certificate has ended; it is renewed at the next try".to_owned();
    }
    format!("{BROKE}: {cause}")
}

fn hello(driver: &Driver, said: Introduction) -> AgentMessage {
    let held = driver.options.identity.membership().position();
    let position = if driver.roster_from_start { RosterPosition::default() } else { held };
    let held = driver.shared.desired.borrow().clone().filter(|_| !driver.layers_from_start);
    let held_config = held.map(|held| rpc::HeldConfig {
        epoch: held.generation.epoch.value(),
        generation: held.generation.number,
        digest: held.digest.clone(),
    });
    let message = Message::Hello(rpc::Hello {
        facts: Some(said.facts.into()),
        host_layer: said.host_layer,
        host_layer_origin: said.host_layer_origin,
        applied: driver.shared.outgoing.newest_status().and_then(|status| status.applied),
        roster_epoch: position.epoch.into(),
        roster_sequence: position.sequence.into(),
        time: Some(to_timestamp(driver.clock.utc())),
        audit_checkpoint: driver.witness.checkpoint().unwrap_or_default().to_owned(),
        held_config,
        trust_bundle_digest: driver.options.identity.trust().bundle().digest().into(),
    });
    AgentMessage { message: Some(message) }
}

/// The clock is read when a message leaves.
fn stamped(mut message: AgentMessage, driver: &Driver) -> AgentMessage {
    if let Some(Message::Observed(observed)) = &mut message.message {
        observed.time = Some(to_timestamp(driver.clock.utc()));
    }
    message
}

async fn welcomed(
    driver: &mut Driver,
    endpoint: &Endpoint,
    welcome: Welcome,
    skew_ms: Option<i64>,
) -> Result<(), Ended> {
    if let Some(bundle) = welcome.bundle {
        driver.trust(bundle).await?;
    }
    driver.learn(welcome.endpoints, welcome.name.clone()).await;
    let standing = Standing {
        endpoint: endpoint.clone(),
        since: driver.clock.utc(),
        server_version: welcome.version,
        skew_ms,
        observed_address: welcome.observed_address,
    };
    tracing::info!(component = "control_plane", %endpoint, skew_ms, "Session with the control plane stands");
    driver.shared.connection.send_modify(|connection| {
        connection.standing = Some(standing);
        connection.trouble = None;
        connection.name = welcome.name.or(connection.name.take());
    });
    Ok(())
}

/// One message: each arm hands on.
async fn take(driver: &mut Driver, message: rpc::ServerMessage) -> Result<(), Ended> {
    match Incoming::try_from(message).map_err(failed)? {
        Incoming::Welcome(_) => return Err(Ended::Failed("the control plane said Welcome twice".to_owned())),
        Incoming::Desired(desired) => driver.desired(desired),
        Incoming::Unchanged(desired) => driver.unchanged(desired)?,
        Incoming::Roster(update) => driver.roster(update).await?,
        Incoming::Jobs(jobs) => driver.jobs.send(jobs).await.map_err(|_gone| Ended::AgentStops)?,
        Incoming::Benches(jobs) => drop(driver.shared.benches.send_replace(jobs)),
        Incoming::Syncs(jobs) => drop(driver.shared.syncs.send_replace(Some(jobs))),
        Incoming::Ack { transfer, role } => driver.acknowledged(transfer, role).await,
        Incoming::Records { request, records } => {
            if let Some(asker) = driver.shared.questions().remove(&request) {
                // An asker that went away does not want the answer.
                drop(asker.send(records));
            }
        }
        Incoming::Ring(nodes) => {
            driver.shared.ring.send_if_modified(|known| {
                let changed = *known != nodes;
                *known = nodes;
                changed
            });
        }
        Incoming::Checkpoint(checkpoint) => driver.witnessed(&checkpoint)?,
        Incoming::ComeBack { after, reason } => return Err(Ended::ComeBack { after, reason }),
        Incoming::Unknown => {}
    }
    Ok(())
}
