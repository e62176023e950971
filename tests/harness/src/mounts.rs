//! File systems of an agent's own: small, read-only, or below its roots; nobody else on the machine sees them.

use std::path::{Path, PathBuf};

use nix::unistd::Uid;

/// An [`crate::AgentOptions::runner`] that does this in a shell, in a mount namespace of its own, before the agent runs there.
#[must_use]
pub fn private_mounts(script: &str) -> Vec<String> {
    let mut runner = vec!["unshare".to_owned(), "--mount".to_owned()];
    if !Uid::effective().is_root() {
        runner.push("--map-root-user".to_owned());
    }
    runner.extend(["sh", "-euc"].map(str::to_owned));
    runner.extend([format!("{script}\nexec \"$@\""), "sh".to_owned()]);
    runner
}

/// A path as a process sees it.
#[must_use]
pub fn as_seen_by(pid: u32, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{}", path.display()))
}
