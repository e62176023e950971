//! What an agent is sent that has missed nothing, in bytes.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use dataplane_control_client::{Endpoint, dial::dial};
use dataplane_identity::{Identity, tls};
use prost::Message as _;
use proto_model::TrustBundle;
use proto_rpc::agent::{
    AgentMessage, HeldConfig, Hello, RosterHead, ServerMessage, agent_message,
    agent_service_client::AgentServiceClient, server_message::Message,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

/// A session is told all that it should know within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent that remembers what it was told.
#[derive(Debug)]
pub(crate) struct Looker {
    identity: Identity,
    hello: Hello,
}

/// What it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// In all.
    pub(crate) bytes: usize,
    /// By kind.
    pub(crate) parts: Vec<(&'static str, usize)>,
}

/// What came of a session.
enum Told {
    All(Sent),
    ComeBack(Duration),
}

impl Looker {
    /// As a host that has joined.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let identity = Identity::open(folder)?.context("it has joined")?;
        Ok(Self { identity, hello: Hello::default() })
    }

    /// Opens a session with what it holds, takes all that it is told, and leaves.
    pub(crate) async fn look(&mut self, endpoint: &Endpoint) -> Result<Sent> {
        let told = async {
            loop {
                match self.take(endpoint).await? {
                    Told::All(sent) => return Ok(sent),
                    Told::ComeBack(after) => tokio::time::sleep(after).await,
                }
            }
        };
        timeout(PATIENCE, told).await.context("not told all in time")?
    }

    async fn take(&mut self, endpoint: &Endpoint) -> Result<Told> {
        let channel = dial(endpoint, &tls::grpc_client_config(&self.identity)?).await?;
        let (send, queue) = mpsc::channel(1);
        send.send(AgentMessage { message: Some(agent_message::Message::Hello(self.hello.clone())) }).await?;
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(32 << 20);
        let mut receive = client.session(ReceiverStream::new(queue)).await?.into_inner();
        let mut sent = Sent::default();
        while let Some(message) = receive.message().await? {
            let bytes = message.encoded_len();
            if let Some(Message::ComeBack(come_back)) = &message.message {
                return Ok(Told::ComeBack(Duration::from_secs(come_back.after_seconds.into())));
            }
            sent.bytes += bytes;
            let (kind, is_last) = self.hold(message)?;
            sent.parts.push((kind, bytes));
            if is_last {
                return Ok(Told::All(sent));
            }
        }
        bail!("the session ended before all was told")
    }

    /// Its kind, and whether it is the last that a new session is told.
    fn hold(&mut self, message: ServerMessage) -> Result<(&'static str, bool)> {
        Ok(match message.message.context("a message")? {
            Message::Welcome(welcome) => {
                if let Some(bundle) = welcome.trust_bundle {
                    self.hello.trust_bundle_digest = TrustBundle::try_from(bundle)?.digest().into();
                }
                ("welcome", false)
            }
            Message::DesiredConfig(desired) => {
                let held = HeldConfig { epoch: desired.epoch, generation: desired.generation, digest: desired.digest };
                self.hello.held_config = Some(held);
                ("configuration", false)
            }
            Message::Roster(update) => {
                if let Some(head) = update.head {
                    let head = RosterHead::decode(head.payload.as_slice())?;
                    (self.hello.roster_epoch, self.hello.roster_sequence) = (head.epoch, head.sequence);
                }
                ("roster", false)
            }
            Message::TransferJobs(_) | Message::BenchJobs(_) | Message::SyncJobs(_) => ("jobs", false),
            Message::DhtRing(_) => ("ring", false),
            Message::AuditCheckpoint(head) => {
                self.hello.audit_checkpoint = head.checkpoint;
                ("audit head", true)
            }
            other => bail!("{other:?}"),
        })
    }
}
