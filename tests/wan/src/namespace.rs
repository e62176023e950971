//! Network namespaces: those that others made, and two of the command's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;

/// Something with a network of its own.
pub trait Place {
    /// What the interface at the other end is called after.
    fn name(&self) -> &str;

    /// The file that stands for its network namespace.
    fn network(&self) -> PathBuf;
}

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "dwcp-wan-";

/// A named namespace (`ip netns exec NAME`), gone with its handle and with every process in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A new one; its name has this process's number in it, so that several stand side by side.
    ///
    /// # Errors
    /// This is not root, or the kernel refuses.
    pub fn new(end: &str) -> Result<Self> {
        ensure!(geteuid().is_root(), "namespaces need root");
        let name = format!("{PREFIX}{}-{end}", std::process::id());
        said(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        inside(&namespace.network(), &["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Deletes those of processes that were killed.
    pub fn delete_stale() {
        for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                drop(Self { name });
            }
        }
    }
}

impl Place for Namespace {
    fn name(&self) -> &str {
        self.name.rsplit('-').next().unwrap_or_default()
    }

    fn network(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }
}

impl Namespace {
    /// The name for `ip netns exec`.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Ok(listed) = Command::new("ip").args(["netns", "pids", &self.name]).output() {
            for pid in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()) {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
            }
        }
        drop(Command::new("ip").args(["netns", "del", &self.name]).output());
    }
}

/// Runs a program in a network namespace, where it must succeed; what it printed.
///
/// # Errors
/// It fails.
pub(crate) fn inside(network: &Path, arguments: &[&str]) -> Result<String> {
    let output = said(Command::new("nsenter").arg(format!("--net={}", network.display())).arg("--").args(arguments))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program that must succeed.
pub(crate) fn said(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output)
}
