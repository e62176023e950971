//! The data directory: where it is by default, and that it is the agent's alone.

use std::{
    env, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use foundation_runtime::durable;
use nix::unistd::{Gid, Uid, User, geteuid, setgid, setgroups, setuid};

/// Where root's agent keeps its state.
const SYSTEM: &str = "/var/lib/dwcp-agent";

/// What only the owner of a data directory made.
const KEY: &str = "ed25519_private.key";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system refuses.
    #[error("cannot use the data directory {dir}; give another one with --data-dir", dir = .dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may write there.
    #[error("others can write to the data directory {dir}, and put keys of their own there: chmod go-w {dir}", dir = .0.display())]
    OpenToOthers(PathBuf),
    /// Root would leave files there that its owner cannot read.
    #[error("the agent in {dir} is the user {owner}'s, and root must not run it: systemctl start dwcp-agent, or runuser -u {owner} -- dwcp-agent run …", dir = .dir.display())]
    OfOther {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        owner: String,
    },
}

/// Refuses to run as root what belongs to another user's agent.
///
/// # Errors
/// It does.
pub(crate) fn check_owner(dir: &Path) -> Result<(), DataDirError> {
    match dir.join(KEY).metadata() {
        Ok(key) if key.uid() != 0 && geteuid().is_root() => {
            Err(DataDirError::OfOther { dir: dir.to_path_buf(), owner: name_of(key.uid()) })
        }
        _fine => Ok(()),
    }
}

/// Where root acts in a directory of another user, this process becomes that user: what it writes is for that user's agent.
///
/// # Errors
/// The system refuses.
pub(crate) fn become_owner(dir: &Path) -> io::Result<()> {
    let Ok(data) = dir.metadata() else { return Ok(()) };
    if data.uid() == 0 || !geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(data.uid()), Gid::from_raw(data.gid()));
    setgroups(&[gid])?;
    setgid(gid)?;
    setuid(uid)?;
    Ok(())
}

fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// The default (D30): below the XDG state folder for anybody but root.
pub(crate) fn default_dir() -> PathBuf {
    if geteuid().is_root() {
        return PathBuf::from(SYSTEM);
    }
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")));
    state.map_or_else(|| PathBuf::from(SYSTEM), |state| state.join("dwcp-agent"))
}

/// The directory given, or the default one; made where it is missing.
///
/// # Errors
/// It cannot be made or used.
pub(crate) fn prepare(given: Option<PathBuf>) -> Result<PathBuf, DataDirError> {
    let dir = given.unwrap_or_else(default_dir);
    let made = durable::create_dir(&dir, 0o700).and_then(|()| dir.canonicalize());
    let dir = made.map_err(|source| DataDirError::Io { dir, source })?;
    match durable::is_open_to_others(&dir) {
        Ok(false) => Ok(dir),
        Ok(true) => Err(DataDirError::OpenToOthers(dir)),
        Err(source) => Err(DataDirError::Io { dir, source }),
    }
}
