//! What only the program that serves can look at: its disk, its log file, the head of the audit log that it kept.

use std::path::PathBuf;

use control_plane_api::{Finding, Severity};
use nix::sys::statvfs::statvfs;
use tokio::sync::watch;

use crate::anchor::Anchor;

/// PostgreSQL stops at a full disk; with less than this left it is near.
const LOW_BYTES: u64 = 2 << 30;
/// …and with less than this it is a matter of hours at most.
const LAST_BYTES: u64 = 256 << 20;

/// What is looked at.
#[derive(Debug)]
pub(crate) struct HostChecks {
    pub(crate) data_dir: PathBuf,
    /// Whether PostgreSQL's data lies there too.
    pub(crate) embedded: bool,
    pub(crate) anchor: Anchor,
    pub(crate) log_file: watch::Receiver<Option<String>>,
}

impl HostChecks {
    /// Looks.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let log = self.log_file.borrow().clone();
        let log_hint = "free the disk or the folder's rights, or give another --log-file";
        let anchor_hint = "do not restart or restore anything yet: run `dwcp audit verify`, keep DIR/audit.checkpoint, and compare with a backup";
        vec![
            self.disk(),
            Finding {
                category: "audit",
                description: "the audit log goes on from the head that this server kept",
                trouble: self.anchor.finding().map(|finding| (Severity::Error, finding, anchor_hint)),
            },
            Finding {
                category: "host",
                description: "the log is written to its file",
                trouble: log.map(|why| (Severity::Warning, why, log_hint)),
            },
        ]
    }

    fn disk(&self) -> Finding {
        let hint = if self.embedded {
            "PostgreSQL stops when it is full: free some, or move the data directory to a larger disk"
        } else {
            "free some: keys, the log's anchor and ready.json are written there"
        };
        let trouble = match statvfs(&self.data_dir) {
            Ok(stat) => room(stat.blocks_available().saturating_mul(stat.fragment_size()), stat.files_available())
                .map(|(severity, what)| (severity, format!("{}: {what}", self.data_dir.display()), hint)),
            Err(error) => Some((Severity::Error, format!("{}: {error}", self.data_dir.display()), hint)),
        };
        Finding { category: "host", description: "the disk of the data directory has room", trouble }
    }
}

fn room(free: u64, inodes: u64) -> Option<(Severity, String)> {
    let left = || format!("{} MiB are free", free >> 20);
    match free {
        _ if inodes == 0 => Some((Severity::Error, "no inode is left".to_owned())),
        ..LAST_BYTES => Some((Severity::Error, left())),
        LAST_BYTES..LOW_BYTES => Some((Severity::Warning, left())),
        LOW_BYTES.. => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_first_low_and_then_nearly_full() {
        assert_eq!(room(3 << 30, 9), None);
        assert_eq!(room(1 << 30, 9), Some((Severity::Warning, "1024 MiB are free".to_owned())));
        assert_eq!(room(1 << 20, 9).map(|(severity, _)| severity), Some(Severity::Error));
        assert_eq!(room(3 << 30, 0).map(|(severity, _)| severity), Some(Severity::Error));
    }

    #[test]
    fn the_log_file_and_the_disk_are_looked_at() {
        let (trouble, log_file) = watch::channel(None);
        let dir = tempfile::tempdir().unwrap();
        let checks =
            HostChecks { data_dir: dir.path().to_path_buf(), embedded: true, anchor: Anchor::default(), log_file };
        let log = |checks: &HostChecks| checks.findings().pop().unwrap().trouble;
        assert_eq!(log(&checks), None);
        trouble.send_replace(Some("/x: No space left on device".to_owned()));
        assert!(log(&checks).unwrap().1.contains("No space left"));
        drop(dir);
        assert!(checks.findings()[0].trouble.is_some(), "a folder that is gone is found");
    }
}
