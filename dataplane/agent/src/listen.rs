//! TCP listeners: the HTTP port, and the metrics port that may give way (D28).

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use foundation_runtime::{PortHolder, PortsError, Protocol, RememberedPorts};
use tokio::net::TcpListener;

/// Why a port cannot be used: one line for people.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody has it.
    #[error("{usage}: TCP port {port} is in use by {by}; stop it, or give another {flag}", port = .address.port())]
    InUse {
        /// What for.
        usage: &'static str,
        /// Which.
        address: SocketAddr,
        /// By whom.
        by: PortHolder,
        /// How to give another one.
        flag: &'static str,
    },
    /// Anything else.
    #[error("{usage}: cannot listen on {address}")]
    Io {
        /// What for.
        usage: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The ports that were chosen before cannot be read or kept.
    #[error(transparent)]
    Ports(#[from] PortsError),
}

/// Listens; a port of 0 is chosen once and remembered under `usage`.
pub(crate) async fn listen(
    usage: &'static str,
    flag: &'static str,
    asked: SocketAddr,
    ports: &mut RememberedPorts,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let address = SocketAddr::new(asked.ip(), ports.wanted(usage, asked.port()));
    let listener = bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => {
            let by = PortHolder::of(Protocol::Tcp, address.port()).unwrap_or_else(PortHolder::unknown);
            ListenError::InUse { usage, address, by, flag }
        }
        _ => ListenError::Io { usage, address, source },
    })?;
    let bound = listener.local_addr().map_err(|source| ListenError::Io { usage, address, source })?;
    ports.keep(usage, asked.port(), bound.port())?;
    Ok((listener, bound))
}

/// `[::]` means all addresses, also where the host has no IPv6.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if address.is_ipv6() && address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}
