//! [`TransferPathInfo`].

use std::{fmt, net::SocketAddr};

use proto_rpc::v1 as rpc;

use crate::{InvalidField, invalid_field::at, transfer_error::bounded_text};

/// What carries a transfer.
#[derive(Clone, Debug, PartialEq)]
pub struct TransferPathInfo {
    /// QUIC connections in use.
    pub lanes: u32,
    /// Streams held ready.
    pub streams: u32,
    /// What governs the rate; not always what was configured.
    pub congestion_algorithm: String,
    /// Which way.
    pub path: PathKind,
    /// The peer's address, where it is known.
    pub remote_address: Option<SocketAddr>,
    /// The round-trip time in milliseconds.
    pub rtt_ms: f64,
}

/// Which way a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathKind {
    /// From host to host.
    Direct,
    /// By a relay.
    Relayed,
}

impl PathKind {
    /// The name that the API uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl TryFrom<rpc::TransferPath> for TransferPathInfo {
    type Error = InvalidField;

    fn try_from(path: rpc::TransferPath) -> Result<Self, Self::Error> {
        let kind = match path.path.as_str() {
            "direct" => PathKind::Direct,
            "relayed" => PathKind::Relayed,
            _ => return Err(InvalidField::new("path", "is neither direct nor relayed")),
        };
        let remote = Some(path.remote_address).filter(|address| !address.is_empty());
        Ok(Self {
            lanes: path.lanes,
            streams: path.streams,
            congestion_algorithm: bounded_text(&path.congestion_algorithm),
            path: kind,
            remote_address: remote.map(|address| address.parse()).transpose().map_err(at("remote_address"))?,
            rtt_ms: if path.rtt_ms.is_finite() { path.rtt_ms } else { 0.0 },
        })
    }
}

impl From<TransferPathInfo> for rpc::TransferPath {
    fn from(path: TransferPathInfo) -> Self {
        Self {
            lanes: path.lanes,
            streams: path.streams,
            congestion_algorithm: path.congestion_algorithm,
            path: path.path.as_str().to_owned(),
            remote_address: path.remote_address.map(|address| address.to_string()).unwrap_or_default(),
            rtt_ms: path.rtt_ms,
        }
    }
}
