//! [`FileStat`].

use std::{fs::Metadata, os::unix::fs::MetadataExt as _};

use rustix::fs::Stat;

/// What a file system says of a file, by which an unchanged one is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStat {
    /// Of its file system.
    pub device: u64,
    /// On that.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When its contents were changed last, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// When anything of it was changed last; no program can set it.
    pub ctime_ns: i64,
}

impl From<&Metadata> for FileStat {
    fn from(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.len(),
            mtime_ns: nanoseconds(data.mtime(), data.mtime_nsec()),
            ctime_ns: nanoseconds(data.ctime(), data.ctime_nsec()),
        }
    }
}

impl From<&Stat> for FileStat {
    fn from(stat: &Stat) -> Self {
        let part = |nanoseconds: u64| i64::try_from(nanoseconds).unwrap_or(0);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime_ns: nanoseconds(stat.st_mtime, part(stat.st_mtime_nsec)),
            ctime_ns: nanoseconds(stat.st_ctime, part(stat.st_ctime_nsec)),
        }
    }
}

/// Years 1677 to 2262; others are all alike, and a file that says so is told apart by its other time.
fn nanoseconds(seconds: i64, part: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(part)
}
