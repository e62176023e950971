//! `DIR/ready.json`: where a serving process can be reached; there while it serves, and only then.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use foundation_runtime::durable;
use serde::Serialize;

/// The addresses of a serving process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ready {
    /// gRPC, for a program on this machine.
    pub(crate) grpc: SocketAddr,
    /// HTTP.
    pub(crate) http: SocketAddr,
    /// Metrics.
    pub(crate) metrics: SocketAddr,
    /// The DHT; nothing where it is switched off.
    pub(crate) dht: Option<SocketAddr>,
    /// The process.
    pub(crate) pid: u32,
}

/// The file, until dropped.
#[derive(Debug)]
pub(crate) struct ReadyFile(PathBuf);

impl Ready {
    /// Writes the file, by rename.
    ///
    /// # Errors
    /// What the file system answers.
    pub(crate) fn announce(&self, dir: &Path) -> io::Result<ReadyFile> {
        let path = dir.join("ready.json");
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        durable::replace(&path, &bytes, 0o644)?;
        Ok(ReadyFile(path))
    }
}

/// Removes the file that a killed predecessor left.
///
/// # Errors
/// What the file system answers.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    durable::remove(&dir.join("ready.json"))
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = durable::remove(&self.0) {
            tracing::warn!(component = "server", %error, path = %self.0.display(), "The file cannot be removed");
        }
    }
}
