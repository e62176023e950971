//! Section `compression`: HDE.

use std::time::Duration;

use super::section::{Reader, choice};

/// How data is made smaller.
#[derive(Clone, Debug, PartialEq)]
pub struct Compression {
    /// Whether it is.
    pub enabled: bool,
    /// By what.
    pub algorithm: Algorithm,
    /// 1 to 22; only zstd has levels.
    pub level: i32,
    /// Whether what the receiver holds is referred to.
    pub enable_delta_encoding: bool,
    /// How often a version of a file is copied into the content store.
    pub baseline_interval: Duration,
    /// How many versions may refer to the one before, before the receiver describes anew what it really holds.
    pub max_delta_chain: u32,
    /// Below this ratio a baseline no longer pays.
    pub adaptive_threshold: f64,
    /// Whether dictionaries are trained and used.
    pub enable_dictionary: bool,
}

choice! {
    /// How a segment is compressed.
    Algorithm {
        /// Zstandard.
        Zstd = "zstd",
        /// LZ4.
        Lz4 = "lz4",
        /// Snappy.
        Snappy = "snappy",
    }
}

impl Compression {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("compression");
        Self {
            enabled: section.boolean("enabled"),
            algorithm: section.choice("algorithm"),
            level: section.number("level", 1..=22),
            enable_delta_encoding: section.boolean("enable_delta_encoding"),
            baseline_interval: section.duration("baseline_interval", 1..=86_400),
            max_delta_chain: section.number("max_delta_chain", 1..=1000),
            adaptive_threshold: section.real("adaptive_threshold", 1.0..=1000.0),
            enable_dictionary: section.boolean("enable_dictionary"),
        }
    }
}
