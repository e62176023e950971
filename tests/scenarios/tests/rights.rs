//! R36: every method of every service, as everybody may try it; every HTTP path, as a web page would; and a node that claims what is not its
//! own. What is allowed here is said by rules of this test, not by those of the server.

use std::{
    fs, io::Write as _, os::unix::fs::PermissionsExt as _, os::unix::process::CommandExt as _, process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dataplane_identity::{CaFingerprint, NodeKey};
use prost::Message as _;
use proto_rpc::{
    agent::{
        AgentMessage, EnrollRequest, EnrollResponse, Hello, HostFacts, Observed, TransferReport, TransferRole,
        agent_message,
    },
    v1::transfer::State as TransferState,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tests_harness::{
    Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, Fleet, FleetOptions, Scratch, Shown, agent_channel,
    agent_service, eventually, eventually_async, write_sample_tree,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_types::StatusExt as _;

const LIMIT: Duration = Duration::from_secs(60);

/// Messages as bytes: an empty request is a request of every method.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use bytes::BufMut as _;
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf as _;
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// What a method demands, by what its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Demands {
    Nothing,
    Viewer,
    Operator,
    Admin,
    Node,
}

fn demands(service: &str, method: &str) -> Demands {
    let reads = ["Get", "List", "Watch", "Tail", "Diff", "Validate", "RunChecks", "Export"];
    match (service, method) {
        ("dwcp.agent.v1.AgentService", "Enroll" | "Renew") => Demands::Nothing,
        ("dwcp.agent.v1.AgentService", _) => Demands::Node,
        // Served on agent.sock alone; who gives rights; and what lets another host have the name of one that was thrown out.
        ("dwcp.agent.v1.LocalService", _)
        | ("dwcp.v1.OperatorTokenService", _)
        | ("dwcp.v1.NodeService", "FreeNodeName") => Demands::Admin,
        _ if reads.iter().any(|verb| method.starts_with(verb)) => Demands::Viewer,
        _ => Demands::Operator,
    }
}

/// Who calls.
struct Caller {
    name: &'static str,
    channel: Channel,
    token: Option<String>,
    has: Option<Demands>,
}

impl Caller {
    fn may(&self, demands: Demands) -> bool {
        match (demands, self.has) {
            (Demands::Nothing, _) => true,
            (Demands::Node, has) => has == Some(Demands::Node),
            (_, Some(Demands::Node) | None) => false,
            (demands, Some(has)) => has >= demands,
        }
    }

    /// What comes first of an answer to an empty request, or nothing for a while.
    async fn call(&self, path: &str) -> Result<Result<(), Status>> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let mut request = Request::new(tokio_stream::once(Vec::new()));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        let path = path.parse::<http::uri::PathAndQuery>()?;
        let answer = async {
            let mut stream = grpc.streaming(request, path, Raw).await?.into_inner();
            stream.message().await.map(drop)
        };
        // A watch of nothing says nothing: it was let in.
        Ok(tokio::time::timeout(Duration::from_secs(2), answer).await.unwrap_or(Ok(())))
    }
}

/// Whether the caller was turned away for who it is.
fn is_turned_away(status: &Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    ["CREDENTIALS_MISSING", "CREDENTIALS_REFUSED", "ROLE_TOO_LOW", "WRONG_KIND_OF_CALLER"].contains(&reason.as_str())
}

fn methods() -> Result<Vec<(String, String)>> {
    let set = prost_types::FileDescriptorSet::decode(proto_rpc::DESCRIPTOR_SET)?;
    let mut found = Vec::new();
    for file in set.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            found.extend(service.method.iter().map(|method| (name.clone(), method.name().to_owned())));
        }
    }
    Ok(found)
}

struct Host {
    key: NodeKey,
    enrolled: EnrollResponse,
    ca: CaFingerprint,
}

