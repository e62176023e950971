//! Section `limits`: what bounds an agent, by name.

use super::section::Reader;
use crate::ByteCount;

/// What bounds an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory for pieces that arrive: promised to peers, arriving, or being decoded.
    pub receive_budget: ByteCount,
    /// Sessions that peers dialled.
    pub incoming_sessions: u32,
    /// What a sender may say of its tree: all pages of the manifest of one transfer, which lie on the disk.
    pub manifest_size: ByteCount,
    /// Memory for what receivers say of their old versions; where it is used up, whole files travel.
    pub basis_budget: ByteCount,
    /// Members that an agent keeps; of a larger fleet those it deals with (D1).
    pub roster_entries: u32,
    /// HTTP requests for content and messages, a minute and address (DX-7).
    pub http_requests_per_minute: u32,
    /// HTTP requests for all else, a second and address (DC-6).
    pub http_requests_per_second: u32,
}

impl Limits {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("limits");
        Self {
            receive_budget: section.size("receive_budget", ByteCount::mib(8)..=ByteCount::gib(64)),
            incoming_sessions: section.number("incoming_sessions", 1..=65_536),
            manifest_size: section.size("manifest_size", ByteCount::mib(1)..=ByteCount::gib(1024)),
            basis_budget: section.size("basis_budget", ByteCount::mib(1)..=ByteCount::gib(64)),
            roster_entries: section.number("roster_entries", 100..=1_000_000),
            http_requests_per_minute: section.number("http_requests_per_minute", 1..=1_000_000),
            http_requests_per_second: section.number("http_requests_per_second", 1..=1_000_000),
        }
    }
}
