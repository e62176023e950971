//! The way to the control plane: flags, else environment, else context, else the local `admin.sock`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use proto_rpc::{
    agent::local_service_client::LocalServiceClient,
    v1::{
        audit_service_client::AuditServiceClient, config_service_client::ConfigServiceClient,
        join_token_service_client::JoinTokenServiceClient, node_service_client::NodeServiceClient,
        operator_token_service_client::OperatorTokenServiceClient, system_service_client::SystemServiceClient,
        transfer_service_client::TransferServiceClient,
    },
};
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tower::service_fn;

use crate::{
    args::Global,
    context::Contexts,
    failure::{Exit, Failure},
};

/// The name that every server certificate of a fleet carries (D4), so that any address of the server will do.
const SERVER_NAME: &str = "control-plane.dwcp";
/// Long enough for a WAN's slow handshake, short enough for a person.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers of lists are bounded by their page size; this bounds a page of transfers with many issues.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Adds the operator's token, and the trace that the verb belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    token: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        foundation_telemetry::propagation::inject(request.metadata_mut());
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Credentials>;

/// A way to a control plane; connects at the first call.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    service: Service,
    /// As people know it.
    pub(crate) endpoint: String,
}

/// Where the control plane is and with what right it is called.
#[derive(Clone, Debug)]
struct Target {
    endpoint: String,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl Connection {
    /// Finds the way; does not connect yet.
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        let target = Target::find(global)?;
        let token = target.token_file.as_deref().map(read_token).transpose()?;
        let channel = target.channel()?;
        Ok(Self { service: InterceptedService::new(channel, Credentials { token }), endpoint: target.endpoint })
    }

    /// The CA's certificate that a call would trust, where one is known.
    pub(crate) fn ca_file(global: &Global) -> Option<PathBuf> {
        Target::find(global).ok().and_then(|target| target.ca)
    }

    pub(crate) fn nodes(&self) -> NodeServiceClient<Service> {
        NodeServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn join_tokens(&self) -> JoinTokenServiceClient<Service> {
        JoinTokenServiceClient::new(self.service.clone())
    }

    pub(crate) fn operator_tokens(&self) -> OperatorTokenServiceClient<Service> {
        OperatorTokenServiceClient::new(self.service.clone())
    }

    pub(crate) fn configs(&self) -> ConfigServiceClient<Service> {
        ConfigServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn transfers(&self) -> TransferServiceClient<Service> {
        TransferServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Service> {
        AuditServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn system(&self) -> SystemServiceClient<Service> {
        SystemServiceClient::new(self.service.clone())
    }
}

impl Target {
    fn find(global: &Global) -> Result<Self, Failure> {
        let contexts = Contexts::load(global.contexts_file.as_deref())?;
        let context = match (&global.endpoint, &global.context) {
            // A flag or variable for the endpoint names another control plane than the selected context does.
            (Some(_), None) => None,
            (_, name) => contexts.find(name.as_deref())?,
        };
        let endpoint = global.endpoint.clone().or_else(|| context.map(|context| context.endpoint.clone()));
        let token_file = global.token_file.clone().or_else(|| context.and_then(|context| context.token_file.clone()));
        let ca = global.ca.clone().or_else(|| context.and_then(|context| context.ca.clone()));
        let endpoint = endpoint.map_or_else(local_socket, Ok)?;
        Ok(Self { endpoint, token_file, ca })
    }

    fn channel(&self) -> Result<Channel, Failure> {
        if let Some(path) = self.endpoint.strip_prefix("unix:") {
            return Ok(unix_channel(PathBuf::from(path.trim_start_matches("//"))));
        }
        let address = self.endpoint.trim_start_matches("https://").trim_end_matches('/');
        let wrong =
            |error: tonic::transport::Error| Failure::chain(format!("`{}` is no endpoint", self.endpoint), &error);
        let ca = self.ca.as_deref().ok_or_else(|| {
            Failure::usage("a remote control plane needs the fleet's CA certificate")
                .hint("give --ca DIR/ca.pem or DWCP_CA; `dwcp context add` remembers it")
        })?;
        let pem = fs::read(ca).map_err(|error| Failure::chain(format!("cannot read {}", ca.display()), &error))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name(SERVER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .tls_config(tls)
            .map_err(wrong)?;
        Ok(endpoint.connect_lazy())
    }
}

/// A client of the local agent's `agent.sock`.
pub(crate) fn local_agent(global: &Global) -> LocalServiceClient<Channel> {
    LocalServiceClient::new(unix_channel(agent_socket(global)))
}

/// Where the local agent listens: flag, environment, its default data directory, or that of the host's own agent, which lets
/// the members of its socket's group in.
pub(crate) fn agent_socket(global: &Global) -> PathBuf {
    global.agent_socket.clone().unwrap_or_else(|| {
        let own = state_folder("dwcp-agent").join("agent.sock");
        let hosts = Path::new("/var/lib/dwcp-agent/agent.sock");
        // Looking needs the right to pass through the folder, which the group has.
        if !own.exists() && hosts.exists() { hosts.to_path_buf() } else { own }
    })
}

fn unix_channel(path: PathBuf) -> Channel {
    // The address is never looked up: the connector goes to the socket.
    Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT).connect_with_connector_lazy(service_fn(
        move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        },
    ))
}

fn local_socket() -> Result<String, Failure> {
    let path = state_folder("dwcp-control-plane").join("admin.sock");
    if path.exists() {
        return Ok(format!("unix:{}", path.display()));
    }
    Err(Failure::usage(format!("no control plane is named, and there is none on this host ({})", path.display()))
        .hint("give --endpoint HOST:PORT with --ca and --token-file, or `dwcp context add`"))
}

/// The default data directory of a program (D30).
fn state_folder(program: &str) -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return Path::new("/var/lib").join(program);
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join(program)
}

fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, Failure> {
    let token = fs::read_to_string(path)
        .map_err(|error| Failure::chain(format!("cannot read the token in {}", path.display()), &error))?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().map_err(|_invalid| {
        Failure::new(Exit::Usage, format!("{} holds no token: one line of letters is expected", path.display()))
    })?;
    value.set_sensitive(true);
    Ok(value)
}
