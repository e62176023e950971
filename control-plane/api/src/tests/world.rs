//! All services over a database of one test, and callers of every kind.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use control_plane_fleet::Fleet;
use control_plane_pki::SealKey;
use control_plane_store::{Db, Keys, Options, Refusals};
use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey as _};
use foundation_runtime::{Clock, ManualClock, TaskGroup};
use futures::future::BoxFuture;
use http::{Request, Response};
use proto_rpc::{
    agent::{EnrollRequest, EnrollResponse, HostFacts, agent_service_client::AgentServiceClient},
    v1::{
        CreateJoinTokenRequest, CreateOperatorTokenRequest, Role, join_token_service_client::JoinTokenServiceClient,
        operator_token_service_client::OperatorTokenServiceClient,
    },
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer as _, Service};

use crate::{
    DatabaseKind, ServerFacts, State, Watches,
    auth::{Auth, AuthLayer, Authenticator, ConnectInfo, Remote},
    services,
};

/// The user that the server runs as in these tests.
pub(crate) const OWN_USER: u32 = 990;

pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) state: State,
    pub(crate) hand: ManualClock,
    service: Auth<Routes>,
}

/// A connection with what is known of it.
#[derive(Clone)]
pub(crate) struct Connection {
    service: Auth<Routes>,
    info: ConnectInfo,
    token: Option<String>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let url = tests_postgres::cluster().database();
        let start = chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let (clock, hand) = Clock::manual(start);
        let tasks = TaskGroup::new("test");
        let db = Db::connect(Options::new(&url), clock.clone(), &tasks).await.unwrap();
        db.migrate().await.unwrap();
        let keys = Keys::load_or_create(&db, &Arc::new(SealKey::generate().unwrap().0)).await.unwrap();
        let refusals = Refusals::start(db.clone(), &tasks);
        let authenticator = Authenticator::new(db.clone(), refusals.clone(), OWN_USER);
        let advertised = Arc::from(["cp.example:7442".to_owned()]);
        let options = control_plane_fleet::Options {
            version: "0.0.0".to_owned(),
            endpoints: Vec::new(),
            ring_address: None,
            max_sessions: 10,
            max_new_sessions: 1000,
        };
        let fleet = Fleet::new(db.clone(), Arc::clone(&keys), refusals.clone(), options, clock.clone(), &tasks);
        let server = Arc::new(ServerFacts {
            version: "0.0.0",
            commit: "",
            database: DatabaseKind::External,
            start_time: start,
            max_sessions: 10,
            max_request_bytes: 2 << 20,
            max_watches: 8,
            max_entries: 1200,
            sync_bounds: control_plane_store::syncs::Bounds { fleet: 4, node: 3 },
            limits: Vec::new(),
            host: crate::HostFindings::default(),
        });
        let state = State { db, keys, clock, tasks, refusals, advertised, fleet, server, watches: Watches::default() };
        let service = AuthLayer::new(authenticator).layer(services(&state));
        Self { url, state, hand, service }
    }

    fn connection(&self, info: ConnectInfo, token: Option<String>) -> Connection {
        Connection { service: self.service.clone(), info, token }
    }

    /// Somebody from the network.
    pub(crate) fn stranger(&self) -> Connection {
        self.connection(info(Remote::Tcp("127.0.0.1:50000".parse().unwrap())), None)
    }

    /// Somebody with a token.
    pub(crate) fn bearer(&self, token: &str) -> Connection {
        Connection { token: Some(format!("Bearer {token}")), ..self.stranger() }
    }

    /// A user of the server's machine.
    pub(crate) fn socket(&self, uid: u32) -> Connection {
        self.connection(ConnectInfo { peer_uid: Some(uid), ..info(Remote::Unix) }, None)
    }

    /// The administrator.
    pub(crate) fn admin(&self) -> Connection {
        self.socket(0)
    }

    /// A host with this certificate.
    pub(crate) fn host(&self, certificate: &[u8]) -> Connection {
        let stranger = self.stranger();
        let info = ConnectInfo { peer_certificate: Some(Arc::from(certificate)), ..stranger.info };
        Connection { info, ..stranger }
    }

    /// The secret of a new operator token.
    pub(crate) async fn operator(&self, name: &str, role: Role) -> String {
        let request = CreateOperatorTokenRequest {
            display_name: name.to_owned(),
            role: role.into(),
            ..CreateOperatorTokenRequest::default()
        };
        let mut client = OperatorTokenServiceClient::new(self.admin());
        client.create_operator_token(request).await.unwrap().into_inner().token
    }

    /// The secret of a new join token.
    pub(crate) async fn join_token(&self) -> String {
        let mut client = JoinTokenServiceClient::new(self.admin());
        client.create_join_token(CreateJoinTokenRequest::default()).await.unwrap().into_inner().token
    }

    pub(crate) async fn enroll(&self, name: &str, token: &str) -> Result<EnrollResponse, Status> {
        let request = EnrollRequest {
            token: token.to_owned(),
            csr: csr(name),
            name: name.to_owned(),
            facts: Some(HostFacts { os: "Debian".to_owned(), ..HostFacts::default() }),
        };
        AgentServiceClient::new(self.stranger()).enroll(request).await.map(tonic::Response::into_inner)
    }

    /// A node, enrolled with a token of its own.
    pub(crate) async fn node(&self, name: &str) -> EnrollResponse {
        let token = self.join_token().await;
        self.enroll(name, &token).await.unwrap()
    }

    pub(crate) fn sql(&self, statement: &str) -> String {
        tests_postgres::cluster().sql(&self.url, statement)
    }
}

fn info(remote: Remote) -> ConnectInfo {
    ConnectInfo { remote, peer_certificate: None, peer_uid: None, cut: CancellationToken::new(), admission: None }
}

/// The key that follows from a name.
pub(crate) fn signing_key(name: &str) -> SigningKey {
    SigningKey::from_bytes(proto_model::Digest::sha256(name.as_bytes()).as_bytes())
}

/// A request over the key that follows from the name.
pub(crate) fn csr(name: &str) -> Vec<u8> {
    let pkcs8 = signing_key(name).to_pkcs8_der().unwrap();
    let key = PrivatePkcs8KeyDer::from(pkcs8.as_bytes());
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519).unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
}

/// The reason in a status, which every one of ours has.
pub(crate) fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// The fields that a status names.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details: ErrorDetails = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.service, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.info.clone());
        if let Some(token) = &self.token {
            request.headers_mut().insert("authorization", token.parse().unwrap());
        }
        self.service.call(request)
    }
}
