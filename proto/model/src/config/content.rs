//! Section `content`: the local content store.

use std::time::Duration;

use super::section::{Reader, choice};
use crate::ByteCount;

/// The local content store, and what is kept in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentStore {
    /// Bytes on the disk.
    pub max_bytes: ByteCount,
    /// Whether versions are copied into it where blocks cannot be shared.
    pub copy_baselines: CopyBaselines,
    /// Versions of a file that are kept for each peer.
    pub versions: u32,
    /// For how long a version is kept.
    pub max_age: Duration,
}

choice! {
    /// Whether versions are copied into the store where blocks cannot be shared.
    CopyBaselines {
        /// Those after which a next one is likely.
        Auto = "auto",
        /// All.
        Always = "always",
        /// None.
        Never = "never",
    }
}

impl ContentStore {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("content");
        Self {
            max_bytes: section.size("max_bytes", ByteCount::new(0)..=ByteCount::gib(1 << 20)),
            copy_baselines: section.choice("copy_baselines"),
            versions: section.number("versions", 1..=100),
            max_age: section.duration("max_age", 60..=10 * 365 * 86_400),
        }
    }
}
