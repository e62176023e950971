//! A data directory is held by one process at a time.
//!
//! The lock is the kernel's (`flock`), so it is gone with its holder, however that ends. The file names the holder for
//! people.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use crate::Clock;

/// How often a wait looks again; short against what a start takes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The hold on a data directory, until dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Why a data directory could not be held.
#[derive(Debug, thiserror::Error)]
pub enum DirLockError {
    /// Another process holds it.
    #[error("{dir} is in use by process {holder}; stop it first, or give another --data-dir", dir = dir.display())]
    Held {
        /// The folder.
        dir: PathBuf,
        /// The holder's process id, or `unknown`.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {dir}", dir = dir.display())]
    Io {
        /// The folder.
        dir: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
}

impl DirLock {
    /// Holds `dir`, waiting up to `wait` for a predecessor that is stopping; `on_wait` hears at once who that is, where
    /// there is one. Blocks: call it before the runtime's work begins, or on a blocking thread.
    ///
    /// # Errors
    /// See [`DirLockError`].
    pub fn acquire(
        dir: &Path,
        wait: Duration,
        clock: &Clock,
        on_wait: impl FnOnce(&str),
    ) -> Result<Self, DirLockError> {
        let io = |source| DirLockError::Io { dir: dir.to_path_buf(), source };
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let deadline = clock.now() + wait;
        let mut on_wait = Some(on_wait);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if clock.now() < deadline => {
                    if let Some(on_wait) = on_wait.take() {
                        on_wait(&holder(&mut file));
                    }
                    std::thread::sleep(LOOK_AGAIN);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(DirLockError::Held { dir: dir.to_path_buf(), holder: holder(&mut file) });
                }
                Err(errno) => return Err(io(errno.into())),
            }
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        write!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.rewind().and_then(|()| file.take(20).read_to_string(&mut text)) {
        Ok(_) if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => text,
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_folder_is_refused_by_the_holders_number_and_free_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let first = DirLock::acquire(dir.path(), Duration::ZERO, &clock, |_| ()).unwrap();
        let refused = DirLock::acquire(dir.path(), Duration::ZERO, &clock, |_| ()).unwrap_err();
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        let mut told = None;
        let waited =
            DirLock::acquire(dir.path(), Duration::from_millis(1), &clock, |holder| told = Some(holder.to_owned()));
        waited.unwrap_err();
        assert_eq!(told, Some(std::process::id().to_string()));
        drop(first);
        DirLock::acquire(dir.path(), Duration::ZERO, &clock, |_| ()).unwrap();
    }
}