impl Host {
    async fn join(control_plane: &ControlPlane, name: &str) -> Result<Self> {
        let made = control_plane.cli()?.json(&["token", "create"])?;
        let ca = made["caFingerprint"].as_str().context("a fingerprint")?.parse()?;
        let key = NodeKey::generate()?;
        let request = EnrollRequest {
            token: made["token"].as_str().context("a token")?.to_owned(),
            csr: key.csr_der()?,
            name: name.to_owned(),
            facts: Some(HostFacts::default()),
        };
        let enrolled = agent_service(&control_plane.grpc(), ca, None).await?.enroll(request).await?.into_inner();
        Ok(Self { key, enrolled, ca })
    }

    fn shown(&self) -> Result<Shown> {
        let key = PrivatePkcs8KeyDer::from(self.key.pkcs8_der().to_vec());
        Shown::new(vec![CertificateDer::from(self.enrolled.certificate.clone())], key.into())
    }
}

async fn callers(control_plane: &ControlPlane, host: &Host) -> Result<Vec<Caller>> {
    let endpoint = control_plane.grpc();
    let token = |role: &str| -> Result<Option<String>> {
        let made = control_plane.cli()?.json(&["operator", "create", role, "--role", role])?;
        Ok(made["token"].as_str().map(str::to_owned))
    };
    let plain = agent_channel(&endpoint, host.ca, None).await?;
    let node = agent_channel(&endpoint, host.ca, Some(host.shown()?)).await?;
    let caller = |name, channel: &Channel, token, has| Caller { name, channel: channel.clone(), token, has };
    Ok(vec![
        caller("nobody", &plain, None, None),
        caller("a guess", &plain, Some("dwcpo1.guess".to_owned()), None),
        caller("a viewer", &plain, token("viewer")?, Some(Demands::Viewer)),
        caller("an operator", &plain, token("operator")?, Some(Demands::Operator)),
        caller("an admin", &plain, token("admin")?, Some(Demands::Admin)),
        caller("a node", &node, None, Some(Demands::Node)),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_for_those_it_is_for() -> Result<()> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let scratch = Scratch::new()?;
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), ControlPlaneOptions::default())?;
    let host = Host::join(&control_plane, "host").await?;
    let callers = callers(&control_plane, &host).await?;
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for (service, method) in methods()? {
        let demands = demands(&service, &method);
        for caller in &callers {
            cells += 1;
            let answer = caller.call(&format!("/{service}/{method}")).await?;
            let let_in = !answer.as_ref().is_err_and(is_turned_away);
            if let_in != caller.may(demands) {
                wrong.push(format!("{} at {service}/{method}: {answer:?}", caller.name));
            }
        }
    }
    // A path that is no method's is nobody's.
    let odd = [
        "//dwcp.v1.NodeService/ListNodes",
        "/dwcp.v1.NodeService//ListNodes",
        "/dwcp.v1.NodeService/ListNodes/",
        "/dwcp.v1.nodeservice/listnodes",
        "/DWCP.V1.NodeService/ListNodes",
        "/dwcp.v1.NodeService%2fListNodes",
        "/dwcp.v1.NodeService/%4cistNodes",
        "/dwcp.agent.v1.AgentService/Enroll/../../dwcp.v1.NodeService/ListNodes",
        "/grpc.health.v1.Health/../dwcp.v1.NodeService/ListNodes",
        "/dwcp.v2.NodeService/ListNodes",
        "/NodeService/ListNodes",
        "/dwcp.agent.v1.AgentService/enroll",
        "/",
        "/dwcp.v1.OperatorTokenService/CreateOperatorToken ".trim(),
    ];
    for path in odd {
        for caller in
            callers.iter().filter(|caller| caller.has < Some(Demands::Admin) || caller.has == Some(Demands::Node))
        {
            cells += 1;
            if caller.call(path).await?.is_ok() {
                wrong.push(format!("{} at {path} was answered", caller.name));
            }
        }
    }
    println!("{cells} cells");
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong: {wrong:#?}", wrong.len());
    // Refusals are in the audit log, of each kind one.
    let cli = control_plane.cli()?;
    let refused = eventually("the refusals in the audit log", LIMIT, || {
        let events = cli.json(&["audit", "list", "--limit", "1000"])?;
        let all = events["auditEvents"].as_array().or(events["events"].as_array()).cloned().unwrap_or_default();
        let refused: Vec<Value> =
            all.into_iter().filter(|event| event.to_string().contains("the role is too low")).collect();
        Ok((refused.len() > 10).then_some(refused))
    })?;
    let kinds: std::collections::BTreeSet<_> =
        refused.iter().map(|event| (event["actor"].to_string(), event["resource"].to_string())).collect();
    assert_eq!(kinds.len(), refused.len(), "a refusal is audited once: {refused:#?}");
    Ok(())
}

#[test]
fn admin_sock_is_for_no_other_user() -> Result<()> {
    let scratch = Scratch::new()?;
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), ControlPlaneOptions::default())?;
    let socket = control_plane.dir().join("admin.sock");
    let as_user = |uid: u32| {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-m",
            "5",
            "--http2-prior-knowledge",
            "-X",
            "POST",
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
        ]);
        curl.args(["--data-binary", "@-", "-o", "/dev/null", "-w", "%{http_code}"]).arg("--unix-socket").arg(&socket);
        curl.arg("http://localhost/dwcp.v1.NodeService/ListNodes").uid(uid).current_dir("/");
        curl.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut running = curl.spawn()?;
        running.stdin.take().context("a pipe")?.write_all(&[0; 5])?;
        let answer = running.wait_with_output()?;
        anyhow::Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    };
    let own = nix::unistd::geteuid().as_raw();
    ensure!(own == 0, "this test becomes other users; it runs as root");
    assert_eq!(as_user(own)?, "200");
    assert_ne!(as_user(65_534)?, "200", "past the socket's mode");
    // Its mode is not all that keeps others out.
    fs::set_permissions(control_plane.dir(), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    assert_ne!(as_user(65_534)?, "200", "past who is at the other end");
    Ok(())
}

