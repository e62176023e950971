//! Section `storage`.

use super::section::Reader;
use crate::ByteCount;

/// Disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// What a transfer leaves free on a file system (D22).
    pub reserve: ByteCount,
}

impl Storage {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("storage");
        Self { reserve: section.size("reserve", ByteCount::new(0)..=ByteCount::gib(1 << 20)) }
    }
}
