//! [`Baselines`]: versions of files that both ends of a transfer hold.
//!
//! At the sender they are objects of the store, by what each peer acknowledged of each place: its own file may change at any
//! time. At the receiver the published file itself is the baseline, and is known by what the file system says of it, so that
//! nothing is stored twice and nothing read for its digest alone.

mod keep;
mod published;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dataplane_hde::ReadAt;
use dataplane_local_store::PeerBaseline;
use foundation_runtime::Clock;
use proto_model::{Digest, NodeUid};

use crate::{
    collect::Collected,
    policy::{Policy, Version},
    references::{References, ReferencesError},
    store::ContentError,
};

pub use keep::{Acknowledged, KeptNow};
pub use published::{Held, Published};

/// A file at a receiver: its root's name there, and its path below that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The root's name at the receiver.
    pub root: String,
    /// Below that root; bytes.
    pub path: Vec<u8>,
}

/// How versions are kept; may be changed while they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Which.
    pub policy: Policy,
    /// Versions of each place and peer.
    pub versions: u32,
    /// For how long.
    pub max_age: Duration,
}

impl Default for Settings {
    /// Two versions, for 30 days.
    fn default() -> Self {
        Self { policy: Policy::default(), versions: 2, max_age: Duration::from_secs(30 * 86_400) }
    }
}

/// A version that a peer acknowledged, and of which this host has an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What it is.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Whether the next version may refer to it; else it is time for a whole one (`compression.max_delta_chain`).
    pub may_refer: bool,
    /// Whether an index of it is worth keeping (`compression.adaptive_threshold`).
    pub indexes: bool,
    /// When the peer had it, in milliseconds since the Unix epoch.
    pub acknowledged_ms: i64,
}

/// Versions that a peer is known to hold, or that this host has published. Lost without harm. Clones are the same.
#[derive(Clone, Debug)]
pub struct Baselines {
    references: References,
    clock: Clock,
    settings: Arc<Mutex<Settings>>,
}

impl Baselines {
    /// Baselines in this store, with these references.
    #[must_use]
    pub fn new(references: References, clock: Clock, settings: Settings) -> Self {
        Self { references, clock, settings: Arc::new(Mutex::new(settings)) }
    }

    /// Who needs what, and the store.
    #[must_use]
    pub fn references(&self) -> &References {
        &self.references
    }

    /// How versions are kept.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other settings, from now on.
    pub fn set_settings(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// The versions of a place that a peer acknowledged and this host has, the newest first.
    ///
    /// # Errors
    /// The rows cannot be read, or the objects not be looked at.
    pub async fn newest(&self, peer: NodeUid, place: &Place) -> Result<Vec<Kept>, ReferencesError> {
        let mut found = self.newest_of(peer, &place.root, std::slice::from_ref(&place.path)).await?;
        Ok(found.pop().unwrap_or_default())
    }

    /// The same of many places below one root: one answer for each, in their order.
    ///
    /// # Errors
    /// The rows cannot be read, or the objects not be looked at.
    pub async fn newest_of(
        &self,
        peer: NodeUid,
        root: &str,
        paths: &[Vec<u8>],
    ) -> Result<Vec<Vec<Kept>>, ReferencesError> {
        let rows = self.rows(peer, root, paths).await?;
        let (content, policy) = (self.references.content.clone(), self.settings().policy);
        let present = self.references.tasks.blocking("look for baselines", move || {
            let mut present: HashMap<Vec<u8>, Vec<Kept>> = HashMap::new();
            for row in rows {
                if content.contains(row.digest)? {
                    let version = version(&row);
                    present.entry(row.path).or_default().push(Kept {
                        digest: row.digest,
                        size: row.size,
                        may_refer: policy.may_refer(&version),
                        indexes: policy.indexes(&version),
                        acknowledged_ms: row.acknowledged_ms,
                    });
                }
            }
            Ok::<_, ContentError>(present)
        });
        let mut present = present.await??;
        Ok(paths.iter().map(|path| present.remove(path).unwrap_or_default()).collect())
    }

    /// Opens a version, after it was found to be whole: reads it once, so call this where blocking is allowed.
    ///
    /// # Errors
    /// It is gone or damaged: then whole files travel.
    pub fn open(&self, digest: Digest) -> Result<Arc<dyn ReadAt>, ContentError> {
        Ok(Arc::new(self.references.content.open_verified(digest)?))
    }

    /// Opens a version as it lies on the disk: for who notices by itself that it is damaged, and calls [`Self::open`] then, which sets such a
    /// one aside.
    ///
    /// # Errors
    /// It is gone, or too many are open.
    pub fn open_unverified(&self, digest: Digest) -> Result<Arc<dyn ReadAt>, ContentError> {
        Ok(Arc::new(self.references.content.open_object(digest)?))
    }

    /// The index of a version, where one is kept. May block.
    ///
    /// # Errors
    /// The store cannot be used.
    pub fn index(&self, digest: Digest) -> Result<Option<Vec<u8>>, ContentError> {
        self.references.content.index(digest)
    }

    /// Keeps an index of a version; see [`Kept::indexes`]. May block.
    ///
    /// # Errors
    /// There is no room, or the store cannot be used.
    pub fn keep_index(&self, digest: Digest, index: &[u8]) -> Result<(), ContentError> {
        self.references.content.keep_index(digest, index)
    }

    /// How many versions of peers are kept.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn count(&self) -> Result<u64, ReferencesError> {
        Ok(self.references.rows.count_peer_baselines().await?)
    }

    /// Removes what is too old, what is beyond the bounds, and what nobody needs.
    ///
    /// # Errors
    /// The rows or the objects cannot be used.
    pub async fn clean(&self) -> Result<Collected, ReferencesError> {
        let age = i64::try_from(self.settings().max_age.as_millis()).unwrap_or(i64::MAX);
        let before = self.clock.unix_ms().saturating_sub(age);
        let old = self.references.rows.drop_peer_baselines_before(before).await?;
        let mut collected = self.references.remove_unneeded(old).await?;
        collected = collected.and(self.references.collect().await?);
        collected = collected.and(self.shrink().await?);
        Ok(collected)
    }

    /// Removes the oldest versions while the store holds more than it may.
    async fn shrink(&self) -> Result<Collected, ReferencesError> {
        let mut collected = Collected::default();
        loop {
            let content = self.references.content.clone();
            let stats = self.references.tasks.blocking("count content", move || content.stats()).await??;
            let max = self.references.content.limits().max_bytes.bytes();
            let Some(over) = stats.bytes.checked_sub(max).filter(|over| *over > 0) else { return Ok(collected) };
            let freed = self.make_room(over).await?;
            if freed.objects == 0 {
                return Ok(collected);
            }
            collected = collected.and(freed);
        }
    }

    /// Removes the oldest versions, until about so many bytes are free.
    async fn make_room(&self, bytes: u64) -> Result<Collected, ReferencesError> {
        let oldest = self.references.rows.oldest_peer_baselines(bytes).await?;
        self.references.remove(oldest).await
    }

    async fn rows(&self, peer: NodeUid, root: &str, paths: &[Vec<u8>]) -> Result<Vec<PeerBaseline>, ReferencesError> {
        let paths: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
        Ok(self.references.rows.peer_baselines(peer, root, &paths).await?)
    }
}

fn version(row: &PeerBaseline) -> Version {
    Version { chain: row.chain, poor: row.poor, acknowledged_ms: row.acknowledged_ms }
}
