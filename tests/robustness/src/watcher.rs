//! Reads what stands under final names, all along.

use std::{
    collections::HashMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{files::file_is_whole, history::History};

const PAUSE: Duration = Duration::from_millis(15);

/// What tells one version of a file from another.
type Version = (u64, u64, i64, i64);

/// Reads the folders until it is dropped; a file that is not whole is a violation.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watcher {
    /// Begins to read.
    #[must_use]
    pub fn start(folders: Vec<PathBuf>, history: Arc<History>) -> Self {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let looking = Looking { history, read: Arc::clone(&read), seen: HashMap::new() };
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut looking = looking;
            while !until.load(Relaxed) {
                folders.iter().for_each(|folder| looking.folder(folder));
                thread::sleep(PAUSE);
            }
        });
        Self { stop, read, thread: Mutex::new(Some(thread)) }
    }

    /// How many versions of files were read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join());
        }
    }
}

struct Looking {
    history: Arc<History>,
    read: Arc<AtomicU64>,
    seen: HashMap<PathBuf, Version>,
}

impl Looking {
    fn folder(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().as_bytes().starts_with(b".dwcp-") {
                continue;
            }
            let path = entry.path();
            match entry.metadata() {
                Ok(data) if data.is_dir() => self.folder(&path),
                Ok(data) if data.is_file() => {
                    let version = (data.ino(), data.len(), data.mtime_nsec(), data.ctime_nsec() ^ data.ctime());
                    if self.seen.get(&path) != Some(&version) {
                        self.file(&path, version);
                    }
                }
                // Gone since, or neither.
                _ => {}
            }
        }
    }

    fn file(&mut self, path: &Path, version: Version) {
        // One open file is one version, since files are replaced by rename.
        let Ok(contents) = fs::read(path) else { return };
        self.read.fetch_add(1, Relaxed);
        if file_is_whole(&contents) {
            self.seen.insert(path.to_path_buf(), version);
        } else {
            let len = contents.len();
            self.history.violation(format!(
                "{} stands under its final name with {len} bytes that are not whole",
                path.display()
            ));
        }
    }
}
