//! `agent.sock`: what the agent does for callers on its own host.
//!
//! Who may connect is the file's mode: root and the agent's own user, and with `--socket-group` that group's members. They may
//! read and write what the agent can, within its roots.

mod service;
mod socket;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use dataplane_amst::Endpoint;
use dataplane_control_client::Handle;
use dataplane_identity::Identity;
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use foundation_telemetry::TraceLayer;
use proto_model::{RootName, config::Root};
use proto_rpc::agent::local_service_server::LocalServiceServer;
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::{discovery::Discovery, transfers::Movers};

pub(crate) use socket::{SocketError, bind};

/// A request is a handful of paths.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// The parts that work once the node has joined.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) identity: Identity,
    pub(crate) control: Handle,
    pub(crate) movers: Movers,
    pub(crate) endpoint: Endpoint,
    pub(crate) discovery: Discovery,
}

/// What the local API needs of the agent.
#[derive(Clone, Debug)]
pub(crate) struct LocalApi {
    /// None until the node has joined.
    pub(crate) joined: watch::Receiver<Option<Joined>>,
    /// The roots in force.
    pub(crate) roots: watch::Receiver<Arc<BTreeMap<RootName, Root>>>,
    pub(crate) clock: Clock,
}

/// Serves until the group ends; the socket's file is removed then.
pub(crate) fn serve(listener: UnixListener, path: PathBuf, api: LocalApi, tasks: &TaskGroup) {
    let group = tasks.clone();
    tasks.spawn("serve agent.sock", OnEnd::Fatal, async move {
        let service = LocalServiceServer::new(api).max_decoding_message_size(MAX_REQUEST_BYTES);
        let served = Server::builder()
            .layer(TraceLayer::server("local"))
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), group.cancelled())
            .await;
        if let Err(error) = served {
            tracing::error!(component = "local", reason = %error, "agent.sock is served no more");
        }
        // A file that is gone already is as good.
        drop(std::fs::remove_file(path));
    });
}
