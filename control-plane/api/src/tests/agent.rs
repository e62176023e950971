//! An agent that speaks the session's protocol, message by message.

use std::{collections::VecDeque, time::Duration};

use proto_rpc::{
    agent::{
        AgentMessage, ConfigStatus, DesiredConfig, EnrollResponse, Hello, HostFacts, ServerMessage, TransferJob,
        TransferReport, TransferRole, Welcome, agent_message, agent_service_client::AgentServiceClient, server_message,
    },
    v1::{AppliedConfig, applied_config::Status as Applied, transfer::State},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::world::World;

/// Long for a message that comes at all, short for a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    send: mpsc::Sender<AgentMessage>,
    receive: Streaming<ServerMessage>,
    /// What came and was not asked for yet.
    held: VecDeque<server_message::Message>,
}

impl Agent {
    /// A session of a node that was enrolled.
    pub(crate) async fn connect(world: &World, node: &EnrollResponse) -> Self {
        Self::connect_with(world, node, Hello { facts: Some(facts()), ..Hello::default() }).await
    }

    pub(crate) async fn connect_with(world: &World, node: &EnrollResponse, hello: Hello) -> Self {
        let (send, queue) = mpsc::channel(16);
        send.send(AgentMessage { message: Some(agent_message::Message::Hello(hello)) }).await.unwrap();
        let mut client = AgentServiceClient::new(world.host(&node.certificate));
        let receive = client.session(ReceiverStream::new(queue)).await.unwrap().into_inner();
        Self { send, receive, held: VecDeque::new() }
    }

    pub(crate) async fn say(&self, message: agent_message::Message) {
        self.send.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// The next message that this picks; others wait for those who ask for them.
    pub(crate) async fn hear<T>(&mut self, what: &str, pick: impl Fn(&server_message::Message) -> Option<T>) -> T {
        if let Some((at, found)) = self.held.iter().enumerate().find_map(|(at, held)| Some((at, pick(held)?))) {
            self.held.remove(at);
            return found;
        }
        let hear = async {
            loop {
                let message = self.receive.message().await.unwrap().unwrap_or_else(|| panic!("no {what} came"));
                let message = message.message.unwrap();
                match pick(&message) {
                    Some(found) => return found,
                    None => self.held.push_back(message),
                }
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.unwrap_or_else(|_elapsed| panic!("no {what} came in time"))
    }

    pub(crate) async fn welcome(&mut self) -> Welcome {
        self.hear("welcome", |message| match message {
            server_message::Message::Welcome(welcome) => Some(welcome.clone()),
            _ => None,
        })
        .await
    }

    /// The desired configuration of at least this generation; older ones are answered, since the next follows only then.
    pub(crate) async fn desired(&mut self, generation: u64) -> DesiredConfig {
        loop {
            let desired = self.next_desired().await;
            if desired.generation >= generation {
                return desired;
            }
            self.answer(&desired, Applied::Applied, &[]).await;
        }
    }

    async fn next_desired(&mut self) -> DesiredConfig {
        self.hear("desired configuration", |message| match message {
            server_message::Message::DesiredConfig(desired) => Some(desired.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn answer(&self, desired: &DesiredConfig, status: Applied, errors: &[&str]) {
        let applied = AppliedConfig {
            status: status.into(),
            generation: desired.generation,
            digest: String::new(),
            errors: errors.iter().map(|error| (*error).to_owned()).collect(),
        };
        let nonce = desired.nonce;
        self.say(agent_message::Message::ConfigStatus(ConfigStatus {
            nonce,
            applied: Some(applied),
            not_in_force: vec!["transport.enable_rdma".to_owned()],
        }))
        .await;
    }

    /// The next job of this transfer.
    pub(crate) async fn job(&mut self, transfer: &str) -> TransferJob {
        let id = transfer.strip_prefix("transfers/").unwrap().to_owned();
        self.hear("job", |message| match message {
            server_message::Message::TransferJobs(jobs) => jobs.jobs.iter().find(|job| job.transfer_id == id).cloned(),
            _ => None,
        })
        .await
    }

    /// Waits until a job is to be cancelled: one that was told before may come once more.
    pub(crate) async fn cancelled(&mut self, transfer: &str) {
        while !self.job(transfer).await.cancel {}
    }

    /// Waits until a job is to be held, likewise.
    pub(crate) async fn held(&mut self, transfer: &str) -> TransferJob {
        loop {
            let job = self.job(transfer).await;
            if job.pause {
                return job;
            }
        }
    }

    pub(crate) async fn report(&self, transfer: &str, role: TransferRole, state: State) {
        let id = transfer.strip_prefix("transfers/").unwrap().to_owned();
        self.say(agent_message::Message::TransferReport(TransferReport {
            transfer_id: id,
            role: role.into(),
            state: state.into(),
            ..TransferReport::default()
        }))
        .await;
    }

    pub(crate) async fn ack(&mut self, transfer: &str) -> TransferRole {
        let id = transfer.strip_prefix("transfers/").unwrap().to_owned();
        self.hear("acknowledgement", |message| match message {
            server_message::Message::TransferAck(ack) if ack.transfer_id == id => Some(ack.role()),
            _ => None,
        })
        .await
    }

    /// How the session ends.
    pub(crate) async fn end(&mut self) -> Status {
        let end = async {
            loop {
                match self.receive.message().await {
                    Ok(Some(message)) => self.held.extend(message.message),
                    Ok(None) => panic!("the session ended without a status"),
                    Err(status) => return status,
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.expect("the session should end")
    }

    pub(crate) fn was_sent_away(&self) -> bool {
        self.held.iter().any(|held| matches!(held, server_message::Message::ComeBack(back) if back.after_seconds > 0))
    }
}

pub(crate) fn facts() -> HostFacts {
    HostFacts {
        agent_version: "0.0.0".to_owned(),
        quic_addresses: vec!["10.0.0.1:30906".to_owned()],
        roots: vec!["data".to_owned(), "pub:ro".to_owned()],
        ..HostFacts::default()
    }
}
