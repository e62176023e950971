//! Folders and ends of transfers on disk: `DIR/transfers/ID/` while one goes on, `DIR/transfers/ended/ID` afterwards.
//!
//! An end is kept as long as its grant could be presented again, so that a finished transfer is refused (D16).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use foundation_runtime::durable;
use proto_model::{Digest, TransferId, TransferRole, TransferState};
use serde::{Deserialize, Serialize};

use crate::confine::{Folder, Space};

/// How long the end of a direct send is kept: as long as a grant lasts by default.
const DIRECT_DAYS: i64 = 7;

/// The folder of all transfers of a host.
#[derive(Clone, Debug)]
pub(crate) struct TransferFolder(PathBuf);

/// An end, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) state: String,
    pub(crate) tree_digest: Option<String>,
    pub(crate) keep_until_ms: i64,
}

impl End {
    pub(crate) fn new(
        state: TransferState,
        tree_digest: Option<Digest>,
        not_after: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Self {
        let until = not_after.unwrap_or(now + TimeDelta::days(DIRECT_DAYS)) + TimeDelta::hours(1);
        Self {
            state: state.as_str().to_owned(),
            tree_digest: tree_digest.map(String::from),
            keep_until_ms: until.timestamp_millis(),
        }
    }
}

fn role_name(role: TransferRole) -> &'static str {
    match role {
        TransferRole::Sender => "sender",
        TransferRole::Receiver => "receiver",
    }
}

impl TransferFolder {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        durable::create_dir(&path, 0o700)?;
        durable::create_dir(&path.join("ended"), 0o700)?;
        durable::sweep(&path.join("ended"))?;
        let folder = Self(path);
        folder.tidy()?;
        Ok(folder)
    }

    /// Removes what a crash kept from being removed: folders of transfers that have ended, and those in which nothing was begun.
    fn tidy(&self) -> io::Result<()> {
        for role in [TransferRole::Sender, TransferRole::Receiver] {
            for (id, path) in self.unfinished(role)? {
                if !self.end_path(id, role).exists() {
                    // Only one that is empty goes.
                    drop(fs::remove_dir(&path));
                } else if let Err(error) = remove_folder(&path) {
                    tracing::warn!(transfer = %id, %error, "what is left of a transfer that has ended cannot be removed");
                }
            }
        }
        Ok(())
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The room on its file system.
    pub(crate) fn space(&self) -> io::Result<Space> {
        Folder::root(&self.0, None)?.space()
    }

    /// The folder of one end of a transfer; a transfer from a host to itself has two.
    pub(crate) fn of(&self, id: TransferId, role: TransferRole) -> PathBuf {
        self.0.join(format!("{id}.{}", role_name(role)))
    }

    /// The same, made where it is missing.
    pub(crate) fn make(&self, id: TransferId, role: TransferRole) -> io::Result<PathBuf> {
        let path = self.of(id, role);
        durable::create_dir(&path, 0o700)?;
        durable::sync_folder(&self.0)?;
        Ok(path)
    }

    /// Transfers that have a folder.
    pub(crate) fn unfinished(&self, role: TransferRole) -> io::Result<Vec<(TransferId, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_suffix(role_name(role)))
                .and_then(|name| name.strip_suffix('.'));
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                found.push((id, entry.path()));
            }
        }
        Ok(found)
    }

    fn end_path(&self, id: TransferId, role: TransferRole) -> PathBuf {
        self.0.join("ended").join(format!("{id}.{}", role_name(role)))
    }

    /// How the transfer ended here, if it did.
    pub(crate) fn end(&self, id: TransferId, role: TransferRole) -> io::Result<Option<End>> {
        match fs::read(self.end_path(id, role)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(io::Error::from)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the end, then removes the folder.
    pub(crate) fn finish(&self, id: TransferId, role: TransferRole, end: &End) -> io::Result<()> {
        durable::replace(&self.end_path(id, role), &serde_json::to_vec(end).map_err(io::Error::from)?, 0o600)?;
        remove_folder(&self.of(id, role))
    }

    /// Forgets ends whose grants are over.
    pub(crate) fn forget(&self, now: DateTime<Utc>) -> io::Result<()> {
        for entry in fs::read_dir(self.0.join("ended"))? {
            let path = entry?.path();
            let end = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<End>(&bytes).ok());
            if end.is_some_and(|end| end.keep_until_ms < now.timestamp_millis()) {
                durable::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Reads any bytes as an end.
pub(crate) fn read_any(bytes: &[u8]) {
    drop(serde_json::from_slice::<End>(bytes));
}

/// Removes a folder of a transfer; one that is not there is fine.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
