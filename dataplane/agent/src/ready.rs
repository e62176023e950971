//! `DIR/ready.json`: what a script reads to learn where a running agent serves.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use foundation_runtime::durable;
use serde::Serialize;

/// The file's name in the data directory.
pub(crate) const FILE: &str = "ready.json";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Ready {
    /// SHA-1 of the public key, in hexadecimal.
    pub(crate) node_id: String,
    /// The node's name; empty before it joined.
    pub(crate) name: String,
    /// Where QUIC listens.
    pub(crate) quic: Option<SocketAddr>,
    /// Where the DHT node is; `null` where there is none.
    pub(crate) dht: Option<SocketAddr>,
    /// Where HTTP serves.
    pub(crate) http: SocketAddr,
    /// Where metrics are served.
    pub(crate) metrics: SocketAddr,
    /// The process.
    pub(crate) pid: u32,
}

/// The file, removed when dropped.
#[derive(Debug)]
pub(crate) struct ReadyFile(PathBuf);

impl ReadyFile {
    /// Removes what a predecessor left: until all serves, there is none.
    pub(crate) fn begin(dir: &Path) -> io::Result<Self> {
        let file = Self(dir.join(FILE));
        durable::remove(&file.0)?;
        Ok(file)
    }

    /// Says that all serves, by rename.
    pub(crate) fn write(&self, ready: &Ready) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(ready).map_err(io::Error::other)?;
        bytes.push(b'\n');
        durable::replace(&self.0, &bytes, 0o644)
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = durable::remove(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "Cannot remove ready.json");
        }
    }
}