/// The status of a request with these headers.
fn http_status(url: &str, arguments: &[&str]) -> Result<u16> {
    let output = Command::new("curl")
        .args(["-sk", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(arguments)
        .arg(url)
        .output()?;
    Ok(String::from_utf8(output.stdout)?.parse()?)
}

#[test]
fn every_http_path_is_for_this_machine_alone_and_for_no_web_page() -> Result<()> {
    let options = FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() };
    let fleet = Fleet::start(&options)?;
    let agent = &fleet.agents[0];
    let api = [
        "/api/v1/dwcp/status",
        "/api/v1/dwcp/amst/config",
        "/api/v1/dwcp/hde/config",
        "/api/v1/dwcp/hde/stats",
        "/api/dht/topology",
        "/api/dht/bootstrap",
        "/api/dht/stats",
    ];
    let alive = ["/livez", "/readyz", "/ping", "/health"];
    let full = [&alive[..], &["/status", "/metrics"], &api].concat();
    let (control_plane, cp_metrics) = (fleet.control_plane.http(), fleet.control_plane.metrics());
    let (http, metrics) = (agent.http(), agent.metrics());
    let ports: [(&str, Vec<&str>); 4] = [
        (&control_plane, full.clone()),
        (&cp_metrics, vec!["/livez", "/readyz", "/metrics"]),
        (&http, [&full[..], &["/peers"]].concat()),
        (&metrics, vec!["/livez", "/metrics"]),
    ];
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for (address, paths) in &ports {
        for path in paths {
            let url = format!("http://{address}{path}");
            let may_tell_a_proxy = alive.contains(path);
            for (headers, allowed) in [
                (vec![], true),
                (vec!["-H", "Host: localhost:1"], true),
                (vec!["-H", "Host: [::1]:8080"], true),
                (vec!["-H", "Origin: http://localhost:3000"], true),
                (vec!["-H", "Host: evil.example"], false),
                (vec!["-H", "Host: 127.0.0.1.evil.example"], false),
                (vec!["-H", "Host: [2001:db8::1]"], false),
                (vec!["-H", "Host;"], false),
                (vec!["-H", "Origin: null"], false),
                (vec!["-H", "Origin: https://evil.example"], false),
                (vec!["-H", "Origin: http://localhost.evil.example"], false),
                (vec!["-H", "Sec-Fetch-Site: cross-site"], false),
                (vec!["-H", "X-Forwarded-For: 127.0.0.1"], may_tell_a_proxy),
                (vec!["-X", "POST"], false),
                (vec!["-X", "POST", "-H", "Content-Type: text/plain", "-d", "{}"], false),
                (vec!["-X", "DELETE", "-H", "Content-Type: application/json"], false),
            ] {
                cells += 1;
                let status = http_status(&url, &headers)?;
                // A liveness path tells whoever asks that it lives, and nothing else.
                let harmless = may_tell_a_proxy && status == 200 && !headers.contains(&"-X");
                if (status == 200) != allowed && !harmless {
                    wrong.push(format!("{url} {headers:?}: {status}"));
                }
            }
        }
    }
    println!("{cells} cells");
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong: {wrong:#?}", wrong.len());
    Ok(())
}

/// An address of this host that is no loopback one, if it has any.
fn own_address() -> Option<String> {
    let mut interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let address = interfaces.find_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        (!address.is_loopback() && !address.is_link_local()).then_some(address)
    });
    address.map(|address| address.to_string())
}

