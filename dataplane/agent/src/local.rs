//! `agent.sock`: what the agent does for callers on its own host (D17).
//!
//! The socket's mode says who may connect: the agent's own user, and the members of `--socket-group`. Root may always. Who
//! connects is checked again by the credentials that the kernel gives.

mod connections;

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use chrono::{DateTime, SubsecRound as _, Utc};
use dataplane_identity::Member as PeerMember;
use dataplane_transfer::BenchRight;
use foundation_runtime::{Clock, LocalSocket, SocketAccess, TaskGroup};
use foundation_telemetry::TraceLayer;
use futures::Stream;
use nix::unistd::{Group, geteuid};
use proto_model::{
    BenchId, BenchPlan, BenchReport, DirectRequest, Glob, NodeId, NodeRef, RootName, RootPath, Traceparent, TransferId,
    TransferOptions, TransferReport, config::Root,
};
use proto_rpc::{
    agent::{
        BenchDirectRequest, BenchDirectResponse, GetLocalStatusRequest, LocalStatus, PingNodeRequest, PingNodeResponse,
        ResolvePathRequest, ResolvePathResponse, SendDirectRequest, SendDirectResponse,
        local_service_server::{LocalService, LocalServiceServer},
    },
    v1,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::server::{Server, UdsConnectInfo},
};

use crate::{
    apply::chain, configuration::InForce, discovery::Discovery, health::Health, member::Member, supervisor::PartResult,
    transfers::Peers,
};

use connections::bounded;

/// The socket's name in the data directory.
pub(crate) const FILE: &str = "agent.sock";
/// A path of a unix socket has room for so many bytes.
const MAX_SOCKET_PATH: usize = 107;
/// Round trips of one ping at most (local.proto).
const MAX_PINGS: u32 = 100;
/// Round trips where nobody says how many.
const DEFAULT_PINGS: u32 = 4;
/// Reports of a direct send that wait for a slow caller; only the newest are made.
const REPORTS: usize = 4;

/// What the socket's callers are served from.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) node_id: NodeId,
    pub(crate) member: watch::Receiver<Option<Arc<Member>>>,
    pub(crate) in_force: watch::Receiver<InForce>,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskGroup,
    /// Whether a group may connect.
    pub(crate) grouped: bool,
    pub(crate) health: Health,
}

/// Serves the socket until the agent stops.
pub(crate) async fn serve(
    local: Local,
    dir: PathBuf,
    group: Option<String>,
    connections: usize,
    ready: impl FnOnce() + Send,
) -> PartResult {
    // The file goes with this future, however that ends.
    let socket = bind(&dir, group.as_deref()).map_err(|error| format!("agent.sock: {error}"))?;
    ready();
    let tasks = local.tasks.clone();
    let uid = geteuid().as_raw();
    let grouped = local.grouped;
    let check = move |request: Request<()>| -> Result<Request<()>, Status> {
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        match peer {
            // Of a group the socket's mode has let in whom it should.
            Some(peer) if peer.uid() == 0 || peer.uid() == uid || grouped => Ok(request),
            _ => Err(Status::permission_denied("only root, the agent's own user and its socket's group may ask it")),
        }
    };
    Server::builder()
        .layer(TraceLayer::server("local"))
        .add_service(LocalServiceServer::with_interceptor(local, check))
        .serve_with_incoming_shutdown(bounded(socket, connections), async move { tasks.cancelled().await })
        .await
        .map_err(|error| format!("agent.sock: {}", chain(&error)))
}

fn bind(dir: &Path, group: Option<&str>) -> io::Result<LocalSocket> {
    let path = dir.join(FILE);
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let why = format!(
            "{} has {length} bytes, and a socket's path may have {MAX_SOCKET_PATH}; use a shorter --data-dir",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let access = match group {
        Some(name) => SocketAccess::Group(open_to_group(dir, name)?),
        None => SocketAccess::Owner,
    };
    LocalSocket::bind(&path, access)
}

/// The group's number. Its members must be able to pass through the data directory, too; they cannot list it.
fn open_to_group(dir: &Path, name: &str) -> io::Result<u32> {
    let unknown = || io::Error::other(format!("--socket-group: there is no group {name}; groupadd --system {name}"));
    let gid = Group::from_name(name)?.ok_or_else(unknown)?.gid.as_raw();
    let data = dir.metadata()?;
    if data.gid() != gid {
        chown(dir, None, Some(gid)).map_err(|error| {
            let why = format!("--socket-group: the agent's user is no member of the group {name} ({error})");
            io::Error::new(error.kind(), why)
        })?;
    }
    let mode = data.mode() & 0o7777;
    if mode & 0o010 == 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o010))?;
    }
    Ok(gid)
}

