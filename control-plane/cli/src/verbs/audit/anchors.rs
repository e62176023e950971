//! Heads that were verified here before: what finds a log that was cut or rewritten by whoever has the signing key.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use foundation_runtime::durable;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The last verified head of each log, by the name of its key.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Anchors(BTreeMap<String, Kept>);

/// What is kept of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kept {
    /// The key that signed it then; another key later is a finding.
    pub(super) verifier_key: String,
    /// The head, as it was signed.
    pub(super) checkpoint: String,
}

impl Anchors {
    pub(super) fn load() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Self::default()) };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Failure::chain(format!("{} is damaged", path.display()), &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::chain(format!("cannot read {}", path.display()), &error)),
        }
    }

    pub(super) fn of(&self, key_name: &str) -> Option<&Kept> {
        self.0.get(key_name)
    }

    /// Keeps a verified head.
    pub(super) fn keep(&mut self, key_name: &str, kept: Kept) -> Result<(), Failure> {
        let Some(path) = path() else { return Ok(()) };
        self.0.insert(key_name.to_owned(), kept);
        let fail = |error: io::Error| Failure::chain(format!("cannot write {}", path.display()), &error);
        if let Some(folder) = path.parent() {
            durable::create_dir(folder, 0o700).map_err(fail)?;
        }
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Failure::chain("cannot write anchors", &error))?;
        durable::replace(&path, &bytes, 0o600).map_err(fail)
    }
}

fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    Some(folder.join("dwcp").join("audit-anchors.json"))
}
