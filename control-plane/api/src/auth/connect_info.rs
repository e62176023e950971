//! What the acceptor knows of a connection.

use std::{fmt, net::SocketAddr, sync::Arc};

use foundation_listener::Admission;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::error::{self, Reason};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// Over the network; an IPv4 address is one, also where the listener is dual-stack.
    Tcp(SocketAddr),
    /// Through `admin.sock`.
    Unix,
}

/// What the acceptor knows of a connection; tonic's `Connected` hands it to every request's extensions.
#[derive(Clone, Debug)]
pub struct ConnectInfo {
    /// Where it comes from.
    pub remote: Remote,
    /// The client's certificate, DER, which TLS has checked against the fleet's CA.
    pub peer_certificate: Option<Arc<[u8]>>,
    /// The user at the other end of a unix socket.
    pub peer_uid: Option<u32>,
    /// Cancelling it ends the connection.
    pub cut: CancellationToken,
    /// Told when the other end has shown a credential; none where places are not counted.
    pub admission: Option<Admission>,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The connection that a request came over.
///
/// # Errors
/// The server's acceptor did not say.
pub fn connect_info<T>(request: &Request<T>) -> Result<&ConnectInfo, Status> {
    request
        .extensions()
        .get::<ConnectInfo>()
        .ok_or_else(|| error::unauthenticated(Reason::CredentialsMissing, "nothing is known of this connection"))
}
