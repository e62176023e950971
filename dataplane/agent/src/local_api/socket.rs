//! The socket's file: nobody can connect before its mode is right.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::unistd::{Group, chown};
use tokio::net::UnixListener;

/// Why there is no local socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// The file system.
    #[error("cannot listen on {path}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// `--socket-group`.
    #[error("there is no group {0}; make it by `groupadd --system {0}`, or leave --socket-group out")]
    NoGroup(String),
}

/// Binds `path`, mode 0600, or 0660 for a group; a file that an earlier run left is replaced.
pub(crate) fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener, SocketError> {
    let io = |source: io::Error| SocketError::Io { path: path.to_path_buf(), source };
    let group = match group {
        Some(name) => {
            let found = Group::from_name(name).map_err(|errno| io(errno.into()))?;
            Some(found.ok_or_else(|| SocketError::NoGroup(name.to_owned()))?)
        }
        None => None,
    };
    // Bound beside its place and renamed, so that it is never seen with another mode. The data directory is the agent's alone.
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&beside).map_err(io)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).map_err(io)?;
    if let Some(group) = group {
        chown(&beside, None, Some(group.gid)).map_err(|errno| io(errno.into()))?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o660)).map_err(io)?;
    }
    fs::rename(&beside, path).map_err(io)?;
    Ok(listener)
}