impl Local {
    fn member(&self) -> Result<Arc<Member>, Status> {
        let member = self.member.borrow().clone();
        member
            .ok_or_else(|| Status::failed_precondition("this host has not joined a fleet; run `dwcp-agent join` first"))
    }

    fn peer(&self, member: &Member, node: &str) -> Result<Arc<PeerMember>, Status> {
        let node = node.strip_prefix("nodes/").unwrap_or(node);
        let named: NodeRef = node.parse().map_err(invalid("node"))?;
        let membership = member.identity.membership();
        let found = match &named {
            NodeRef::Name(name) => membership.by_name(name),
            NodeRef::Uid(uid) => membership.by_uid(uid),
            NodeRef::Id(id) => membership.by_node_id(id),
        };
        found.ok_or_else(|| {
            Status::not_found(format!("the fleet's roster, as this agent has it, knows no node {named}"))
        })
    }
}

fn invalid<E: std::fmt::Display>(field: &'static str) -> impl FnOnce(E) -> Status {
    move |error| Status::invalid_argument(format!("{field}: {error}"))
}

#[tonic::async_trait]
impl LocalService for Local {
    type SendDirectStream = Pin<Box<dyn Stream<Item = Result<SendDirectResponse, Status>> + Send>>;

    async fn get_local_status(
        &self,
        _request: Request<GetLocalStatusRequest>,
    ) -> Result<Response<LocalStatus>, Status> {
        let member = self.member.borrow().clone();
        let connection = member.as_ref().map(|member| member.control.connection().borrow().clone()).unwrap_or_default();
        let roots = &self.in_force.borrow().effective.config.roots;
        let root = |(name, root): (&RootName, &Root)| format!("{name}{}", if root.read_only { ":ro" } else { "" });
        Ok(Response::new(LocalStatus {
            name: connection.name.map(String::from).unwrap_or_default(),
            uid: member.as_ref().map(|member| member.identity.uid().to_string()).unwrap_or_default(),
            node_id: self.node_id.to_string(),
            version: crate::VERSION.to_owned(),
            connected: connection.standing.is_some(),
            trouble: if connection.standing.is_some() { String::new() } else { connection.trouble.unwrap_or_default() },
            roots: roots.iter().map(root).collect(),
            components: self.health.report().into_iter().map(Into::into).collect(),
        }))
    }

    async fn resolve_path(
        &self,
        request: Request<ResolvePathRequest>,
    ) -> Result<Response<ResolvePathResponse>, Status> {
        let path = request.into_inner().path;
        let roots = self.in_force.borrow().effective.config.roots.clone();
        let roots = roots.into_iter().map(|(name, root)| (name, root.path)).collect::<Vec<_>>();
        let resolved = self.tasks.blocking("resolve a path", move || resolve(&roots, &path));
        let root_path = resolved.await.map_err(|_stopping| Status::unavailable("the agent is stopping"))??;
        Ok(Response::new(ResolvePathResponse { root_path: root_path.to_bytes() }))
    }

