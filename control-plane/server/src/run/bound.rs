//! The listeners of a server.

use std::net::SocketAddr;

use foundation_runtime::RememberedPorts;
use tokio::net::TcpListener;

use super::RunError;
use crate::{data_dir::DataDir, listen, options::Options, ready::Ready};

/// The listeners, bound before anything that takes time, so that a port that is taken is found at once.
pub(super) struct Bound {
    pub(super) grpc: TcpListener,
    pub(super) http: TcpListener,
    pub(super) metrics: TcpListener,
    pub(super) ports: RememberedPorts,
    /// Where a program on this machine finds them.
    pub(super) ready: Ready,
    /// Where gRPC listens.
    pub(super) address: SocketAddr,
}

impl Bound {
    pub(super) fn bind(options: &Options, dir: &DataDir) -> Result<Self, RunError> {
        let mut ports = RememberedPorts::load(dir.path())?;
        let grpc = listen::tcp(&mut ports, "grpc", options.listen)?;
        let http = listen::tcp(&mut ports, "http", options.http_listen)?;
        let metrics = listen::tcp(&mut ports, "metrics", options.metrics_listen)?;
        let address = |listener: &TcpListener, path: &str| {
            listener.local_addr().map_err(|source| RunError::Io { path: path.into(), source })
        };
        let grpc_address = address(&grpc, "the gRPC port")?;
        let ready = Ready {
            grpc: listen::reachable_here(grpc_address),
            http: listen::reachable_here(address(&http, "the HTTP port")?),
            metrics: listen::reachable_here(address(&metrics, "the metrics port")?),
            dht: None,
            pid: std::process::id(),
        };
        Ok(Self { grpc, http, metrics, ports, ready, address: grpc_address })
    }
}
