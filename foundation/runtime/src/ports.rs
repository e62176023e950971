//! A port given as 0 is chosen once and kept, so that what was published of a host stays true after a restart.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{checked, durable};

/// The ports that were chosen in a data directory, by the name of their use; kept in `ports.json`.
#[derive(Debug)]
pub struct RememberedPorts {
    path: PathBuf,
    ports: BTreeMap<String, u16>,
}

/// Why the file of chosen ports cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// It cannot be read or written.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// It is no list of ports.
    #[error("{path} is damaged ({reason}); restore it from a backup, or remove it to have ports chosen anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl RememberedPorts {
    /// Reads the file of a data directory; one without a file has none.
    ///
    /// # Errors
    /// See [`PortsError`].
    pub fn load(dir: &Path) -> Result<Self, PortsError> {
        let path = dir.join("ports.json");
        let ports = match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|reason| PortsError::Damaged { path: path.clone(), reason })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(PortsError::Io { path, source }),
        };
        Ok(Self { path, ports })
    }

    /// The port to bind for a use: the one asked for, or for 0 the one chosen before, or else a free one outside of
    /// the range that the kernel gives to outgoing connections, so that none of these holds it after a restart.
    #[must_use]
    pub fn wanted(&self, usage: &str, asked: u16) -> u16 {
        if asked != 0 {
            return asked;
        }
        self.ports.get(usage).copied().unwrap_or_else(choose)
    }

    /// Keeps what the kernel chose where 0 was asked for.
    ///
    /// # Errors
    /// See [`PortsError`].
    pub fn keep(&mut self, usage: &str, asked: u16, bound: u16) -> Result<(), PortsError> {
        if asked != 0 || self.ports.get(usage) == Some(&bound) {
            return Ok(());
        }
        self.ports.insert(usage.to_owned(), bound);
        let bytes = checked::seal_json(json!({ "ports": self.ports }));
        durable::replace(&self.path, &bytes, 0o600).map_err(|source| PortsError::Io { path: self.path.clone(), source })
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, u16>, String> {
    let mut value = checked::open_json(bytes).map_err(|damage| damage.to_string())?;
    serde_json::from_value(value["ports"].take()).map_err(|error| error.to_string())
}

/// Where ports are chosen: below Linux's default `ip_local_port_range`, above what well-known services use.
const CHOSEN: std::ops::Range<u16> = 15_000..32_768;

/// How many ports are tried before the choice is left to the kernel.
const TRIES: usize = 32;

/// A port that is free now for TCP and UDP, or 0 where none of those tried is.
fn choose() -> u16 {
    let free = |port: u16| {
        std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            && std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
    };
    (0..TRIES).map(|_| rand::random_range(CHOSEN)).find(|&port| free(port)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_port_is_kept_and_an_asked_one_is_obeyed() {
        let dir = tempfile::tempdir().unwrap();
        let mut ports = RememberedPorts::load(dir.path()).unwrap();
        assert!(CHOSEN.contains(&ports.wanted("quic", 0)), "a first choice lies outside of the ephemeral range");
        ports.keep("quic", 0, 4711).unwrap();
        let again = RememberedPorts::load(dir.path()).unwrap();
        assert_eq!(again.wanted("quic", 0), 4711);
        assert_eq!(again.wanted("quic", 99), 99);
    }
}
