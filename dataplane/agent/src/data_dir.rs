//! The data directory: where it is by default, and that it is the agent's alone.

use std::{
    env, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use foundation_runtime::durable;

/// Where root's agent keeps its state.
const SYSTEM: &str = "/var/lib/dwcp-agent";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the data directory {dir}; give another one with --data-dir", dir = dir.display())]
pub struct DataDirError {
    dir: PathBuf,
    source: io::Error,
}

/// The default (D30): below the XDG state folder for anybody but root.
pub(crate) fn default_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
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
    let dir = made.map_err(|source| DataDirError { dir, source })?;
    match dir.metadata() {
        Ok(data) if data.permissions().mode() & 0o022 != 0 => {
            tracing::warn!(dir = %dir.display(), "Others can write to the data directory; chmod go-w it");
        }
        _fine => {}
    }
    Ok(dir)
}
