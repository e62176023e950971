//! `dwcp send`: from one host to another, and the wait for the end.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    process::ExitCode,
};

use foundation_runtime::Clock;
use proto_rpc::{
    agent::{GetLocalStatusRequest, ResolvePathRequest, SendDirectRequest},
    v1::{CreateTransferRequest, TransferSpec},
};

use super::{follow, once, ping::no_agent, request_id, resource};
use crate::{
    args::{Global, Send},
    connection::{Connection, local_agent},
    failure::{Exit, Failure},
    output::Output,
    progress::TransferBar,
    units::{Deadline, to_proto},
};

pub(super) async fn run(global: &Global, output: &Output, mut send: Send) -> Result<ExitCode, Failure> {
    let destination = send.paths.pop().ok_or_else(|| Failure::usage("a destination is missing"))?;
    let destination = Destination::parse(&destination)?;
    if send.direct {
        return direct(global, output, send, destination).await;
    }
    let (source_node, source_paths) = match &send.from {
        Some(node) => (node.clone(), send.paths.iter().map(|path| remote_path(path)).collect::<Result<_, _>>()?),
        None => local_sources(global, &send.paths, send.delete).await?,
    };
    let spec = TransferSpec {
        source_node: resource("nodes", &source_node),
        source_paths,
        destination_node: resource("nodes", &destination.node),
        destination_path: text(destination.path)?,
        delete: send.delete,
        exclude: send.exclude,
        checksum: send.checksum,
        dry_run: send.dry_run,
        max_bytes: 0,
        deadline: match send.deadline {
            Some(Deadline::At(time)) => Some(proto_model::to_timestamp(time)),
            Some(Deadline::In(_)) | None => None,
        },
    };
    let connection = Connection::open(global)?;
    let request = CreateTransferRequest {
        spec: Some(spec),
        request_id: request_id(),
        validate_only: send.validate_only,
        grant_ttl: None,
        // By the control plane's clock, which may differ from this host's.
        time_limit: match send.deadline {
            Some(Deadline::In(from_now)) => Some(to_proto(from_now)),
            Some(Deadline::At(_)) | None => None,
        },
    };
    let created = once(request, async |request| connection.transfers().create_transfer(request).await).await?;
    if send.validate_only {
        output.message(&created, |_| "√ the transfer would be accepted; nothing was begun".to_owned())?;
        return Ok(ExitCode::SUCCESS);
    }
    if send.detach {
        output.talk(&format!("Next: dwcp transfer watch {}", super::short(&created.name)));
        output.message(&created, |created| created.name.clone())?;
        return Ok(ExitCode::SUCCESS);
    }
    let ended = follow::follow(&connection, output, &created.name, send.timeout).await?;
    follow::report(output, &ended)
}

/// The local agent sends by itself; this shows how far it is.
async fn direct(global: &Global, output: &Output, send: Send, destination: Destination) -> Result<ExitCode, Failure> {
    let mut source_paths = Vec::new();
    for path in &send.paths {
        source_paths.push(source(global, path, send.delete).await?);
    }
    let request = SendDirectRequest {
        source_paths,
        destination_node: destination.node,
        destination_path: destination.path,
        delete: send.delete,
        exclude: send.exclude,
        checksum: send.checksum,
        dry_run: send.dry_run,
        deadline: send.deadline.map(|deadline| match deadline {
            Deadline::At(time) => proto_model::to_timestamp(time),
            Deadline::In(from_now) => proto_model::to_timestamp(Clock::system().utc() + from_now),
        }),
        traceparent: foundation_telemetry::propagation::traceparent(&tracing::Span::current()).unwrap_or_default(),
    };
    let bar = TransferBar::new(output);
    let clock = Clock::system();
    let deadline = send.timeout.map(|timeout| clock.now() + timeout);
    let until_end = async {
        let mut agent = local_agent(global);
        let mut stream = agent.send_direct(request).await.map_err(|status| no_agent(global, status))?.into_inner();
        let mut last = None;
        while let Some(event) = stream.message().await? {
            let Some(transfer) = event.transfer else { continue };
            bar.show(&transfer);
            last = Some(transfer);
        }
        Ok::<_, Failure>(last)
    };
    let late = || Failure::new(Exit::TimedOut, "it has not ended in time; the agent sends on, and its log says more");
    let last = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline.into(), until_end).await.unwrap_or_else(|_late| Err(late())),
        None => until_end.await,
    };
    bar.finish();
    match last? {
        Some(transfer) if follow::has_ended(transfer.state()) => follow::report(output, &transfer),
        Some(_) | None => Err(Failure::failed("the agent broke off; it sends on, and its log says more")),
    }
}