#[test]
fn an_agent_answers_other_hosts_by_tls_with_a_token_and_in_a_word_without() -> Result<()> {
    let Some(here) = own_address() else {
        println!("this host has no address but loopback: not tried");
        return Ok(());
    };
    let scratch = Scratch::new()?;
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), ControlPlaneOptions::default())?;
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=agent",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(scratch.path())
        .output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let path = |name: &str| scratch.path().join(name).display().to_string();
    for (name, text) in [("all.token", "a-token-for-everything\n"), ("metrics.token", "a-token-for-metrics\n")] {
        fs::write(path(name), text)?;
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600))?;
    }
    let file = path("agent.yaml");
    fs::write(
        &file,
        format!(
            "http:\n  tls_certificate: {}\n  tls_private_key: {}\n  token_file: {}\n  metrics_token_file: {}\n",
            path("cert.pem"),
            path("key.pem"),
            path("all.token"),
            path("metrics.token")
        ),
    )?;
    let arguments =
        ["--config", &file, "--http-listen", "0.0.0.0:0", "--metrics-listen", "0.0.0.0:0"].map(str::to_owned).to_vec();
    let options = AgentOptions { name: "site-a".to_owned(), arguments, ..AgentOptions::default() };
    let mut agent = Agent::join(&control_plane, &scratch.path().join("site-a"), options)?;
    let elsewhere = |address: &str| format!("{here}:{}", address.rsplit(':').next().unwrap_or_default());
    let (http, metrics) = (elsewhere(&agent.http()), elsewhere(&agent.metrics()));
    let all = "Authorization: Bearer a-token-for-everything";
    let scrape = "Authorization: Bearer a-token-for-metrics";
    for (url, headers, expected) in [
        (format!("http://{http}/health"), vec![], 200),
        (format!("http://{http}/status"), vec![], 403),
        (format!("http://{http}/status"), vec!["-H", all], 403),
        (format!("http://{metrics}/metrics"), vec!["-H", scrape], 403),
        (format!("https://{http}/health"), vec![], 200),
        (format!("https://{http}/status"), vec![], 401),
        (format!("https://{http}/status"), vec!["-H", "Authorization: Bearer a-guess-of-a-token"], 401),
        (format!("https://{http}/status"), vec!["-H", scrape], 401),
        (format!("https://{http}/status"), vec!["-H", all], 200),
        (format!("https://{http}/metrics"), vec!["-H", scrape], 200),
        (format!("https://{metrics}/metrics"), vec!["-H", scrape], 200),
        (format!("https://{metrics}/metrics"), vec![], 401),
    ] {
        assert_eq!(http_status(&url, &headers)?, expected, "{url} {headers:?}");
    }
    // Guesses are limited also where a probe is not.
    let guesses = (0..300).map(|number| {
        http_status(&format!("https://{http}/metrics"), &["-H", &format!("Authorization: Bearer guess-{number}")])
    });
    let guesses = guesses.collect::<Result<Vec<_>>>()?;
    assert!(guesses.iter().all(|status| [401, 429].contains(status)), "{guesses:?}");
    agent.stop()?;
    // A token that everybody on the host can read is refused at the start, in a sentence.
    fs::set_permissions(path("all.token"), fs::Permissions::from_mode(0o644))?;
    let refused =
        Agent::start(&scratch.path().join("site-a"), agent.options_mut().clone()).err().context("it started")?;
    let said = format!("{refused:#}");
    assert!(said.contains("http.token_file") && said.contains("chmod"), "{said}");
    Ok(())
}

