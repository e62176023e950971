//! Section `peer_discovery`: finding other nodes (RN-4, RN-5).

use std::time::Duration;

use super::section::Reader;

/// How other nodes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerDiscovery {
    /// How often they are looked for.
    pub discovery_interval: Duration,
    /// How many known ones are told to a peer.
    pub max_known_peers_to_share: u32,
}

impl PeerDiscovery {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("peer_discovery");
        Self {
            discovery_interval: section.duration("discovery_interval", 1..=86_400),
            max_known_peers_to_share: section.number("max_known_peers_to_share", 0..=50),
        }
    }
}
