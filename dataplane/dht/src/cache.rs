//! Records that were resolved a while ago.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use proto_model::PublicKey;

use crate::resolver::{Resolved, Source};

/// What a look-up may take where a node of the ring does not answer: more of them at once would only wait for each other.
const EACH: Duration = Duration::from_millis(300);

/// What the cache knows of a key.
#[derive(Clone, Debug)]
pub(crate) enum Cached {
    /// This.
    Known(Arc<Resolved>),
    /// That nobody has it.
    Absent,
}

/// A bounded cache; the one that was not asked for the longest goes first.
#[derive(Debug)]
pub(crate) struct Cache {
    capacity: usize,
    entries: HashMap<PublicKey, Entry>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    cached: Cached,
    until: Instant,
    used: u64,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), uses: 0 }
    }

    pub(crate) fn find(&mut self, key: &PublicKey, now: Instant) -> Option<Cached> {
        self.uses += 1;
        let entry = self.entries.get_mut(key).filter(|entry| now < entry.until)?;
        entry.used = self.uses;
        Some(entry.cached.clone())
    }

    pub(crate) fn insert(&mut self, key: PublicKey, cached: Cached, now: Instant, ttl: Duration) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
            oldest.map(|oldest| self.entries.remove(&oldest));
        }
        self.uses += 1;
        self.entries.insert(key, Entry { cached, until: now + ttl, used: self.uses });
    }

    /// An answer that came of the DHT is kept for at most so long; where many are kept, that is a little longer for each.
    pub(crate) fn shorten(&mut self, key: &PublicKey, now: Instant, ttl: Duration) {
        let ttl = ttl.max(EACH * u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        if let Some(entry) = self.entries.get_mut(key)
            && matches!(&entry.cached, Cached::Known(known) if known.source == Source::Dht)
        {
            entry.until = entry.until.min(now + ttl);
        }
    }

    /// Removes what ran out; says how many.
    pub(crate) fn clean(&mut self, now: Instant) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| now < entry.until);
        before - self.entries.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
