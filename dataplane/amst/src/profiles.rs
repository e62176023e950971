//! What is remembered of peers between sessions, so that the next one begins where the last one came to.

use std::collections::HashMap;

use proto_model::PublicKey;

/// Peers of which something is remembered, at most; of more those whose profile changed last.
pub const MAX_PROFILES: usize = 1000;

/// A rate that differs by less is the same: paths vary.
const SAME_RATE: f64 = 0.25;

/// What was of use with a peer the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProfile {
    /// Who.
    pub peer: PublicKey,
    /// Streams of pieces.
    pub streams: u32,
    /// Lanes.
    pub lanes: u32,
    /// Bytes a second that arrived there.
    pub rate: u64,
}

/// The profiles that an endpoint has.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    /// With the turn in which each changed.
    by_peer: HashMap<PublicKey, (PeerProfile, u64)>,
    turn: u64,
}

impl Profiles {
    pub(crate) fn of(&self, peer: &PublicKey) -> Option<PeerProfile> {
        self.by_peer.get(peer).map(|(profile, _)| *profile)
    }

    /// Those that changed last first.
    pub(crate) fn all(&self) -> Vec<PeerProfile> {
        let mut all: Vec<_> = self.by_peer.values().copied().collect();
        all.sort_by_key(|(_, turn)| std::cmp::Reverse(*turn));
        all.into_iter().map(|(profile, _)| profile).collect()
    }

    /// Whether that was news.
    pub(crate) fn remember(&mut self, profile: PeerProfile) -> bool {
        if self.of(&profile.peer).is_some_and(|known| known.is_like(&profile)) {
            return false;
        }
        if self.by_peer.len() >= MAX_PROFILES && !self.by_peer.contains_key(&profile.peer) {
            let oldest = self.by_peer.iter().min_by_key(|(_, (_, turn))| *turn).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.by_peer.remove(&oldest));
        }
        self.turn += 1;
        self.by_peer.insert(profile.peer, (profile, self.turn));
        true
    }

    pub(crate) fn keep(&mut self, is_member: impl Fn(&PublicKey) -> bool) {
        self.by_peer.retain(|peer, _| is_member(peer));
    }
}

impl PeerProfile {
    fn is_like(&self, other: &Self) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
        let [ours, theirs] = [self.rate as f64, other.rate as f64];
        (self.streams, self.lanes) == (other.streams, other.lanes) && (ours - theirs).abs() <= SAME_RATE * ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first keys there are: about every second number is the height of a point.
    fn keys(count: usize) -> Vec<PublicKey> {
        let candidates = (2..=u16::MAX).filter_map(|number| {
            let mut bytes = [7; 32];
            bytes[..2].copy_from_slice(&number.to_le_bytes());
            PublicKey::from_bytes(&bytes).ok()
        });
        candidates.take(count).collect()
    }

    #[test]
    fn what_changed_last_is_kept_and_noise_is_no_change() {
        let mut profiles = Profiles::default();
        let keys = keys(MAX_PROFILES + 1);
        let first = keys[0];
        for (number, peer) in (0..).zip(&keys) {
            profiles.remember(PeerProfile { peer: *peer, streams: 9, lanes: 1, rate: 1000 });
            // The first one changes again and again.
            assert!(profiles.remember(PeerProfile { peer: first, streams: 10 + number % 2, lanes: 1, rate: 1000 }));
        }
        assert_eq!(profiles.all().len(), MAX_PROFILES);
        assert_eq!((profiles.of(&keys[1]), profiles.all()[0].peer), (None, first));
        let before = profiles.of(&first).unwrap();
        assert!(!profiles.remember(PeerProfile { rate: 1200, ..before }));
        assert!(profiles.remember(PeerProfile { rate: 1300, ..before }));
    }
}