    async fn send_direct(
        &self,
        request: Request<SendDirectRequest>,
    ) -> Result<Response<Self::SendDirectStream>, Status> {
        let request = request.into_inner();
        let member = self.member()?;
        let peer = self.peer(&member, &request.destination_node)?;
        let now = u64::try_from(self.clock.unix_ms()).unwrap_or_default();
        let transfer = TransferId::from_parts(now, &rand::random());
        let traceparent = Traceparent::from_optional_text(&request.traceparent);
        let direct = direct_request(transfer, &request, self.clock.utc())?;
        let spec = spec(&request, self.name(&member), &peer);
        let reports = member.movers.send_direct(direct, peer.public_key, traceparent);
        let (answers, stream) = mpsc::channel(REPORTS);
        self.tasks.spawn("tell of a direct send", foundation_runtime::OnEnd::Expected, tell(reports, answers, spec));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type BenchDirectStream = Pin<Box<dyn Stream<Item = Result<BenchDirectResponse, Status>> + Send>>;

    async fn bench_direct(
        &self,
        request: Request<BenchDirectRequest>,
    ) -> Result<Response<Self::BenchDirectStream>, Status> {
        let spec = request.into_inner().spec.unwrap_or_default();
        let member = self.member()?;
        let peer = self.peer(&member, &spec.destination_node)?;
        let plan = BenchPlan::try_from(&spec).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = u64::try_from(self.clock.unix_ms()).unwrap_or_default();
        let bench = BenchId::from_parts(now, &rand::random());
        let cancel = CancellationToken::new();
        let right = BenchRight::Direct { plan, peer: peer.public_key };
        let reports = member.bencher.direct(right, bench, cancel.clone());
        let spec = v1::BenchSpec {
            source_node: self.name(&member),
            destination_node: peer.name.resource_name(),
            seconds: plan.seconds,
            ..spec
        };
        let (answers, stream) = mpsc::channel(REPORTS);
        let tell = tell_bench(reports, answers, spec, cancel);
        self.tasks.spawn("tell of a direct bench", foundation_runtime::OnEnd::Expected, tell);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn ping_node(&self, request: Request<PingNodeRequest>) -> Result<Response<PingNodeResponse>, Status> {
        let request = request.into_inner();
        let member = self.member()?;
        let peer = self.peer(&member, &request.node)?;
        let session = match member.endpoint.present_session(&peer.public_key) {
            Some(session) => session,
            None => {
                let addresses = Discovery::addresses(&member.discovery, peer.public_key).await;
                let dialled = member.endpoint.session(peer.public_key, &addresses).await;
                dialled.map_err(|error| Status::unavailable(format!("no way to {}: {}", peer.name, chain(&error))))?
            }
        };
        let count = if request.count == 0 { DEFAULT_PINGS } else { request.count.min(MAX_PINGS) };
        let mut rtt_us = Vec::new();
        for _ in 0..count {
            let rtt = session.ping().await.map_err(|error| Status::unavailable(format!("{}: {error}", peer.name)))?;
            rtt_us.push(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        }
        Ok(Response::new(PingNodeResponse {
            rtt_us,
            remote_address: session.info().remote.to_string(),
            path: "direct".to_owned(),
        }))
    }
}

impl Local {
    fn name(&self, member: &Member) -> String {
        let name = member.control.connection().borrow().name.clone();
        name.map(|name| name.resource_name()).unwrap_or_default()
    }
}

fn direct_request(
    transfer: TransferId,
    request: &SendDirectRequest,
    now: DateTime<Utc>,
) -> Result<DirectRequest, Status> {
    if request.source_paths.is_empty() {
        return Err(Status::invalid_argument("source_paths: is required"));
    }
    let sources = request.source_paths.iter().map(|path| RootPath::from_bytes(path)).collect::<Result<_, _>>();
    let deadline = request.deadline.map(proto_model::from_timestamp).transpose().map_err(invalid("deadline"))?;
    let deadline = deadline.map(|deadline| deadline.trunc_subsecs(3));
    if let Some(passed) = deadline.filter(|deadline| *deadline <= now) {
        return Err(Status::invalid_argument(format!("deadline: {passed} is over")));
    }
    let exclude = request.exclude.iter().map(|glob| glob.parse::<Glob>()).collect::<Result<_, _>>();
    Ok(DirectRequest {
        transfer,
        source_paths: sources.map_err(invalid("source_paths"))?,
        destination_path: RootPath::from_bytes(&request.destination_path).map_err(invalid("destination_path"))?,
        options: TransferOptions {
            delete: request.delete,
            exclude: exclude.map_err(invalid("exclude"))?,
            checksum: request.checksum,
            dry_run: request.dry_run,
            max_bytes: None,
            deadline,
        },
    })
}

fn spec(request: &SendDirectRequest, source_node: String, peer: &PeerMember) -> v1::TransferSpec {
    v1::TransferSpec {
        source_node,
        source_paths: request.source_paths.iter().map(|path| proto_model::escape(path)).collect(),
        destination_node: peer.name.resource_name(),
        destination_path: proto_model::escape(&request.destination_path),
        delete: request.delete,
        exclude: request.exclude.clone(),
        checksum: request.checksum,
        dry_run: request.dry_run,
        max_bytes: 0,
        deadline: request.deadline,
    }
}

/// Passes reports on until the transfer has ended, or the caller went away: then it goes on unwatched.
async fn tell(
    mut reports: watch::Receiver<TransferReport>,
    answers: mpsc::Sender<Result<SendDirectResponse, Status>>,
    spec: v1::TransferSpec,
) {
    loop {
        let report = reports.borrow_and_update().clone();
        let ended = report.state.is_end();
        let transfer = Some(as_transfer(report, spec.clone()));
        if answers.send(Ok(SendDirectResponse { transfer })).await.is_err() || ended {
            return;
        }
        if reports.changed().await.is_err() {
            let lost = Status::unavailable("the agent stopped; the transfer goes on when it runs again");
            // A caller that went away does not want to know.
            drop(answers.send(Err(lost)).await);
            return;
        }
    }
}

/// Passes reports on until the bench has ended; a caller that goes away ends it.
async fn tell_bench(
    mut reports: watch::Receiver<BenchReport>,
    answers: mpsc::Sender<Result<BenchDirectResponse, Status>>,
    spec: v1::BenchSpec,
    cancel: CancellationToken,
) {
    let _ends = cancel.drop_guard();
    loop {
        let report = reports.borrow_and_update().clone();
        let ended = report.state.is_end();
        let bench = v1::Bench { spec: Some(spec.clone()), ..report.into() };
        if answers.send(Ok(BenchDirectResponse { bench: Some(bench) })).await.is_err() || ended {
            return;
        }
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = answers.closed() => return,
        }
    }
}

fn as_transfer(report: TransferReport, spec: v1::TransferSpec) -> v1::Transfer {
    let name = report.transfer.resource_name();
    let advice = report.time_spent.advice().unwrap_or_default();
    let report: proto_rpc::agent::TransferReport = report.into();
    v1::Transfer {
        name,
        spec: Some(spec),
        state: report.state,
        error: report.error,
        progress: report.progress,
        issues: report.issues,
        issue_count: report.issue_count,
        tree_digest: report.tree_digest,
        start_time: report.start_time,
        end_time: report.end_time,
        path: report.path,
        planned_changes: report.planned_changes,
        time_spent: report.time_spent,
        advice,
        ..v1::Transfer::default()
    }
}

/// A path of this host as `ROOT:/path`, by the deepest root that it lies below.
fn resolve(roots: &[(RootName, PathBuf)], path: &[u8]) -> Result<RootPath, Status> {
    let shown = proto_model::escape(path);
    let asked = Path::new(OsStr::from_bytes(path));
    if !asked.is_absolute() {
        return Err(Status::invalid_argument(format!("path: {shown} is not absolute")));
    }
    let real = asked.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(format!("{shown} does not exist on this host")),
        _ => Status::failed_precondition(format!("{shown} cannot be looked at by the agent: {error}")),
    })?;
    let below = |(name, root): &(RootName, PathBuf)| {
        let root = root.canonicalize().ok()?;
        real.strip_prefix(&root).ok().map(|rest| (root.as_os_str().len(), name.clone(), rest.to_path_buf()))
    };
    let Some((_, root, rest)) = roots.iter().filter_map(below).max_by_key(|(length, _, _)| *length) else {
        let folder = if real.is_dir() { real.as_path() } else { real.parent().unwrap_or(Path::new("/")) };
        return Err(Status::failed_precondition(format!(
            "{shown} lies below none of this agent's roots; start it with --root {}={}",
            free_name(roots, folder),
            proto_model::escape(folder.as_os_str().as_bytes())
        )));
    };
    let mut bytes = [root.as_str().as_bytes(), b":/", rest.as_os_str().as_bytes()].concat();
    if path.ends_with(b"/") && !bytes.ends_with(b"/") {
        bytes.push(b'/');
    }
    RootPath::from_bytes(&bytes).map_err(invalid("path"))
}

