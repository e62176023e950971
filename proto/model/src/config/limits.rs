//! Section `limits`: what bounds an agent, by name. `docs/limits.md` says why each number, and what happens when it is reached.

use super::section::Reader;
use crate::ByteCount;

/// What bounds an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory for what arrives: promised to peers, unread in connections, arriving, or being decoded.
    pub receive_budget: ByteCount,
    /// Memory for what is sent and not acknowledged yet.
    pub send_budget: ByteCount,
    /// Sessions that peers dialled.
    pub incoming_sessions: u32,
    /// What a sender may say of its tree: all pages of the manifest of one transfer, which lie on the disk.
    pub manifest_size: ByteCount,
    /// Memory for what receivers say of their old versions; where it is used up, whole files travel.
    pub basis_budget: ByteCount,
    /// Objects of the content store that are open at once.
    pub open_objects: u32,
    /// Dictionaries of small files on the disk, trained here or received; with none, none is received.
    pub dictionaries: ByteCount,
    /// Sessions with one peer.
    pub sessions_per_peer: u32,
    /// Channels that each end may open in a session.
    pub channels_per_session: u32,
    /// Channels that peers opened and nobody has taken yet.
    pub waiting_channels: u32,
    /// QUIC handshakes under way at once, on one socket.
    pub quic_handshakes: u32,
    /// From so many handshakes on, who dials has to show first that it receives at its address.
    pub quic_retry_from: u32,
    /// First packets of QUIC connections of one address in a second; addresses of peers have five times as many.
    pub quic_first_packets_per_second: u32,
    /// Transfers that are sent at once.
    pub sending_transfers: u32,
    /// Transfers that are received at once.
    pub receiving_transfers: u32,
    /// Sources of syncs that are looked through at once.
    pub sync_looks: u32,
    /// Syncs of which this node, as a receiver, keeps something.
    pub received_syncs: u32,
    /// Benches of which this node is an end at once.
    pub benches: u32,
    /// Members that an agent keeps; of a larger fleet those it deals with (D1).
    pub roster_entries: u32,
    /// Connections to the HTTP port, and to the metrics port, at once.
    pub http_connections: u32,
    /// HTTP requests for content and messages, a minute and address (DX-7).
    pub http_requests_per_minute: u32,
    /// HTTP requests for all else, a second and address (DC-6).
    pub http_requests_per_second: u32,
    /// Connections to `agent.sock` at once.
    pub local_connections: u32,
    /// DHT queries of this node under way at once.
    pub dht_queries: u32,
    /// Nodes that are looked for at once.
    pub dht_lookups: u32,
    /// Records that a node of the DHT ring keeps.
    pub dht_records: u32,
    /// DHT requests of one address that a node of the ring answers in a second.
    pub dht_requests_per_second: u32,
    /// Log lines of one kind in a second.
    pub log_lines_per_second: u32,
}

impl Limits {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("limits");
        Self {
            receive_budget: section.size("receive_budget", ByteCount::mib(16)..=ByteCount::gib(64)),
            send_budget: section.size("send_budget", ByteCount::mib(16)..=ByteCount::gib(64)),
            incoming_sessions: section.number("incoming_sessions", 1..=65_536),
            manifest_size: section.size("manifest_size", ByteCount::mib(1)..=ByteCount::gib(1024)),
            basis_budget: section.size("basis_budget", ByteCount::mib(1)..=ByteCount::gib(64)),
            open_objects: section.number("open_objects", 1..=65_536),
            dictionaries: section.size("dictionaries", ByteCount::new(0)..=ByteCount::gib(64)),
            sessions_per_peer: section.number("sessions_per_peer", 2..=64),
            channels_per_session: section.number("channels_per_session", 1..=1024),
            waiting_channels: section.number("waiting_channels", 1..=65_536),
            quic_handshakes: section.number("quic_handshakes", 1..=65_536),
            quic_retry_from: section.number("quic_retry_from", 0..=65_536),
            quic_first_packets_per_second: section.number("quic_first_packets_per_second", 1..=1_000_000),
            sending_transfers: section.number("sending_transfers", 1..=1024),
            receiving_transfers: section.number("receiving_transfers", 1..=1024),
            sync_looks: section.number("sync_looks", 1..=256),
            received_syncs: section.number("received_syncs", 1..=100_000),
            benches: section.number("benches", 1..=64),
            roster_entries: section.number("roster_entries", 100..=1_000_000),
            http_connections: section.number("http_connections", 1..=65_536),
            http_requests_per_minute: section.number("http_requests_per_minute", 1..=1_000_000),
            http_requests_per_second: section.number("http_requests_per_second", 1..=1_000_000),
            local_connections: section.number("local_connections", 1..=65_536),
            dht_queries: section.number("dht_queries", 1..=16),
            dht_lookups: section.number("dht_lookups", 1..=65_536),
            dht_records: section.number("dht_records", 100..=10_000_000),
            dht_requests_per_second: section.number("dht_requests_per_second", 1..=1_000_000),
            log_lines_per_second: section.number("log_lines_per_second", 1..=1_000_000),
        }
    }
}