/// Sources on this host: named by its agent, which is then the sender.
pub(super) async fn local_sources(
    global: &Global,
    paths: &[OsString],
    delete: bool,
) -> Result<(String, Vec<String>), Failure> {
    let status = local_agent(global)
        .get_local_status(GetLocalStatusRequest {})
        .await
        .map_err(|status| no_agent(global, status))?
        .into_inner();
    if status.name.is_empty() {
        return Err(Failure::failed("this host's agent has not joined a fleet").hint("dwcp token create"));
    }
    let mut sources = Vec::new();
    for path in paths {
        sources.push(text(source(global, path, delete).await?)?);
    }
    Ok((status.name, sources))
}

/// A source as the local agent names it.
async fn source(global: &Global, path: &OsStr, delete: bool) -> Result<Vec<u8>, Failure> {
    if is_root_path(path) {
        return Ok(path.as_bytes().to_vec());
    }
    let resolved = resolve(global, path).await?;
    if delete {
        may_delete(path, &resolved)?;
    }
    Ok(resolved)
}

/// `ROOT:/path` of a path on this host. A trailing slash is kept: it says that the contents are meant.
async fn resolve(global: &Global, path: &OsStr) -> Result<Vec<u8>, Failure> {
    let shown = PathBuf::from(path);
    let absolute = std::fs::canonicalize(&shown)
        .map_err(|error| Failure::chain(format!("cannot send {}", shown.display()), &error))?;
    let mut bytes = absolute.as_os_str().as_bytes().to_vec();
    if path.as_bytes().ends_with(b"/") && !bytes.ends_with(b"/") {
        bytes.push(b'/');
    }
    let answer = local_agent(global).resolve_path(ResolvePathRequest { path: bytes }).await;
    Ok(answer.map_err(|status| no_agent(global, status))?.into_inner().root_path)
}

/// A root has no name of its own, so that its contents are sent: where that deletes, it has to be asked for with a slash.
fn may_delete(path: &OsStr, resolved: &[u8]) -> Result<(), Failure> {
    if !resolved.ends_with(b":/") || path.as_bytes().ends_with(b"/") {
        return Ok(());
    }
    let (path, root) = (path.display(), String::from_utf8_lossy(resolved).into_owned());
    let message = format!("`{path}` is {root} itself: its contents are sent, and --delete spares nothing beside them");
    Err(Failure::usage(message).hint(format!("write `{path}/` if that is meant")))
}

/// Whether a source names a root of the sending agent rather than a path of this host.
fn is_root_path(path: &OsStr) -> bool {
    let bytes = path.as_bytes();
    let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return false };
    let (root, rest) = bytes.split_at(colon);
    !root.is_empty() && !root.contains(&b'/') && !root.contains(&b'.') && rest.starts_with(b":/")
}

pub(super) fn remote_path(path: &OsStr) -> Result<String, Failure> {
    if !is_root_path(path) {
        return Err(Failure::usage(format!("`{}` is not ROOT:/path, which --from needs", path.display())));
    }
    text(path.as_bytes().to_vec())
}

/// The API's paths are text; names of other bytes are sent by naming the folder above them.
pub(super) fn text(path: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(path).map_err(|error| {
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Failure::usage(format!("`{shown}` is not UTF-8; send the folder above it, or use --direct"))
    })
}

/// `NODE:ROOT:/path`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) node: String,
    pub(super) path: Vec<u8>,
}

impl Destination {
    pub(super) fn parse(text: &OsStr) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!("`{}` is no destination", text.display()))
                .hint("write NODE:ROOT:/path, for example site-b:data:/in")
        };
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
        let (node, rest) = bytes.split_at(colon);
        let path = rest.get(1..).unwrap_or_default();
        if node.is_empty() || !is_root_path(OsStr::from_bytes(path)) {
            return Err(wrong());
        }
        let node = std::str::from_utf8(node).map_err(|_invalid| wrong())?;
        Ok(Self { node: node.to_owned(), path: path.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_without_a_slash_is_no_order_to_delete() {
        for (path, resolved, fine) in [
            ("/srv/data", b"data:/".as_slice(), false),
            (".", b"data:/", false),
            ("/srv/data/", b"data:/", true),
            ("/srv/data/set", b"data:/set", true),
            ("/srv/data/set/", b"data:/set/", true),
        ] {
            assert_eq!(may_delete(OsStr::new(path), resolved).is_ok(), fine, "{path}");
        }
    }

    #[test]
    fn a_destination_is_a_node_a_root_and_a_path() {
        let parsed = Destination::parse(OsStr::new("site-b:data:/in/")).unwrap();
        assert_eq!(parsed, Destination { node: "site-b".into(), path: b"data:/in/".to_vec() });
        for wrong in ["", "site-b", "site-b:/in", ":data:/in", "site-b:data:in"] {
            assert!(Destination::parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn local_paths_are_told_from_paths_below_a_root() {
        assert!(is_root_path(OsStr::new("data:/set")));
        assert!(!is_root_path(OsStr::new("./data:/set")));
        assert!(!is_root_path(OsStr::new("/srv/data")));
        assert!(!is_root_path(OsStr::new("dataset")));
    }
}
