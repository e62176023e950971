//! The program as a process of its own, on a private PostgreSQL: started, asked, killed in every way, stopped.

#![allow(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use foundation_runtime::Clock;
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proto_rpc::v1::{ListNodesRequest, node_service_client::NodeServiceClient};
use serde_json::Value;
use tonic::{
    Code, Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dwcp-control-plane");

/// A cold start makes a cluster, and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(90);

/// A data directory that PostgreSQL's user can reach.
fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("dwcp-cp-").permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

/// Waits until something is the case.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let deadline = clock.now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("run").arg("--data-dir").arg(dir);
    for port in ["--listen", "--http-listen", "--metrics-listen", "--dht-listen"] {
        command.args([port, "127.0.0.1:0"]);
    }
    command
}

struct Server {
    child: Child,
    dir: PathBuf,
    ready: Value,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.with_extension("log")).unwrap();
        let mut child = command(dir).stderr(log).spawn().unwrap();
        let ready = eventually("ready.json", || {
            assert_eq!(child.try_wait().unwrap(), None, "{}", fs::read_to_string(dir.with_extension("log")).unwrap());
            let ready: Value = serde_json::from_slice(&fs::read(dir.join("ready.json")).ok()?).unwrap();
            (ready["pid"] == child.id()).then_some(ready)
        });
        Self { child, dir: dir.to_path_buf(), ready }
    }

    fn address(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// The status code and the body of a plain GET.
    fn get(&self, listener: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address(listener)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    async fn channel(&self) -> Channel {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(fs::read(self.dir.join("ca.pem")).unwrap()))
            .domain_name("control-plane.dwcp");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address("grpc"))).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    fn postgres_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("postgres/data/postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok().map(Pid::from_raw)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn list_nodes(token: Option<&str>) -> Request<ListNodesRequest> {
    let mut request = Request::new(ListNodesRequest::default());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

fn refused(dir: &Path, more: &[&str]) -> String {
    let Output { status, stderr, .. } = command(dir).args(more).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(status.code(), Some(1));
    let said = String::from_utf8(stderr).unwrap();
    let last = said.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("dwcp-control-plane: "), "{said}");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_comes_back_from_every_kill_and_stops_cleanly() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let scratch = scratch();
    let dir = scratch.path().join("cp");
    let mut server = Server::start(&dir);
    for secret in ["seal.key", "admin.token", "admin.sock"] {
        let mode = fs::metadata(dir.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }

    // By TLS, with the CA that it made.
    let channel = server.channel().await;
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    let token = fs::read_to_string(dir.join("admin.token")).unwrap();
    let mut nodes = NodeServiceClient::new(channel);
    nodes.list_nodes(list_nodes(Some(token.trim()))).await.unwrap();
    assert_eq!(nodes.list_nodes(list_nodes(None)).await.unwrap_err().code(), Code::Unauthenticated);
    let wrong = format!("{}x", &token.trim()[..token.trim().len() - 1]);
    assert_eq!(nodes.list_nodes(list_nodes(Some(&wrong))).await.unwrap_err().code(), Code::Unauthenticated);

    // Through the socket, without a token.
    let socket = dir.join("admin.sock");
    let connector = tower::service_fn(move |_uri: http::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let local = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    NodeServiceClient::new(local).list_nodes(list_nodes(None)).await.unwrap();

    assert_eq!(server.get("http", "/health").unwrap().0, 200);
    assert!(server.get("metrics", "/metrics").unwrap().1.contains("\ndwcp_requests_total "));

    // PostgreSQL dies.
    let postgres = server.postgres_pid().unwrap();
    kill(postgres, Signal::SIGKILL).unwrap();
    eventually("PostgreSQL is back", || server.postgres_pid().filter(|pid| *pid != postgres));
    eventually("ready again", || (server.get("http", "/readyz")?.0 == 200).then_some(()));
    nodes.list_nodes(list_nodes(Some(token.trim()))).await.unwrap();

    // The server dies: PostgreSQL does not outlive it, and the next start has the same ports and token.
    let before = server.ready.clone();
    server.signal(Signal::SIGKILL);
    server.child.wait().unwrap();
    let mut server = Server::start(&dir);
    assert_eq!(server.ready["grpc"], before["grpc"]);
    let mut nodes = NodeServiceClient::new(server.channel().await);
    nodes.list_nodes(list_nodes(Some(token.trim()))).await.unwrap();

    // A clean stop, also with a connection open.
    let postgres = server.postgres_pid().unwrap();
    server.signal(Signal::SIGTERM);
    assert!(server.child.wait().unwrap().success());
    assert!(!dir.join("ready.json").exists());
    assert!(kill(postgres, None).is_err(), "PostgreSQL is gone");
}

#[test]
fn a_log_whose_end_was_cut_off_in_the_database_is_found() {
    let scratch = scratch();
    let dir = scratch.path().join("cp");
    let stop = |mut server: Server| {
        server.signal(Signal::SIGTERM);
        assert!(server.child.wait().unwrap().success());
    };
    stop(Server::start(&dir));
    let copied = Command::new("cp").arg("-a").arg(dir.join("postgres")).arg(dir.join("older")).status().unwrap();
    assert!(copied.success());
    // A new administrator's token: one more event.
    fs::remove_file(dir.join("admin.token")).unwrap();
    stop(Server::start(&dir));

    fs::remove_dir_all(dir.join("postgres")).unwrap();
    fs::rename(dir.join("older"), dir.join("postgres")).unwrap();
    fs::remove_file(dir.join("admin.token")).unwrap();
    let server = Server::start(&dir);
    let (code, health) = server.get("http", "/health?verbose=true").unwrap();
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!((code, &health["status"]), (200, &Value::from("degraded")));
    let error = health["components"]["audit"]["error"].as_str().unwrap();
    assert!(error.contains("rewritten") || error.contains("cut off"), "{error}");
    assert!(server.get("metrics", "/metrics").unwrap().1.contains("\ndwcp_audit_verify_failures_total 1\n"));
}

#[test]
fn a_start_that_cannot_be_says_why_in_one_line() {
    let scratch = scratch();
    let dir = scratch.path().join("cp");
    let mut server = Server::start(&dir);
    let held = refused(&dir, &[]);
    assert!(held.contains("is in use by process"), "{held}");
    let taken = refused(&scratch.path().join("other"), &["--listen", server.address("grpc")]);
    assert!(taken.contains(&format!("(process {})", server.child.id())), "{taken}");
    server.signal(Signal::SIGTERM);
    assert!(server.child.wait().unwrap().success());

    fs::rename(dir.join("seal.key"), dir.join("kept")).unwrap();
    let sealed = refused(&dir, &[]);
    assert!(sealed.contains("seal.key"), "{sealed}");
    assert!(!dir.join("seal.key").exists(), "no wrong key is left behind");
    fs::rename(dir.join("kept"), dir.join("seal.key")).unwrap();
    drop(Server::start(&dir));
}
