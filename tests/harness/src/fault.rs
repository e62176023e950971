//! What a bad day does to processes, disks and clocks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{ControlPlane, Process};

/// Processes that are stopped (SIGSTOP) until this is dropped.
#[derive(Debug)]
pub struct Stopped(Vec<Pid>);

impl Stopped {
    /// Stops a process.
    ///
    /// # Errors
    /// It is gone.
    pub fn process(process: &Process) -> Result<Self> {
        process.signal(Signal::SIGSTOP)?;
        Ok(Self(vec![Pid::from_raw(i32::try_from(process.pid())?)]))
    }

    /// Stops the control plane's own PostgreSQL with all its processes.
    ///
    /// # Errors
    /// It has none.
    pub fn postgres(control_plane: &ControlPlane) -> Result<Self> {
        let postmaster = control_plane.postgres_pid().context("it has a PostgreSQL of its own")?;
        kill(Pid::from_raw(postmaster), Signal::SIGSTOP)?;
        let mut stopped = Self(vec![Pid::from_raw(postmaster)]);
        for child in children(postmaster)? {
            // One may have ended meanwhile.
            if kill(Pid::from_raw(child), Signal::SIGSTOP).is_ok() {
                stopped.0.push(Pid::from_raw(child));
            }
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One may have ended meanwhile.
            let _ended = kill(*pid, Signal::SIGCONT);
        }
    }
}

fn children(of: i32) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        if parent == Some(of) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A small disk in memory, unmounted when dropped. Needs root.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many MiB on `folder`, which is made.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(folder: &Path, mebibytes: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let size = format!("size={mebibytes}m,mode=755");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "dwcp-test"]).arg(folder).output()?;
        ensure!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Ok(Self(folder.to_path_buf()))
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// It cannot be written to at all.
    pub fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut filler = fs::File::create(self.0.join("filler"))?;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0; size];
            while filler.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// It was not filled.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever uses it is stopped after this.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// What gives a process another time of day: `+400d`, `-1d`, `+30s`. Monotonic time stays as it is.
///
/// # Errors
/// libfaketime is not installed; `tests/run` does that.
pub fn clock_off_by(offset: &str) -> Result<Vec<(String, String)>> {
    let library = fs::read_dir("/usr/lib")?
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .context("libfaketime is not installed (deploy/tools libfaketime)")?;
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    Ok(variables.map(|(name, value)| (name.to_owned(), value)).to_vec())
}
