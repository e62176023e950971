//! Section `transfer`.

use std::time::Duration;

use super::section::Reader;
use crate::ByteCount;

/// How files are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What is encoded and verified at once; a power of two (D19).
    pub segment_size: ByteCount,
    /// Encoded bytes that may be under way to this agent in one transfer.
    pub receive_window: ByteCount,
    /// The longest pause between two tries to go on.
    pub retry_interval: Duration,
    /// How long the other end may say nothing, or take nothing, while something is expected of it.
    pub stall_timeout: Duration,
}

impl Transfer {
    /// A smaller segment costs more in frames than it saves.
    pub const MIN_SEGMENT: ByteCount = ByteCount::kib(64);
    /// What a decoder has to hold at once (D19).
    pub const MAX_SEGMENT: ByteCount = ByteCount::mib(4);

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("transfer");
        let transfer = Self {
            segment_size: section.size("segment_size", Self::MIN_SEGMENT..=Self::MAX_SEGMENT),
            receive_window: section.size("receive_window", ByteCount::mib(1)..=ByteCount::gib(4)),
            retry_interval: section.duration("retry_interval", 1..=3600),
            stall_timeout: section.duration("stall_timeout", 60..=86_400),
        };
        if !transfer.segment_size.bytes().is_power_of_two() {
            section.refuse("segment_size", format!("{} is not a power of two", transfer.segment_size), "");
        }
        section.ordered(("segment_size", transfer.segment_size), ("receive_window", transfer.receive_window));
        transfer
    }
}
