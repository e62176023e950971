//! `dwcp.agent.v1.LocalService`.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path},
    sync::Arc,
    time::Duration,
};

use dataplane_amst::Session;
use dataplane_identity::Member;
use futures::Stream;
use proto_model::{
    DirectRequest, Glob, NodeRef, RootName, RootPath, Traceparent, TransferId, TransferOptions, TransferReport,
    config::Root, escape,
};
use proto_rpc::{
    agent::{
        GetLocalStatusRequest, LocalStatus, PingNodeRequest, PingNodeResponse, ResolvePathRequest, ResolvePathResponse,
        SendDirectRequest, SendDirectResponse, TransferReport as RpcReport, local_service_server::LocalService,
    },
    v1::{Transfer, TransferSpec},
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{Joined, LocalApi};
use crate::transfers::Peers;

/// As `PingNodeRequest` says.
const DEFAULT_PINGS: u32 = 4;
const MAX_PINGS: u32 = 100;
/// The same bound as for a transfer of the API.
const MAX_SOURCES: usize = 256;

type Reports = std::pin::Pin<Box<dyn Stream<Item = Result<SendDirectResponse, Status>> + Send>>;

#[tonic::async_trait]
impl LocalService for LocalApi {
    type SendDirectStream = Reports;

    async fn get_local_status(&self, _: Request<GetLocalStatusRequest>) -> Result<Response<LocalStatus>, Status> {
        let roots = self.roots.borrow().iter().map(|(name, root)| shared_root(name, root)).collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let status = match self.joined.borrow().as_ref() {
            None => LocalStatus { version, roots, ..LocalStatus::default() },
            Some(joined) => {
                let connection = joined.control.connection().borrow().clone();
                LocalStatus {
                    name: connection.name.map(|name| name.to_string()).unwrap_or_default(),
                    uid: joined.identity.uid().to_string(),
                    node_id: joined.identity.node_id().to_string(),
                    version,
                    connected: connection.standing.is_some(),
                    roots,
                }
            }
        };
        Ok(Response::new(status))
    }

    async fn resolve_path(
        &self,
        request: Request<ResolvePathRequest>,
    ) -> Result<Response<ResolvePathResponse>, Status> {
        let path = request.into_inner().path;
        let root_path = resolve(&path, &self.roots.borrow())?;
        Ok(Response::new(ResolvePathResponse { root_path }))
    }

    async fn send_direct(
        &self,
        request: Request<SendDirectRequest>,
    ) -> Result<Response<Self::SendDirectStream>, Status> {
        let request = request.into_inner();
        let joined = self.joined()?;
        let member = member(&joined, &request.destination_node)?;
        let spec = spec(&joined, &member, &request);
        let traceparent = Traceparent::from_optional_text(&request.traceparent);
        let direct = self.direct_request(request)?;
        let name = direct.transfer.resource_name();
        let reports = joined.movers.send_direct(direct, member.public_key, traceparent);
        Ok(Response::new(stream(name, spec, reports)))
    }

    async fn ping_node(&self, request: Request<PingNodeRequest>) -> Result<Response<PingNodeResponse>, Status> {
        let request = request.into_inner();
        let joined = self.joined()?;
        let member = member(&joined, &request.node)?;
        let session = session(&joined, &member).await?;
        let count = if request.count == 0 { DEFAULT_PINGS } else { request.count.min(MAX_PINGS) };
        let mut rtt_us = Vec::new();
        for _ in 0..count {
            let rtt = session.ping().await.map_err(|error| Status::unavailable(error.to_string()))?;
            rtt_us.push(micros(rtt));
        }
        let remote_address = session.info().remote.to_string();
        Ok(Response::new(PingNodeResponse { rtt_us, remote_address, path: "direct".to_owned() }))
    }
}

impl LocalApi {
    fn joined(&self) -> Result<Joined, Status> {
        let joined = self.joined.borrow().clone();
        joined.ok_or_else(|| Status::failed_precondition("this agent has not joined a fleet: dwcp token create"))
    }

    fn direct_request(&self, request: SendDirectRequest) -> Result<DirectRequest, Status> {
        let invalid = |what: &str, error: &dyn std::error::Error| Status::invalid_argument(format!("{what}: {error}"));
        if request.source_paths.is_empty() || request.source_paths.len() > MAX_SOURCES {
            return Err(Status::invalid_argument(format!("source_paths: 1 to {MAX_SOURCES} are expected")));
        }
        let parse = |path: &Vec<u8>| RootPath::from_bytes(path);
        let source_paths: Result<Vec<_>, _> = request.source_paths.iter().map(parse).collect();
        let exclude: Result<Vec<_>, _> = request.exclude.iter().map(|glob| glob.parse::<Glob>()).collect();
        Ok(DirectRequest {
            transfer: TransferId::from_parts(u64::try_from(self.clock.unix_ms()).unwrap_or(0), &rand::random()),
            source_paths: source_paths.map_err(|error| invalid("source_paths", &error))?,
            destination_path: parse(&request.destination_path).map_err(|error| invalid("destination_path", &error))?,
            options: TransferOptions {
                delete: request.delete,
                exclude: exclude.map_err(|error| invalid("exclude", &error))?,
                checksum: request.checksum,
                dry_run: request.dry_run,
                max_bytes: None,
            },
        })
    }
}

/// `ROOT:/path` of an absolute path: below the root that reaches deepest.
pub(super) fn resolve(path: &[u8], roots: &BTreeMap<RootName, Root>) -> Result<Vec<u8>, Status> {
    let shown = escape(path);
    let below = Path::new(OsStr::from_bytes(path));
    if !below.is_absolute() || below.components().any(|part| part == Component::ParentDir) {
        return Err(Status::invalid_argument(format!("{shown} is not an absolute path without `..`")));
    }
    let found = roots
        .iter()
        // A root may itself be named by a way with symlinks in it.
        .filter_map(|(name, root)| {
            let folder = std::fs::canonicalize(&root.path).unwrap_or_else(|_gone| root.path.clone());
            Some((name, below.strip_prefix(&folder).ok()?.to_owned(), folder.as_os_str().len()))
        })
        .max_by_key(|(_, _, depth)| *depth);
    let Some((name, rest, _)) = found else {
        let folder = below.parent().unwrap_or(below).display();
        let known: Vec<_> = roots.iter().map(|(name, root)| format!("{name}={}", root.path.display())).collect();
        let known = if known.is_empty() { "it has none".to_owned() } else { known.join(", ") };
        return Err(Status::not_found(format!(
            "{shown} lies below no root of this agent ({known}); start it with --root NAME={folder}"
        )));
    };
    let mut root_path = format!("{name}:/").into_bytes();
    root_path.extend_from_slice(rest.as_os_str().as_bytes());
    if path.ends_with(b"/") && !root_path.ends_with(b"/") {
        root_path.push(b'/');
    }
    Ok(root_path)
}

fn member(joined: &Joined, node: &str) -> Result<Arc<Member>, Status> {
    let parsed: NodeRef = node.trim_start_matches("nodes/").parse().map_err(|error| {
        let error: proto_model::ParseNodeRefError = error;
        Status::invalid_argument(error.to_string())
    })?;
    let membership = joined.identity.membership();
    let member = match &parsed {
        NodeRef::Name(name) => membership.by_name(name),
        NodeRef::Uid(uid) => membership.by_uid(uid),
        NodeRef::Id(id) => membership.by_node_id(id),
    };
    member.ok_or_else(|| Status::not_found(format!("this agent knows no node {}", escape(node.as_bytes()))))
}

async fn session(joined: &Joined, member: &Member) -> Result<Session, Status> {
    if let Some(session) = joined.endpoint.present_session(&member.public_key) {
        return Ok(session);
    }
    let addresses = joined.discovery.addresses(member.public_key).await;
    if addresses.is_empty() {
        return Err(Status::unavailable(format!("no address of {} is known", member.name)));
    }
    let dialled = joined.endpoint.session(member.public_key, &addresses).await;
    dialled.map_err(|error| Status::unavailable(format!("{} cannot be reached: {error}", member.name)))
}

fn spec(joined: &Joined, member: &Member, request: &SendDirectRequest) -> TransferSpec {
    let name = joined.control.connection().borrow().name.as_ref().map(ToString::to_string).unwrap_or_default();
    TransferSpec {
        source_node: format!("nodes/{name}"),
        source_paths: request.source_paths.iter().map(|path| escape(path)).collect(),
        destination_node: format!("nodes/{}", member.name),
        destination_path: escape(&request.destination_path),
        delete: request.delete,
        exclude: request.exclude.clone(),
        checksum: request.checksum,
        dry_run: request.dry_run,
        max_bytes: 0,
    }
}

/// Each report as it comes; ends with the transfer. A caller that leaves does not stop it.
fn stream(name: String, spec: TransferSpec, reports: watch::Receiver<TransferReport>) -> Reports {
    let first = (reports, false);
    Box::pin(futures::stream::unfold(first, move |(mut reports, ended)| {
        let (name, spec) = (name.clone(), spec.clone());
        async move {
            if ended || reports.changed().await.is_err() {
                return None;
            }
            let report = reports.borrow_and_update().clone();
            let ended = report.state.is_end();
            let transfer = transfer(name, spec, report.into());
            Some((Ok(SendDirectResponse { transfer: Some(transfer) }), (reports, ended)))
        }
    }))
}

fn transfer(name: String, spec: TransferSpec, report: RpcReport) -> Transfer {
    Transfer {
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
        ..Transfer::default()
    }
}

fn shared_root(name: &RootName, root: &Root) -> String {
    if root.read_only { format!("{name}:ro") } else { name.to_string() }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
