//! What a process uses, and how those fare who belong to the fleet.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open files.
    pub files: u64,
}

/// What a process uses now.
#[must_use]
pub fn usage(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Usage { rss_bytes: rss.unwrap_or(0) * 1024, files: u64::try_from(files).unwrap_or(0) }
}

/// Watches processes until it is asked what the most was.
#[derive(Debug)]
pub struct Peaks {
    pids: Vec<u32>,
    peaks: Arc<Vec<(AtomicU64, AtomicU64)>>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Peaks {
    /// Begins to watch.
    #[must_use]
    pub fn of(pids: &[u32]) -> Self {
        let peaks: Arc<Vec<(AtomicU64, AtomicU64)>> = Arc::new(pids.iter().map(|_| Default::default()).collect());
        let over = Arc::new(AtomicBool::new(false));
        let (watched, kept, stop) = (pids.to_vec(), Arc::clone(&peaks), Arc::clone(&over));
        let watcher = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (pid, (rss, files)) in watched.iter().zip(kept.iter()) {
                    let now = usage(*pid);
                    rss.fetch_max(now.rss_bytes, Ordering::Relaxed);
                    files.fetch_max(now.files, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { pids: pids.to_vec(), peaks, over, watcher: Some(watcher) }
    }

    /// The most that each used.
    #[must_use]
    pub fn most(&self) -> Vec<(u32, Usage)> {
        let read = |(rss, files): &(AtomicU64, AtomicU64)| Usage {
            rss_bytes: rss.load(Ordering::Relaxed),
            files: files.load(Ordering::Relaxed),
        };
        self.pids.iter().copied().zip(self.peaks.iter().map(read)).collect()
    }
}

impl Drop for Peaks {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            drop(watcher.join());
        }
    }
}

/// Asks a port for a path, as a program of this host does; how long it took.
///
/// # Errors
/// It was not answered with success within 10 s.
pub fn honest_http(address: &str, path: &str) -> Result<Duration> {
    let begun = Instant::now();
    let url = format!("http://{address}{path}");
    let asked = Command::new("curl").args(["-sf", "-m", "10", "-o", "/dev/null", &url]).status()?;
    anyhow::ensure!(asked.success(), "{url} was not answered");
    Ok(begun.elapsed())
}
