//! Binding: `[::]` is all addresses, a port of 0 is remembered, and a port that is taken names its holder.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use foundation_runtime::{PortHolder, PortsError, Protocol, RememberedPorts};
use tokio::net::{TcpListener, TcpSocket};

/// How many connections the kernel holds that were not accepted yet; it bounds this itself by `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has the port.
    #[error("cannot listen on {address} ({usage}): the port is taken by {holder}; stop it, or give another {flag}")]
    Taken {
        /// Where.
        address: SocketAddr,
        /// What for.
        usage: &'static str,
        /// Who has it.
        holder: PortHolder,
        /// The option that names another one.
        flag: &'static str,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address} ({usage})")]
    Io {
        /// Where.
        address: SocketAddr,
        /// What for.
        usage: &'static str,
        /// What the system answered.
        source: io::Error,
    },
    /// The chosen ports cannot be kept.
    #[error(transparent)]
    Ports(#[from] PortsError),
}

/// Listens on TCP; a port of 0 is the one chosen before, or is chosen now and kept.
///
/// # Errors
/// See [`ListenError`].
pub fn tcp(ports: &mut RememberedPorts, usage: &'static str, asked: SocketAddr) -> Result<TcpListener, ListenError> {
    let address = SocketAddr::new(asked.ip(), ports.wanted(usage, asked.port()));
    let listener = bind(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = PortHolder::of(Protocol::Tcp, address.port()).unwrap_or_else(PortHolder::unknown);
            ListenError::Taken { address, usage, holder, flag: flag(usage) }
        }
        _ => ListenError::Io { address, usage, source },
    })?;
    let bound = listener.local_addr().map_err(|source| ListenError::Io { address, usage, source })?;
    ports.keep(usage, asked.port(), bound.port())?;
    Ok(listener)
}

/// The option of each port.
fn flag(usage: &str) -> &'static str {
    match usage {
        "http" => "--http-listen",
        "metrics" => "--metrics-listen",
        _ => "--listen",
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match address.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => match dual_stack(address) {
            // No IPv6 on this host: all addresses are the IPv4 ones.
            Err(error) if no_ipv6(&error) => {
                plain(TcpSocket::new_v4()?, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
            }
            bound => bound,
        },
        IpAddr::V6(_) => plain(TcpSocket::new_v6()?, address),
        IpAddr::V4(_) => plain(TcpSocket::new_v4()?, address),
    }
}

fn dual_stack(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    plain(socket, address)
}

fn plain(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// An address that a program on this machine can connect to: all addresses become the loopback one.
#[must_use]
pub fn reachable_here(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()) } else { address }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families_and_a_taken_port_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = RememberedPorts::load(dir.path()).unwrap();
        let all = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let listener = tcp(&mut ports, "grpc", all).unwrap();
        let here = reachable_here(listener.local_addr().unwrap());
        assert!(here.is_ipv4());
        tokio::net::TcpStream::connect(here).await.unwrap();

        let error = tcp(&mut ports, "http", here).unwrap_err().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        assert!(error.ends_with("give another --http-listen"), "{error}");

        // The port of the first stays its own, also after a restart.
        assert_eq!(RememberedPorts::load(dir.path()).unwrap().wanted("grpc", 0), here.port());
    }
}
