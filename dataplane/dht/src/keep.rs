//! What must outlive the process: the highest `seq` of each key, ours and others', and the last record of each peer.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use futures::future::BoxFuture;
use proto_model::PublicKey;

use crate::signed::SignedRecord;
use crate::signed::VerifiedRecord;

/// A store that failed, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the local store failed: {0}")]
pub struct RecordStoreError(pub String);

/// Keeps records and sequence numbers over restarts. The agent implements it over its local store.
pub trait RecordStore: Send + Sync + fmt::Debug {
    /// The highest record kept of `key`.
    fn last(&self, key: PublicKey) -> BoxFuture<'_, Result<Option<SignedRecord>, RecordStoreError>>;

    /// Keeps a record, unless one with a higher `seq` is kept; `expires` of what it says is the store's to clean by.
    fn keep(&self, record: VerifiedRecord) -> BoxFuture<'_, Result<(), RecordStoreError>>;

    /// The `seq` that was last given to a record of our own.
    fn own_seq(&self) -> BoxFuture<'_, Result<Option<i64>, RecordStoreError>>;

    /// Keeps it, before it is used.
    fn keep_own_seq(&self, seq: i64) -> BoxFuture<'_, Result<(), RecordStoreError>>;
}

/// Forgets with the process: for tests, and for programs that only read.
#[derive(Debug, Default)]
pub struct MemoryRecords(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    own_seq: Option<i64>,
    records: HashMap<PublicKey, SignedRecord>,
}

impl RecordStore for MemoryRecords {
    fn last(&self, key: PublicKey) -> BoxFuture<'_, Result<Option<SignedRecord>, RecordStoreError>> {
        Box::pin(async move { Ok(self.lock(|kept| kept.records.get(&key).cloned())) })
    }

    fn keep(&self, record: VerifiedRecord) -> BoxFuture<'_, Result<(), RecordStoreError>> {
        Box::pin(async move {
            self.lock(|kept| {
                let held = kept.records.get(record.key()).is_some_and(|held| held.seq > record.seq());
                if !held {
                    kept.records.insert(*record.key(), record.signed().clone());
                }
            });
            Ok(())
        })
    }

    fn own_seq(&self) -> BoxFuture<'_, Result<Option<i64>, RecordStoreError>> {
        Box::pin(async move { Ok(self.lock(|kept| kept.own_seq)) })
    }

    fn keep_own_seq(&self, seq: i64) -> BoxFuture<'_, Result<(), RecordStoreError>> {
        Box::pin(async move {
            self.lock(|kept| kept.own_seq = Some(seq));
            Ok(())
        })
    }
}

impl MemoryRecords {
    fn lock<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
