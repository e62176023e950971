//! A unix socket for callers on this host: in place of one that a killed predecessor left, open to whom it should be from its
//! first moment on, and gone with its owner.

use std::{
    fs, io,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};

/// Callers that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// Who may connect, beside root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketAccess {
    /// The user of this process.
    Owner,
    /// That user, and the members of the group with this number.
    Group(u32),
}

/// The socket's file, removed when dropped.
#[derive(Debug)]
pub struct LocalSocket(PathBuf);

impl LocalSocket {
    /// Listens, without blocking. The folder must be held by this process: what is there is replaced.
    ///
    /// # Errors
    /// What the file system answers; `NotFound` never means the socket.
    pub fn bind(path: &Path, access: SocketAccess) -> io::Result<(UnixListener, Self)> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _gone => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Linux gives the file the mode of the unbound socket, so that there is no moment in which others could connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = Self(path.to_path_buf());
        if let SocketAccess::Group(gid) = access {
            chown(path, None, Some(gid))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        }
        listen(&socket, BACKLOG)?;
        Ok((UnixListener::from(socket), file))
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.0.display(), "The socket's file cannot be removed");
            }
            _gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn is_its_owners_from_the_start_replaces_a_leftover_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = LocalSocket::bind(&path, SocketAccess::Owner).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        drop(file);
        assert!(!path.exists());
        let group = rustix::process::getegid().as_raw();
        let (_listener, _file) = LocalSocket::bind(&path, SocketAccess::Group(group)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    }
}
