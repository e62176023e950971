//! The node's place in the fleet, as the control plane gave it: `DIR/node.json`. Its presence is what "joined" means.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dataplane_identity::CaFingerprint;
use foundation_runtime::{checked, durable};
use proto_model::{FleetId, NodeName, NodeUid};
use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

/// The file's name in the data directory.
pub const FILE: &str = "node.json";

/// The node's place in the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The node's name.
    pub name: NodeName,
    /// The node's uid.
    pub uid: NodeUid,
    /// The fleet.
    pub fleet: FleetId,
    /// Of the CA that was pinned.
    pub ca_fingerprint: CaFingerprint,
    /// Where the control plane is, the one that answered last first.
    pub endpoints: Vec<Endpoint>,
}

/// The form on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Form {
    name: String,
    uid: String,
    fleet_id: String,
    ca_fingerprint: String,
    endpoints: Vec<String>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// It cannot be read or written.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("{path} is damaged ({reason}); restore it from a backup, or remove it and join anew with a token made for this node", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Enrolment {
    /// Reads it; `None` where the host has not joined.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn load(dir: &Path) -> Result<Option<Self>, EnrolmentError> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EnrolmentError::Io { path, source }),
        };
        parse(&bytes).map(Some).map_err(|reason| EnrolmentError::Damaged { path, reason })
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, dir: &Path) -> Result<(), EnrolmentError> {
        let form = Form {
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            fleet_id: self.fleet.to_string(),
            ca_fingerprint: self.ca_fingerprint.to_string(),
            endpoints: self.endpoints.iter().map(ToString::to_string).collect(),
        };
        let path = dir.join(FILE);
        let bytes = checked::seal_json(serde_json::to_value(&form).expect("strings always make JSON"));
        durable::replace(&path, &bytes, 0o600).map_err(|source| EnrolmentError::Io { path, source })
    }
}

fn parse(bytes: &[u8]) -> Result<Enrolment, String> {
    fn text<E: std::fmt::Display>(error: E) -> String {
        error.to_string()
    }
    let form: Form = serde_json::from_value(checked::open_json(bytes).map_err(text)?).map_err(text)?;
    Ok(Enrolment {
        name: form.name.parse().map_err(text)?,
        uid: form.uid.parse().map_err(text)?,
        fleet: form.fleet_id.parse().map_err(text)?,
        ca_fingerprint: form.ca_fingerprint.parse().map_err(text)?,
        endpoints: form.endpoints.iter().map(|endpoint| endpoint.parse()).collect::<Result<_, _>>().map_err(text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded_and_damage_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Enrolment::load(dir.path()).unwrap(), None);
        let enrolment = Enrolment {
            name: "edge-a".parse().unwrap(),
            uid: "0192f8a0-0000-7000-8000-000000000001".parse().unwrap(),
            fleet: "0192f8a0-0000-7000-8000-00000000000f".parse().unwrap(),
            ca_fingerprint: CaFingerprint::of(b"certificate"),
            endpoints: vec!["ctl.example:7442".parse().unwrap()],
        };
        enrolment.store(dir.path()).unwrap();
        assert_eq!(Enrolment::load(dir.path()).unwrap(), Some(enrolment));
        fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(Enrolment::load(dir.path()).unwrap_err().to_string().contains("damaged"));
    }
}
