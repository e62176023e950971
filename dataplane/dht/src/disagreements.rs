//! Where the DHT says less than is known otherwise: somebody stands between, or the ring lost what it had.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use proto_model::PublicKey;

/// So many are kept in mind; more say nothing more.
const MOST: usize = 32;
/// One that nobody has looked at for so long says nothing of now.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// Something at most so often over time, and so many times at once.
const PACE: Duration = Duration::from_secs(5);
const PACE_AT_ONCE: u32 = 20;

/// What the DHT says of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Of which.
    pub key: PublicKey,
    /// What the DHT has: an older record of this `seq`, or none.
    pub dht: Option<i64>,
    /// What is known from the control plane, or by what was kept.
    pub known: i64,
}

impl Disagreement {
    /// In a word, for metrics.
    pub(crate) const fn kind(&self) -> &'static str {
        if self.dht.is_some() { "older" } else { "silent" }
    }
}

/// Those that were seen. One that the DHT mends when it is told is none of these for long.
#[derive(Debug, Default)]
pub(crate) struct Disagreements(Mutex<HashMap<PublicKey, Seen>>);

#[derive(Debug)]
struct Seen {
    what: Disagreement,
    times: u32,
    last: Instant,
}

impl Disagreements {
    /// Notes one; whether it is the first of its key, so that somebody should ask again.
    pub(crate) fn note(&self, what: Disagreement, now: Instant) -> bool {
        counter!("dwcp_dht_disagreements_total", "kind" => what.kind()).increment(1);
        let mut seen = self.lock();
        // Its own stays, however old: somebody asks again for as long as it is there.
        seen.retain(|key, seen| *key == what.key || now.saturating_duration_since(seen.last) < FORGOTTEN_AFTER);
        if let Some(seen) = seen.get_mut(&what.key) {
            *seen = Seen { what, times: seen.times.saturating_add(1), last: now };
        } else if seen.len() < MOST {
            seen.insert(what.key, Seen { what, times: 1, last: now });
            return true;
        }
        count(&seen);
        false
    }

    /// The DHT says the same of it as others do.
    pub(crate) fn settled(&self, key: &PublicKey) {
        let mut seen = self.lock();
        if seen.remove(key).is_some() {
            count(&seen);
        }
    }

    pub(crate) fn contains(&self, key: &PublicKey) -> bool {
        self.lock().contains_key(key)
    }

    /// Those that were seen again after the DHT was told.
    pub(crate) fn standing(&self, now: Instant) -> Vec<Disagreement> {
        let seen = self.lock();
        let standing = seen.values().filter(|seen| now.saturating_duration_since(seen.last) < FORGOTTEN_AFTER);
        let mut standing: Vec<_> = standing.filter(|seen| seen.times > 1).map(|seen| seen.what).collect();
        standing.sort_unstable_by_key(|what| what.key.to_bytes());
        standing
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(seen: &HashMap<PublicKey, Seen>) {
    let standing = seen.values().filter(|seen| seen.times > 1).count();
    gauge!("dwcp_dht_disagreeing_nodes").set(f64::from(u32::try_from(standing).unwrap_or(u32::MAX)));
}

/// How often something may be done for the sake of caution.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether it may be done once more now.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let mut used_up = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = used_up.map_or(now, |used_up| used_up.max(now)) + PACE;
        let allowed = next <= now + PACE * PACE_AT_ONCE;
        if allowed {
            *used_up = Some(next);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use foundation_runtime::Clock;

    use super::*;

    #[test]
    fn caution_is_bounded() {
        let (pace, now) = (Pace::new(), Clock::system().now());
        assert_eq!((0..100).filter(|_| pace.allows(now)).count(), 20);
        assert_eq!((0..100).filter(|_| pace.allows(now + PACE * 2)).count(), 2);
    }
}
