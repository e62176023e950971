//! Section `limits`: what bounds an agent, by name.

use super::section::Reader;
use crate::ByteCount;

/// What bounds an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of pieces in memory, both directions together.
    pub bytes_in_flight: ByteCount,
    /// Sessions with peers.
    pub sessions: u32,
    /// Channels, that is transfers, in a session.
    pub channels_per_session: u32,
    /// Transfers at once, both directions together.
    pub concurrent_transfers: u32,
    /// Files that transfers hold open.
    pub open_files: u32,
    /// Levels of folders below a transferred one.
    pub path_depth: u32,
    /// Members that an agent keeps; of a larger fleet those it deals with (D1).
    pub roster_entries: u32,
    /// HTTP requests a minute and address (DX-7).
    pub http_requests_per_minute: u32,
}

impl Limits {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("limits");
        Self {
            bytes_in_flight: section.size("bytes_in_flight", ByteCount::mib(8)..=ByteCount::gib(64)),
            sessions: section.number("sessions", 1..=65_536),
            channels_per_session: section.number("channels_per_session", 1..=4096),
            concurrent_transfers: section.number("concurrent_transfers", 1..=4096),
            open_files: section.number("open_files", 16..=65_536),
            path_depth: section.number("path_depth", 1..=1024),
            roster_entries: section.number("roster_entries", 100..=1_000_000),
            http_requests_per_minute: section.number("http_requests_per_minute", 1..=1_000_000),
        }
    }
}
