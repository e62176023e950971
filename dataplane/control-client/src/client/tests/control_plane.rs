//! A control plane for tests: real TLS and gRPC, and a test that plays its part in each session by hand.

use std::{pin::Pin, sync::Arc};

use dataplane_identity::testing::TestFleet;
use foundation_runtime::{OnEnd, TaskGroup};
use proto_model::PublicKey;
use proto_rpc::agent::{
    self as rpc, AgentMessage, ServerMessage,
    agent_message::Message as Said,
    agent_service_server::{AgentService, AgentServiceServer},
    server_message::Message,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::endpoint::Endpoint;

pub(super) struct ControlPlane {
    pub endpoint: Endpoint,
    sessions: mpsc::Receiver<Opened>,
    tasks: TaskGroup,
}

/// A session that an agent opened.
pub(super) struct Opened {
    pub hello: rpc::Hello,
    said: Streaming<AgentMessage>,
    say: mpsc::Sender<Result<ServerMessage, Status>>,
}

struct Service {
    sessions: mpsc::Sender<Opened>,
    bundle: rpc::TrustBundle,
    /// Whose certificate is renewed, and by what.
    renewal: Option<(PublicKey, Vec<u8>)>,
}

impl ControlPlane {
    pub(super) async fn start(fleet: &TestFleet) -> Self {
        Self::start_on(fleet, "127.0.0.1:0").await
    }

    pub(super) async fn start_on(fleet: &TestFleet, address: &str) -> Self {
        Self::start_with(fleet, address, None).await
    }

    pub(super) async fn start_with(fleet: &TestFleet, address: &str, renewal: Option<(PublicKey, Vec<u8>)>) -> Self {
        let tasks = TaskGroup::new("control plane");
        let listener = TcpListener::bind(address).await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(fleet.server_config()));
        let (accepted, connections) = mpsc::channel(8);
        tasks.spawn("accept", OnEnd::Expected, async move {
            while let Ok((tcp, _peer)) = listener.accept().await {
                // A handshake that the client breaks off is part of some tests.
                if let Ok(tls) = acceptor.accept(tcp).await {
                    let _gone = accepted.send(Ok::<_, std::io::Error>(tls)).await;
                }
            }
        });
        let (opened, sessions) = mpsc::channel(8);
        let service = Service { sessions: opened, bundle: fleet.bundle().into(), renewal };
        let server = Server::builder().add_service(AgentServiceServer::new(service));
        let group = tasks.clone();
        tasks.spawn("serve", OnEnd::Expected, async move {
            let serving = server.serve_with_incoming(ReceiverStream::new(connections));
            tokio::select! {
                ended = serving => ended.unwrap(),
                () = group.cancelled() => {}
            }
        });
        Self { endpoint, sessions, tasks }
    }

    /// The next session that an agent opens, before the Welcome.
    pub(super) async fn opened(&mut self) -> Opened {
        self.sessions.recv().await.unwrap()
    }

    /// The next session, welcomed.
    pub(super) async fn welcomed(&mut self) -> Opened {
        let session = self.opened().await;
        session.say(Message::Welcome(rpc::Welcome { heartbeat_seconds: 60, ..rpc::Welcome::default() })).await;
        session
    }

    pub(super) async fn stop(self) {
        // Sessions are cut, as by a kill.
        drop(self.tasks.shutdown(std::time::Duration::ZERO).await);
    }
}

impl Opened {
    pub(super) async fn say(&self, message: Message) {
        self.say.send(Ok(ServerMessage { message: Some(message) })).await.unwrap();
    }

    /// Ends the session before it began.
    pub(super) async fn refuse(&self, retry_after: std::time::Duration) {
        let details = ErrorDetails::with_retry_info(Some(retry_after));
        let status = Status::with_error_details(Code::ResourceExhausted, "too many", details);
        self.say.send(Err(status)).await.unwrap();
    }

    pub(super) async fn heard(&mut self) -> Said {
        self.said.message().await.unwrap().unwrap().message.unwrap()
    }

    /// The next message that `pick` wants; others are let by.
    pub(super) async fn until<T>(&mut self, pick: impl Fn(Said) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.heard().await) {
                return picked;
            }
        }
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;

    async fn enroll(&self, request: Request<rpc::EnrollRequest>) -> Result<Response<rpc::EnrollResponse>, Status> {
        let request = request.into_inner();
        if request.token != "dwcp1.good" {
            return Err(Status::permission_denied("the token is not known, or used up"));
        }
        Ok(Response::new(rpc::EnrollResponse {
            name: request.name,
            uid: uuid::Uuid::new_v4().to_string(),
            certificate: Vec::new(),
            trust_bundle: Some(self.bundle.clone()),
            endpoints: Vec::new(),
        }))
    }

    async fn renew(&self, request: Request<rpc::RenewRequest>) -> Result<Response<rpc::RenewResponse>, Status> {
        let request = request.into_inner();
        let (key, certificate) = self.renewal.clone().ok_or_else(|| Status::unimplemented("not in this test"))?;
        let uid: uuid::Uuid = request.uid.parse().unwrap();
        let time = proto_model::from_timestamp(request.time.unwrap()).unwrap();
        let signed = proto_wire::renew::message(uid.as_bytes(), time.timestamp_millis(), &request.csr);
        if !key.verifies(&signed, request.signature.as_slice().try_into().unwrap()) {
            return Err(Status::permission_denied("the signature is not the node's"));
        }
        Ok(Response::new(rpc::RenewResponse { certificate, trust_bundle: Some(self.bundle.clone()) }))
    }

    async fn probe_reach(
        &self,
        request: Request<rpc::ProbeReachRequest>,
    ) -> Result<Response<rpc::ProbeReachResponse>, Status> {
        let request = request.into_inner();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = u16::try_from(request.udp_port).unwrap();
        socket.send_to(&request.nonce, ("127.0.0.1", port)).unwrap();
        Ok(Response::new(rpc::ProbeReachResponse { observed_address: "127.0.0.1:9".to_owned() }))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut said = request.into_inner();
        let Some(AgentMessage { message: Some(Said::Hello(hello)) }) = said.message().await? else {
            return Err(Status::invalid_argument("a Hello comes first"));
        };
        let (say, answers) = mpsc::channel(64);
        let _test_ended = self.sessions.send(Opened { hello, said, say }).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