fn transfer_state(cli: &Cli, name: &str) -> Result<String> {
    Ok(cli.json(&["transfer", "get", name])?["state"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_claims_what_is_not_its_own_is_ignored_and_audited_once() -> Result<()> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    write_sample_tree(&fleet.agents[0].root("data").join("set"), 5)?;
    cli.ok(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    let list = cli.json(&["transfer", "list"])?;
    let transfer = list["transfers"][0]["name"].as_str().context("a transfer")?.to_owned();
    let liar = Host::join(&fleet.control_plane, "liar").await?;

    let mut client = agent_service(&fleet.control_plane.grpc(), liar.ca, Some(liar.shown()?)).await?;
    let (sender, receiver) = tokio::sync::mpsc::channel(32);
    let facts = HostFacts {
        hostname: "site-a".to_owned(),
        agent_version: "9.9.9".to_owned(),
        offers_relay: true,
        ..HostFacts::default()
    };
    let say = |message| sender.send(AgentMessage { message: Some(message) });
    say(agent_message::Message::Hello(Hello { facts: Some(facts.clone()), ..Hello::default() })).await?;
    let mut session = client.session(ReceiverStream::new(receiver)).await?.into_inner();
    ensure!(session.next().await.is_some(), "no welcome");
    for role in [TransferRole::Sender, TransferRole::Receiver] {
        for state in [TransferState::Failed, TransferState::Running, TransferState::Succeeded] {
            let report = TransferReport {
                transfer_id: transfer.trim_start_matches("transfers/").to_owned(),
                role: role.into(),
                state: state.into(),
                ..TransferReport::default()
            };
            say(agent_message::Message::TransferReport(report)).await?;
        }
    }
    say(agent_message::Message::Observed(Observed { facts: Some(facts), ..Observed::default() })).await?;
    let refusals = eventually_async("the refused reports in the audit log", LIMIT, || async {
        let events = cli.json(&["audit", "list", "--filter", "action=transfer.report"])?;
        let all =
            events.as_object().and_then(|all| all.values().find_map(Value::as_array)).cloned().unwrap_or_default();
        Ok((!all.is_empty()).then_some(all))
    })
    .await?;
    assert_eq!(refusals.len(), 1, "once: {refusals:#?}");
    assert!(refusals[0].to_string().contains("liar"), "{refusals:#?}");
    assert_eq!(transfer_state(&cli, &transfer)?, "SUCCEEDED");
    let node = cli.json(&["node", "get", "liar"])?;
    assert_eq!(node["name"], "nodes/liar", "{node:#}");
    assert!(
        node["relay"].as_bool() != Some(true) && node["labels"].as_object().is_none_or(serde_json::Map::is_empty),
        "{node:#}"
    );
    let whole = cli.json(&["node", "get", "site-a"])?;
    assert_ne!(whole["uid"], node["uid"]);
    // The certificate opens nothing else, and its session is the node's own: there is no way to name another.
    let mut other = agent_service(&fleet.control_plane.grpc(), liar.ca, None).await?;
    let refused =
        other.session(tokio_stream::once(AgentMessage::default())).await.err().context("without a certificate")?;
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(cli.json(&["audit", "verify"])?["ok"], true);
    Ok(())
}
