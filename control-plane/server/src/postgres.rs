//! The server's own PostgreSQL: a private cluster in its data directory, on a unix socket, run by an unprivileged user.
//!
//! One thread of its own makes the cluster, starts `postgres`, watches it, starts it again when it died, and stops it at the end. The thread
//! lives as long as the cluster is to run, since the kernel's parent-death signal follows the *thread* that started a child: with it, `postgres`
//! stops cleanly when this process is killed. What was left running all the same is found and stopped at the next start.
//!
//! No password and no TCP: the socket lies in a folder that only the cluster's user (and root) can open, and the peer's user is checked.
//! Nothing here turns durability off.

mod account;
mod binaries;
mod cluster;
mod leftovers;
mod supervisor;

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, TrySendError},
    thread,
};

use foundation_runtime::Clock;
use tokio::sync::{oneshot, watch};

/// The cluster's superuser, and the role that the server connects as.
pub const ROLE: &str = "dwcp";

/// The database that the server uses.
pub const DATABASE: &str = "postgres";

/// Where the cluster lies and whose programs run it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's data directory; the cluster lies in `postgres` below it.
    pub data_dir: PathBuf,
    /// The folder of `postgres` and `initdb`, where not to be searched for.
    pub binaries: Option<PathBuf>,
}

/// How the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being made, or started.
    Starting,
    /// It answers.
    Ready {
        /// The postmaster's process id.
        pid: u32,
    },
    /// It died, and is started again after a while.
    Down {
        /// Why, from its log.
        reason: String,
    },
    /// It was stopped.
    Stopped,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// PostgreSQL is not installed.
    #[error(
        "no PostgreSQL server was found (looked on PATH and in /usr/lib/postgresql); install one (apt-get install postgresql), name its \
         folder with --postgres-bin, or use another server with --database-url"
    )]
    NoBinaries,
    /// The folder given has no PostgreSQL.
    #[error("{folder} has no `postgres` and `initdb`", folder = folder.display())]
    NotBinaries {
        /// The folder.
        folder: PathBuf,
    },
    /// The cluster needs another major version.
    #[error("the cluster in {data} was made by PostgreSQL {wanted}, which was not found; install postgresql-{wanted}, or name its folder with \
             --postgres-bin", data = data.display())]
    OtherMajor {
        /// The cluster.
        data: PathBuf,
        /// Its version.
        wanted: u32,
    },
    /// PostgreSQL is too old.
    #[error("PostgreSQL {found} is too old: 13 or newer is needed")]
    TooOld {
        /// Its version.
        found: u32,
    },
    /// The program that gives up rights is missing.
    #[error("`setpriv` was not found; install util-linux")]
    NoSetpriv,
    /// There is nobody to run it as.
    #[error("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody` to run it as")]
    NoAccount,
    /// The present user is unknown to the system.
    #[error("user id {uid} has no name in /etc/passwd, which PostgreSQL needs")]
    NoName {
        /// The user.
        uid: u32,
    },
    /// The cluster belongs to somebody else.
    #[error("{data} belongs to user id {owner}: start the server as that user, or as root", data = data.display())]
    OwnedByOther {
        /// The cluster.
        data: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The folder cannot be reached by the user who runs PostgreSQL.
    #[error("user {user}, who runs PostgreSQL, cannot pass through {folder}: chmod o+x it, or choose a --data-dir elsewhere (/var/lib/…)", folder = folder.display())]
    Unreachable {
        /// The folder.
        folder: PathBuf,
        /// The user.
        user: String,
    },
    /// The socket's path does not fit the kernel's limit.
    #[error("{path} has {length} bytes, and a unix socket's path may have {MAX_SOCKET_PATH}: choose a shorter --data-dir", path = path.display(), length = path.as_os_str().len())]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// A file or a program could not be used.
    #[error("cannot {doing} {path}", path = path.display())]
    Io {
        /// What was done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    Initdb {
        /// What it said.
        output: String,
    },
    /// `postgres` ended instead of serving.
    #[error("PostgreSQL did not start: {log} (see {path})", path = path.display())]
    Ended {
        /// The line of its log that says why.
        log: String,
        /// The log.
        path: PathBuf,
    },
    /// It was told to stop before it was ready.
    #[error("PostgreSQL was stopped before it was ready")]
    Stopped,
}

/// The longest path that `bind` takes for a unix socket (108 with the closing zero byte).
pub const MAX_SOCKET_PATH: usize = 107;

/// A running cluster, and the hold on its thread.
#[derive(Debug)]
pub struct Postgres {
    socket_folder: PathBuf,
    major: u32,
    state: watch::Receiver<State>,
    stop: SyncSender<()>,
    ended: oneshot::Receiver<()>,
}

/// What the thread says of a cluster that answers for the first time.
#[derive(Debug)]
struct Started {
    socket_folder: PathBuf,
    major: u32,
}

impl Postgres {
    /// Makes the cluster where there is none, starts it, and waits until it answers.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(options: Options, clock: Clock) -> Result<Self, StartError> {
        let (stop, stopping) = std::sync::mpsc::sync_channel(1);
        let (started, first) = oneshot::channel();
        let (over, ended) = oneshot::channel::<()>();
        let (publish, state) = watch::channel(State::Starting);
        let path = options.data_dir.clone();
        thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || {
                supervisor::run(&options, &clock, &stopping, &publish, started);
                // Closes the channel: that is the answer.
                drop(over);
            })
            .map_err(|source| StartError::Io { doing: "start a thread for", path, source })?;
        let Started { socket_folder, major } = first.await.unwrap_or(Err(StartError::Stopped))?;
        Ok(Self { socket_folder, major, state, stop, ended })
    }

    /// The folder of the socket.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        &self.socket_folder
    }

    /// PostgreSQL's major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// How the cluster is, from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What a client needs to connect, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(&self.socket_folder)
    }

    /// Stops it (PostgreSQL's fast shutdown) and waits until it has ended.
    pub async fn stop(self) {
        match self.stop.try_send(()) {
            // Already asked, or already over.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
        // The thread closes its end when it is over, also by a panic.
        let _closed: Result<(), oneshot::error::RecvError> = self.ended.await;
    }
}

/// What a client needs to connect to the cluster of a data directory, whoever runs it.
#[must_use]
pub fn url(data_dir: &Path) -> String {
    url_of(&data_dir.join(FOLDER))
}

/// Whether there is a cluster in a data directory.
#[must_use]
pub fn exists(data_dir: &Path) -> bool {
    data_dir.join(FOLDER).join("data").join("PG_VERSION").exists()
}

/// Stops what a cluster left running that is about to be removed.
///
/// # Errors
/// It does not stop.
pub fn clear_leftovers(data_dir: &Path, clock: &Clock) -> Result<(), StartError> {
    leftovers::clear(&data_dir.join(FOLDER), clock)
}

/// The cluster's folder in a data directory.
const FOLDER: &str = "postgres";

fn url_of(socket_folder: &Path) -> String {
    format!("postgres://{ROLE}@{}/{DATABASE}", percent_encode(socket_folder))
}

/// A path as the host of a URL.
fn percent_encode(path: &Path) -> String {
    use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _};
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(byte) {
            text.push(char::from(*byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    text
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError + use<> {
    let path = path.to_path_buf();
    move |source| StartError::Io { doing, path, source }
}

#[cfg(test)]
mod tests;
