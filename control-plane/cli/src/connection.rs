//! The way to the control plane: flags, else environment, else context, else the local `admin.sock`.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use proto_model::printable;
use proto_rpc::{
    agent::local_service_client::LocalServiceClient,
    v1::{
        audit_service_client::AuditServiceClient, bench_service_client::BenchServiceClient,
        config_service_client::ConfigServiceClient, join_token_service_client::JoinTokenServiceClient,
        node_service_client::NodeServiceClient, operator_token_service_client::OperatorTokenServiceClient,
        sync_service_client::SyncServiceClient, system_service_client::SystemServiceClient,
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
use tower::{ServiceExt as _, service_fn};

use crate::{
    args::Global,
    context::Contexts,
    failure::{Failure, chain},
};

/// The name that every server certificate of a fleet carries (D4), so that any address of the server will do.
const SERVER_NAME: &str = "control-plane.dwcp";
/// Long enough for a WAN's slow handshake, short enough for a person.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A token's file has one line, a CA's one certificate; more of a wrong file is not read.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// The port where none is named.
const DEFAULT_PORT: u16 = 7442;
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

    pub(crate) fn syncs(&self) -> SyncServiceClient<Service> {
        SyncServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn benches(&self) -> BenchServiceClient<Service> {
        BenchServiceClient::new(self.service.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
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
        let authority = match parse(&self.endpoint)? {
            Way::Socket(path) => return Ok(unix_channel(path)),
            Way::Network(authority) => authority,
        };
        let wrong =
            |error: tonic::transport::Error| Failure::chain(format!("`{}` is no endpoint", self.endpoint), &error);
        let ca = self.ca.as_deref().ok_or_else(|| {
            Failure::usage("a remote control plane needs the fleet's CA certificate")
                .hint("give --ca DIR/ca.pem or DWCP_CA; `dwcp context add` remembers it")
        })?;
        let tls = ClientTlsConfig::new().ca_certificate(read_ca(ca)?).domain_name(SERVER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{authority}"))
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .tls_config(tls)
            .map_err(wrong)?;
        let mut network = HttpConnector::new();
        network.enforce_http(false);
        network.set_nodelay(true);
        // Who reads the error has not typed the endpoint, where a variable or a context names it.
        let named = move |error| io::Error::other(chain(&*authority, &error));
        Ok(endpoint.connect_with_connector_lazy(network.map_err(named)))
    }
}

/// What an endpoint names.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Socket(PathBuf),
    /// `HOST:PORT`.
    Network(String),
}

/// Reads `HOST`, `HOST:PORT`, `[IPv6]:PORT`, each also with `https://` before it, as people paste it, and `unix:PATH`.
fn parse(endpoint: &str) -> Result<Way, Failure> {
    let invalid = || {
        Failure::usage(format!("`{}` is no endpoint", printable(endpoint)))
            .hint("write HOST:PORT, for example ctl.example:7442 or [2001:db8::1]:7442, or unix:PATH")
    };
    if let Some(path) = endpoint.strip_prefix("unix:") {
        let path = path.trim_start_matches("//");
        return if path.is_empty() { Err(invalid()) } else { Ok(Way::Socket(PathBuf::from(path))) };
    }
    let bare = endpoint.strip_prefix("https://").unwrap_or(endpoint).trim_end_matches('/');
    let (host, port) = match bare.rsplit_once(':') {
        // The last colon of an IPv6 address in brackets without a port is inside of them.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok().filter(|port| *port != 0)),
        _ => (bare, Some(DEFAULT_PORT)),
    };
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fine = match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(named),
    };
    match port {
        Some(port) if fine => Ok(Way::Network(format!("{host}:{port}"))),
        _ => Err(invalid()),
    }
}

/// Whether it is an endpoint: for who keeps one.
pub(crate) fn require_endpoint(endpoint: &str) -> Result<(), Failure> {
    parse(endpoint).map(drop)
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
            async move {
                let connected = UnixStream::connect(&path).await;
                connected
                    .map(TokioIo::new)
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            }
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
    let token =
        read(path).map_err(|error| Failure::chain(format!("cannot read the token in {}", path.display()), &error))?;
    let none = || Failure::usage(format!("{} holds no token: one line of letters is expected", path.display()));
    let token = str::from_utf8(&token).map_err(|_not_text| none())?.trim();
    if token.is_empty() {
        return Err(none());
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_invalid| none())?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_ca(path: &Path) -> Result<Certificate, Failure> {
    let pem = read(path).map_err(|error| Failure::chain(format!("cannot read {}", path.display()), &error))?;
    let has_one = pem.windows(CERTIFICATE.len()).any(|bytes| bytes == CERTIFICATE);
    if !has_one {
        return Err(Failure::usage(format!("{} holds no certificate in PEM", path.display()))
            .hint("--ca (DWCP_CA) is the ca.pem of the control plane's data directory"));
    }
    Ok(Certificate::from_pem(pem))
}

/// What stands before a certificate in PEM.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn an_endpoint_names_a_port_or_means_the_usual_one() {
        let network = |text: &str| Way::Network(text.to_owned());
        for (text, way) in [
            ("ctl.example", network("ctl.example:7442")),
            ("https://ctl.example:1234/", network("ctl.example:1234")),
            ("[::1]", network("[::1]:7442")),
            ("[::1]:1", network("[::1]:1")),
            ("unix:///run/a.sock", Way::Socket(PathBuf::from("/run/a.sock"))),
            ("unix:a.sock", Way::Socket(PathBuf::from("a.sock"))),
        ] {
            assert_eq!(parse(text).unwrap(), way, "{text}");
        }
        for text in [
            "",
            "unix:",
            "x:y",
            "127.0.0.1:99999",
            "h:0",
            "::1",
            "http://h:1",
            "a b:1",
            "\u{1b}[31m:1",
            "u@h:1",
            "h:1/x",
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            assert!(!failure.message.contains('\u{1b}'));
        }
    }
}
