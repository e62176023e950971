//! The in-memory twin of the DHT, with the faults that tests need.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use proto_model::PublicKey;

use crate::{
    directory::{Directory, Lookup, LookupEvent, LookupSender, PublishError, Stored, lookup_channel},
    record::MAX_RECORD_BYTES,
    signed::SignedRecord,
};

/// A ring of one, in memory. Clones are the same ring.
#[derive(Clone, Debug, Default)]
pub struct MemoryDirectory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    away: bool,
    silent: bool,
    torn: bool,
    /// What is answered whatever was stored.
    pinned: Option<Option<SignedRecord>>,
    /// Look-ups that do not end.
    held: Vec<LookupSender>,
    lookups: usize,
    records: HashMap<PublicKey, SignedRecord>,
}

impl MemoryDirectory {
    /// Nobody answers, at once, until told otherwise.
    pub fn set_away(&self, away: bool) {
        self.lock(|state| state.away = away);
    }

    /// Look-ups neither find anything nor end, until told otherwise.
    pub fn set_silent(&self, silent: bool) {
        self.lock(|state| {
            state.silent = silent;
            state.held.clear();
        });
    }

    /// Half of a ring of six does not answer, until told otherwise.
    pub fn set_torn(&self, torn: bool) {
        self.lock(|state| state.torn = torn);
    }

    /// Answers with this from now on, whatever is stored: somebody stands between.
    pub fn pin(&self, record: SignedRecord) {
        self.lock(|state| state.pinned = Some(Some(record)));
    }

    /// Says from now on that there is nothing, whatever is stored.
    pub fn pin_silence(&self) {
        self.lock(|state| state.pinned = Some(None));
    }

    /// Answers with what is stored again.
    pub fn unpin(&self) {
        self.lock(|state| state.pinned = None);
    }

    /// Forgets all, like a ring that was restarted.
    pub fn restart(&self) {
        self.lock(|state| state.records.clear());
    }

    /// Puts anything there, as a stranger may.
    pub fn plant(&self, record: SignedRecord) {
        self.lock(|state| state.records.insert(record.key, record));
    }

    /// What is stored of `key`.
    #[must_use]
    pub fn stored(&self, key: &PublicKey) -> Option<SignedRecord> {
        self.lock(|state| state.records.get(key).cloned())
    }

    /// How many look-ups there were.
    #[must_use]
    pub fn lookups(&self) -> usize {
        self.lock(|state| state.lookups)
    }

    fn lock<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, record: SignedRecord) -> Result<Stored, PublishError> {
        if record.value.len() > MAX_RECORD_BYTES {
            return Err(PublishError::TooLong(record.value.len()));
        }
        self.lock(|state| {
            if state.away {
                return Err(PublishError::Unreachable);
            }
            if state.records.get(&record.key).is_some_and(|held| held.seq > record.seq) {
                return Err(PublishError::NotMostRecent);
            }
            state.records.insert(record.key, record);
            Ok(if state.torn { Stored { stored_at: 3, ring: 6 } } else { Stored { stored_at: 1, ring: 1 } })
        })
    }
}

impl Directory for MemoryDirectory {
    fn publish(&self, record: SignedRecord) -> BoxFuture<'_, Result<Stored, PublishError>> {
        Box::pin(async move { self.put(record) })
    }

    fn resolve(&self, key: PublicKey) -> Lookup {
        let (sender, lookup) = lookup_channel();
        let (away, silent, torn, found) = self.lock(|state| {
            state.lookups += 1;
            if state.silent {
                state.held.push(sender.clone());
            }
            let found = state.pinned.clone().unwrap_or_else(|| state.records.get(&key).cloned());
            (state.away, state.silent, state.torn, found)
        });
        if silent {
            return lookup;
        }
        if let Some(record) = found.filter(|_| !away) {
            sender.send(LookupEvent::Found(Box::new(record)));
        }
        sender.send(LookupEvent::Done { responses: usize::from(!away), whole: !away && !torn });
        lookup
    }
}
