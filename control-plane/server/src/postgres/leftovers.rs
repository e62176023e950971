//! Processes of a cluster that outlived their server: found by what they are, not by what a file says.
//!
//! After a kill -9 of the postmaster its backends may live on for a moment, after one of our own process the whole cluster may. A cluster is
//! never started beside them. A process belongs to the cluster when its program is `postgres` and its working folder is the cluster's data.

use std::{fs, io, path::Path, time::Duration};

use foundation_runtime::Clock;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{StartError, io_error};

/// How long a cluster gets to stop cleanly; then its processes are asked to quit at once.
const FAST: Duration = Duration::from_secs(20);

/// How long they get for that; then they are killed.
const IMMEDIATE: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Stops what is left of the cluster, and removes the file by which PostgreSQL knows of it.
pub(super) fn clear(data: &Path, clock: &Clock) -> Result<(), StartError> {
    let left = processes(data);
    if !left.is_empty() {
        tracing::warn!(component = "postgres", processes = left.len(), "Stopping a PostgreSQL that was left running");
    }
    let asked = postmaster(data).filter(|pid| left.contains(pid));
    // Backends without a postmaster end by themselves.
    if let Some(pid) = asked {
        signal(pid, Signal::SIGINT);
    }
    if !gone(data, FAST, clock) {
        processes(data).into_iter().for_each(|pid| signal(pid, Signal::SIGQUIT));
    }
    if !gone(data, IMMEDIATE, clock) {
        processes(data).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    }
    if !gone(data, IMMEDIATE, clock) {
        let source = io::Error::from(io::ErrorKind::ResourceBusy);
        return Err(StartError::Io { doing: "stop the PostgreSQL that was left in", path: data.to_path_buf(), source });
    }
    // Nothing has the cluster open now. A number in this file that another process has meanwhile would stop PostgreSQL from starting.
    let path = data.join("postmaster.pid");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits until no process of the cluster is left.
fn gone(data: &Path, wait: Duration, clock: &Clock) -> bool {
    let deadline = clock.now() + wait;
    loop {
        if processes(data).is_empty() {
            return true;
        }
        if clock.now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn postmaster(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

/// The live processes of the cluster. One that has ended and was not yet reaped has neither program nor folder.
fn processes(data: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| belongs(*pid, data)).map(Pid::from_raw).collect()
}

fn belongs(pid: i32, data: &Path) -> bool {
    let link = |name| fs::read_link(format!("/proc/{pid}/{name}"));
    let runs_postgres = link("exe").is_ok_and(|program| {
        // A program that was upgraded under a running process reads as `postgres (deleted)`.
        program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres"))
    });
    runs_postgres && link("cwd").is_ok_and(|folder| folder == data)
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
