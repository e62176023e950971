//! A unix socket for callers on this host: in place of one that a killed predecessor left, open to whom it should be from its
//! first moment on, made again where somebody removed its file, and gone with its owner.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::net::{UnixListener, UnixStream};

/// Callers that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// How often it is looked whether the file is still there.
const LOOK: Duration = Duration::from_secs(2);

/// Who may connect, beside root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketAccess {
    /// The user of this process.
    Owner,
    /// That user, and the members of the group with this number.
    Group(u32),
}

/// A listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    access: SocketAccess,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl LocalSocket {
    /// Listens. The folder must be held by this process: what is there is replaced.
    ///
    /// # Errors
    /// What the file system answers; `NotFound` never means the socket.
    pub fn bind(path: &Path, access: SocketAccess) -> io::Result<Self> {
        let (listener, file) = make(path, access)?;
        Ok(Self { listener, path: path.to_path_buf(), access, file })
    }

    /// The next caller. Meanwhile the socket's file is made again where somebody removed or replaced it. Cancel safe.
    ///
    /// # Errors
    /// What the system answers; the next caller may be served all the same.
    pub async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return accepted.map(|(stream, _)| stream),
                () = tokio::time::sleep(LOOK) => self.look_after(),
            }
        }
    }

    fn look_after(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            return;
        }
        match make(&self.path, self.access) {
            Ok((listener, file)) => {
                tracing::warn!(path = %self.path.display(), "The socket's file was removed by somebody, and is made again");
                (self.listener, self.file) = (listener, file);
            }
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "The socket's file is gone and cannot be made again");
            }
        }
    }
}

fn make(path: &Path, access: SocketAccess) -> io::Result<(UnixListener, (u64, u64))> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _gone => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the mode of the unbound socket, so that there is no moment in which others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let made = || {
        if let SocketAccess::Group(gid) = access {
            chown(path, None, Some(gid))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        }
        listen(&socket, BACKLOG)?;
        identity(path)
    };
    let file = made().inspect_err(|_unusable| drop(fs::remove_file(path)))?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.dev(), data.ino()))
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "The socket's file cannot be removed");
            }
            _gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as Caller;

    use super::*;

    #[tokio::test]
    async fn is_its_owners_from_the_start_replaces_a_leftover_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let mut socket = LocalSocket::bind(&path, SocketAccess::Owner).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let _caller = Caller::connect(&path).unwrap();
        socket.accept().await.unwrap();
        drop(socket);
        assert!(!path.exists());
        let group = rustix::process::getegid().as_raw();
        let _socket = LocalSocket::bind(&path, SocketAccess::Group(group)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn a_file_that_somebody_removes_or_replaces_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let group = rustix::process::getegid().as_raw();
        let mut socket = LocalSocket::bind(&path, SocketAccess::Group(group)).unwrap();
        for replaced in [false, true] {
            fs::remove_file(&path).unwrap();
            if replaced {
                fs::write(&path, "in the way").unwrap();
            }
            let called = async {
                loop {
                    match Caller::connect(&path) {
                        Ok(caller) => break caller,
                        Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            };
            let both = async { tokio::join!(called, socket.accept()) };
            let (_caller, accepted) = tokio::time::timeout(10 * LOOK, both).await.unwrap();
            accepted.unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        }
    }
}
