//! Section `metadata_cache`: records of other nodes (RN-3).

use std::time::Duration;

use super::section::Reader;

/// How long what was found of other nodes is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataCache {
    /// A hit within it needs no network.
    pub ttl_seconds: Duration,
    /// How often what is older is dropped.
    pub cleanup_interval: Duration,
    /// How many are kept.
    pub max_entries: u32,
}

impl MetadataCache {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("metadata_cache");
        Self {
            ttl_seconds: section.duration("ttl_seconds", 1..=86_400),
            cleanup_interval: section.duration("cleanup_interval", 1..=86_400),
            max_entries: section.number("max_entries", 1..=1_000_000),
        }
    }
}
