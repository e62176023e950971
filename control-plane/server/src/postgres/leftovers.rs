//! Processes of a cluster that outlived their server: found by what they are, not by what a file says.
//!
//! After a kill -9 of the postmaster its backends may live on for a moment, after one of our own process the whole cluster may. A cluster is
//! never started beside them, nor removed or made under them. A process belongs to the cluster when its program is `postgres` or `initdb` and its
//! working folder is the cluster's, or lies in it.

use std::{fs, io, path::Path, time::Duration};

use foundation_runtime::Clock;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{StartError, cluster::data, io_error};

/// How long a cluster gets to stop cleanly; then its processes are asked to quit at once.
const FAST: Duration = Duration::from_secs(20);

/// How long they get for that; then they are killed.
const IMMEDIATE: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Stops what is left of the cluster in this folder, and removes the file by which PostgreSQL knows of it.
pub(super) fn clear(folder: &Path, clock: &Clock) -> Result<(), StartError> {
    let left = processes(folder);
    if !left.is_empty() {
        tracing::warn!(component = "postgres", processes = left.len(), "Stopping a PostgreSQL that was left running");
    }
    let master = postmaster(folder);
    // Backends without a postmaster end by themselves.
    let asked = left.into_iter().filter(|pid| Some(*pid) == master || runs(*pid, "initdb"));
    asked.for_each(|pid| signal(pid, Signal::SIGINT));
    if !gone(folder, FAST, clock) {
        processes(folder).into_iter().for_each(|pid| signal(pid, Signal::SIGQUIT));
    }
    if !gone(folder, IMMEDIATE, clock) {
        processes(folder).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    }
    if !gone(folder, IMMEDIATE, clock) {
        let source = io::Error::from(io::ErrorKind::ResourceBusy);
        let path = folder.to_path_buf();
        return Err(StartError::Io { doing: "stop the PostgreSQL that was left in", path, source });
    }
    // Nothing has the cluster open now. A number in this file that another process has meanwhile would stop PostgreSQL from starting.
    let path = data(folder).join("postmaster.pid");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits until no process of the cluster is left.
fn gone(folder: &Path, wait: Duration, clock: &Clock) -> bool {
    let deadline = clock.now() + wait;
    loop {
        if processes(folder).is_empty() {
            return true;
        }
        if clock.now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn postmaster(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data(folder).join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

/// The live processes of the cluster. One that has ended and was not yet reaped has neither program nor folder.
fn processes(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.map(Pid::from_raw).filter(|pid| belongs(*pid, folder)).collect()
}

fn belongs(pid: Pid, folder: &Path) -> bool {
    (runs(pid, "postgres") || runs(pid, "initdb"))
        && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|working| working.starts_with(folder))
}

/// Whether a process runs this program. One that was upgraded under it reads as `postgres (deleted)`.
fn runs(pid: Pid, program: &str) -> bool {
    let running = fs::read_link(format!("/proc/{pid}/exe"));
    running.is_ok_and(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(program)))
}

/// Sends a signal to a process that may just have ended.
pub(super) fn signal(pid: Pid, signal: Signal) {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => {
            tracing::warn!(component = "postgres", %pid, %signal, %errno, "A PostgreSQL process cannot be signalled")
        }
    }
}
