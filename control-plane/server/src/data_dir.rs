//! The data directory: made, held by one process, open only as far as the private PostgreSQL needs.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use foundation_runtime::{Cancelled, Clock, DirLock, DirLockError, TaskGroup, durable, service_manager};
use nix::unistd::{Uid, User};

use crate::{backup::unfinished, ready};

/// How long a predecessor that is stopping may take (D29).
const PREDECESSOR: Duration = Duration::from_secs(30);

/// How long one that still serves gets to begin to stop: both may have been told at the same moment.
const SERVING_PREDECESSOR: Duration = Duration::from_secs(2);

/// The data directory, held until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: DirLock,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made or written.
    #[error("cannot use the data directory {path}", path = path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// Others may write there.
    #[error("others can write to the data directory {path}, and put keys of their own there: chmod go-w {path}", path = .0.display())]
    OpenToOthers(PathBuf),
    /// Another process holds it.
    #[error(transparent)]
    Lock(#[from] DirLockError),
    /// A restore into it did not come to its end.
    #[error(
        "a restore into {path} did not come to its end, and nothing in it is complete: run the same `dwcp-control-plane restore` again",
        path = path.display()
    )]
    UnfinishedRestore {
        /// The folder.
        path: PathBuf,
    },
    /// Root would leave files there that its owner cannot read.
    #[error(
        "the control plane in {path} is the user {owner}'s, and root must not run it: systemctl start dwcp-control-plane, or runuser -u \
         {owner} -- dwcp-control-plane run …", path = path.display())]
    OfOther {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// The start was broken off.
    #[error("the start was broken off")]
    Cancelled(#[from] Cancelled),
}

/// Refuses to run as root what belongs to another user's server.
fn check_owner(path: &Path) -> Result<(), DataDirError> {
    match path.join("seal.key").metadata() {
        Ok(key) if key.uid() != 0 && Uid::effective().is_root() => {
            let user = User::from_uid(Uid::from_raw(key.uid())).ok().flatten();
            let owner = user.map_or_else(|| key.uid().to_string(), |user| user.name);
            Err(DataDirError::OfOther { path: path.to_path_buf(), owner })
        }
        _fine => Ok(()),
    }
}

impl DataDir {
    /// Makes the folder where it is missing, and holds it.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub(crate) async fn open(path: &Path, clock: &Clock, tasks: &TaskGroup) -> Result<Self, DataDirError> {
        let (asked, clock) = (path.to_path_buf(), clock.clone());
        tasks.blocking("open-data-dir", move || Self::open_here(&asked, &clock)).await?
    }

    fn open_here(asked: &Path, clock: &Clock) -> Result<Self, DataDirError> {
        let io = |source| DataDirError::Io { path: asked.to_path_buf(), source };
        // Others may pass through, to the cluster of their own, and see nothing: what is secret is 0600.
        durable::create_dir(asked, 0o711).map_err(io)?;
        let path = asked.canonicalize().map_err(io)?;
        if durable::is_open_to_others(&path).map_err(io)? {
            return Err(DataDirError::OpenToOthers(path));
        }
        check_owner(&path)?;
        let serving = path.join("ready.json").exists();
        let wait = if serving { SERVING_PREDECESSOR } else { PREDECESSOR };
        let on_wait = |holder: &str| {
            let dir = path.display();
            let seconds = wait.as_secs();
            tracing::info!(component = "server", %dir, holder, seconds, "Waiting for the process that has the data directory to stop");
            service_manager::status("Waiting for a predecessor to stop");
        };
        let lock = match DirLock::acquire(&path, wait, clock, on_wait) {
            // It began to stop in the meantime.
            Err(DirLockError::Held { .. }) if serving && !path.join("ready.json").exists() => {
                DirLock::acquire(&path, PREDECESSOR, clock, |_| ())?
            }
            acquired => acquired?,
        };
        if unfinished::is_marked(&path) {
            return Err(DataDirError::UnfinishedRestore { path });
        }
        ready::clear(&path).map_err(io)?;
        durable::sweep(&path).map_err(io)?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}