/// A root's name that is not in use: `data`, else the folder's own, else one with a number.
fn free_name(roots: &[(RootName, PathBuf)], folder: &Path) -> String {
    let own = folder.file_name().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let numbered = (2_u32..).map(|number| format!("data{number}"));
    let mut names = std::iter::once("data".to_owned()).chain(own).chain(numbered);
    let is_free =
        |name: &String| name.parse::<RootName>().is_ok() && roots.iter().all(|(taken, _)| taken.as_str() != name);
    names.find(is_free).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_by_the_deepest_root_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("f"), "x").unwrap();
        let roots = [("all", dir.path().to_path_buf()), ("inner", inner.clone())]
            .map(|(name, path)| (name.parse().unwrap(), path));
        let name = |path: &Path, slash: &str| {
            let bytes = [path.as_os_str().as_bytes(), slash.as_bytes()].concat();
            resolve(&roots, &bytes).map(|path| String::from_utf8(path.to_bytes()).unwrap())
        };
        assert_eq!(name(&inner.join("f"), "").unwrap(), "inner:/f");
        assert_eq!(name(&inner, "/").unwrap(), "inner:/");
        let outside = name(Path::new("/usr"), "").unwrap_err();
        assert!(outside.message().contains("--root data=/usr"), "{}", outside.message());
        assert_eq!(name(&inner.join("g"), "").unwrap_err().code(), tonic::Code::NotFound);

        let taken = ["data", "usr"].map(|name| (name.parse().unwrap(), dir.path().to_path_buf()));
        let advice = |roots| resolve(roots, b"/usr").unwrap_err().message().to_owned();
        assert!(advice(&taken[..1]).contains("--root usr=/usr"), "{}", advice(&taken[..1]));
        assert!(advice(&taken).contains("--root data2=/usr"), "{}", advice(&taken));
    }
}
