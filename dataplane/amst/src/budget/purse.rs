//! A part of the budget, of which no peer takes so much that nothing is left for another.

use std::collections::HashMap;

use proto_model::PublicKey;

/// Bytes that are given out to peers.
#[derive(Debug, Default)]
pub(super) struct Purse {
    size: u64,
    used: u64,
    /// No entry is zero.
    by_peer: HashMap<PublicKey, u64>,
}

impl Purse {
    pub(super) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn free(&self) -> u64 {
        self.size.saturating_sub(self.used)
    }

    /// Whether a peer may have so much more: at most what others could still have before it took that. So the first has half of
    /// all, the next half of the rest, and there is something left for a hundredth.
    pub(super) fn fits(&self, peer: &PublicKey, bytes: u64) -> bool {
        self.of(peer).saturating_add(bytes) <= self.free()
    }

    /// How much more a peer may have: three times what it leaves to others.
    pub(super) fn allowed(&self, peer: &PublicKey) -> u64 {
        (3 * self.free()).saturating_sub(self.of(peer)) / 4
    }

    pub(super) fn take(&mut self, peer: &PublicKey, bytes: u64) {
        if bytes > 0 {
            self.used += bytes;
            *self.by_peer.entry(*peer).or_default() += bytes;
        }
    }

    pub(super) fn give(&mut self, peer: &PublicKey, bytes: u64) {
        self.used -= bytes;
        if let Some(held) = self.by_peer.get_mut(peer) {
            *held -= bytes;
            if *held == 0 {
                self.by_peer.remove(peer);
            }
        }
    }

    pub(super) fn has_nothing(&self, peer: &PublicKey) -> bool {
        !self.by_peer.contains_key(peer)
    }

    fn of(&self, peer: &PublicKey) -> u64 {
        self.by_peer.get(peer).copied().unwrap_or(0)
    }
}
