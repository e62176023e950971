//! Finds where a node is: cache, directory, and a moment later the fallback; the first acceptable answer counts.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foundation_runtime::{Clock, OnEnd, TaskGroup};
use futures::future::BoxFuture;
use metrics::counter;
use proto_model::{NodeId, PublicKey};
use tokio::sync::watch;

use crate::{
    cache::{Cache, Cached},
    directory::Directory,
    disagreements::{Disagreement, Disagreements, Pace},
    keep::RecordStore,
    record::FleetTag,
    signed::{Acceptance, SignedRecord, Unacceptable, VerifiedRecord},
};

use search::Search;

/// What the control plane knows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FallbackAnswer {
    /// The node's own words, if it reported them.
    pub record: Option<SignedRecord>,
    /// Where the control plane sees it; not signed by the node.
    pub observed: Vec<SocketAddr>,
}

/// The fallback cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane cannot be asked: {0}")]
pub struct FallbackError(pub String);

/// The second source of records: the control plane.
pub trait Fallback: Send + Sync + fmt::Debug {
    /// What it knows of `key`; `None` if it does not know the node.
    fn look_up(&self, key: PublicKey) -> BoxFuture<'_, Result<Option<FallbackAnswer>, FallbackError>>;
}

/// How to resolve.
#[derive(Clone, Debug)]
pub struct ResolverOptions {
    /// Whose records are taken.
    pub fleet: FleetTag,
    /// How long an answer is kept (RN-3), at most as long as it holds.
    pub ttl: Duration,
    /// How often what ran out is removed.
    pub cleanup_interval: Duration,
    /// How many answers are kept: about 1 KB each.
    pub capacity: usize,
    /// When the fallback is asked as well.
    pub hedge_after: Duration,
    /// When the search is given up.
    pub deadline: Duration,
    /// How long it is remembered that nobody has a record.
    pub negative_ttl: Duration,
    /// Different keys that are looked for at once; the directory works on two at a time, so more would only wait.
    pub lookups: usize,
    /// For how long after it was issued a record is used when no source answers.
    pub stale_for: Duration,
    /// How long an answer is kept that only a part of the ring gave: another part may have a newer one.
    pub partial_ttl: Duration,
    /// A record this old should have reached the DHT: the DHT disagrees if it has not.
    pub settled_after: Duration,
    /// When the DHT is asked again after it disagreed, and was given the newer record.
    pub ask_again_after: Duration,
    /// And then, as long as it disagrees.
    pub ask_again_every: Duration,
}

impl ResolverOptions {
    /// The defaults: 300 s, 60 s, 1,000, 150 ms, 1.5 s, 30 s, 24 h; 60 s, 60 s, 15 s, 60 s.
    #[must_use]
    pub fn new(fleet: FleetTag) -> Self {
        Self {
            fleet,
            ttl: Duration::from_secs(300),
            cleanup_interval: Duration::from_secs(60),
            capacity: 1000,
            hedge_after: Duration::from_millis(150),
            deadline: Duration::from_millis(1500),
            negative_ttl: Duration::from_secs(30),
            lookups: 256,
            stale_for: Duration::from_secs(24 * 3600),
            partial_ttl: Duration::from_secs(60),
            settled_after: Duration::from_secs(60),
            ask_again_after: Duration::from_secs(15),
            ask_again_every: Duration::from_secs(60),
        }
    }
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The DHT.
    Dht,
    /// The control plane.
    ControlPlane,
    /// The node itself, or another member.
    Peer,
    /// This host's own store.
    Kept,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Who it is.
    pub key: PublicKey,
    /// Its own words.
    pub record: Option<VerifiedRecord>,
    /// Where the control plane sees it.
    pub observed: Vec<SocketAddr>,
    /// Where this comes from.
    pub source: Source,
    /// The record ran out, and no source had a newer one.
    pub stale: bool,
}

impl Resolved {
    /// Its node id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.key.node_id()
    }

    /// Where to dial, what it says itself first.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let own = self.record.iter().flat_map(|record| record.record().addresses.iter());
        let mut seen = HashSet::new();
        own.chain(&self.observed).copied().filter(|address| seen.insert(*address)).collect()
    }
}

/// Why a node's whereabouts are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The sources answered, and none has it.
    #[error("neither the DHT nor the control plane knows where the node is")]
    NotFound,
    /// No source answered.
    #[error("neither the DHT nor the control plane answers")]
    Unreachable,
    /// Too much at once.
    #[error("too many nodes are being looked for at once")]
    Busy,
    /// The program is going down.
    #[error("the program is shutting down")]
    ShuttingDown,
}

type Answer = Result<Arc<Resolved>, ResolveError>;

/// Finds nodes. Clones are the same resolver, with one cache.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    options: ResolverOptions,
    directory: Arc<dyn Directory>,
    fallback: Arc<dyn Fallback>,
    store: Arc<dyn RecordStore>,
    clock: Clock,
    tasks: TaskGroup,
    cache: Mutex<Cache>,
    in_flight: Mutex<HashMap<PublicKey, watch::Receiver<Option<Answer>>>>,
    disagreements: Disagreements,
    checks: Pace,
    repairs: Pace,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Resolver").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver, which cleans its cache until its task group ends.
    #[must_use]
    pub fn start(
        options: ResolverOptions,
        directory: Arc<dyn Directory>,
        fallback: Arc<dyn Fallback>,
        store: Arc<dyn RecordStore>,
        clock: Clock,
        tasks: &TaskGroup,
    ) -> Self {
        let cache = Mutex::new(Cache::new(options.capacity));
        let inner = Inner {
            options,
            directory,
            fallback,
            store,
            clock,
            tasks: tasks.clone(),
            cache,
            in_flight: Mutex::default(),
            disagreements: Disagreements::default(),
            checks: Pace::new(),
            repairs: Pace::new(),
        };
        let this = Self(Arc::new(inner));
        let cleaner = this.clone();
        tasks.spawn("dht cache", OnEnd::Expected, async move { cleaner.clean().await });
        this
    }

    /// Where the node is: from the cache, or found anew.
    ///
    /// # Errors
    /// Where no source has an acceptable answer.
    pub async fn resolve(&self, key: PublicKey) -> Result<Arc<Resolved>, ResolveError> {
        let peer = key.node_id();
        let cached = self.0.lock_cache().find(&key, self.0.clock.now());
        let result = if cached.is_some() { "hit" } else { "miss" };
        counter!("dwcp_dht_cache_lookups_total", "result" => result).increment(1);
        match cached {
            Some(Cached::Known(resolved)) => {
                tracing::info!("Cache hit for peer {peer}");
                Ok(resolved)
            }
            Some(Cached::Absent) => {
                tracing::info!("Cache hit for peer {peer}");
                Err(ResolveError::NotFound)
            }
            None => {
                tracing::info!("Cache miss for peer {peer}");
                self.search(key, false).await
            }
        }
    }

    /// Where the node is, found anew: for when what was known proved wrong. What the DHT says then counts alone only where it is
    /// newer than that; else the control plane is heard too.
    ///
    /// # Errors
    /// Where no source has an acceptable answer.
    pub async fn refresh(&self, key: PublicKey) -> Result<Arc<Resolved>, ResolveError> {
        self.search(key, true).await
    }

    /// The nodes of which the DHT goes on to say less than is known otherwise, although it was told.
    #[must_use]
    pub fn disagreements(&self) -> Vec<Disagreement> {
        self.0.disagreements.standing(self.0.clock.now())
    }

    async fn search(&self, key: PublicKey, doubted: bool) -> Result<Arc<Resolved>, ResolveError> {
        let mut answer = {
            let mut in_flight = self.0.lock_in_flight();
            if let Some(answer) = in_flight.get(&key) {
                answer.clone()
            } else if in_flight.len() >= self.0.options.lookups {
                counter!("dwcp_limit_hits_total", "limit" => "limits.dht_lookups").increment(1);
                return Err(ResolveError::Busy);
            } else {
                let (sender, receiver) = watch::channel(None);
                in_flight.insert(key, receiver.clone());
                let search = Search::new(self.clone(), key, doubted, sender);
                let group = self.0.tasks.clone();
                self.0.tasks.spawn("dht resolve", OnEnd::Expected, async move {
                    tokio::select! {
                        () = group.cancelled() => {}
                        () = search.run() => {}
                    }
                });
                receiver
            }
        };
        let answered = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        answered.ok().flatten().unwrap_or(Err(ResolveError::ShuttingDown))
    }

    /// Takes a record that came by another way: from the node itself, or from a member.
    ///
    /// # Errors
    /// Where it is not acceptable.
    pub async fn learn(&self, record: SignedRecord) -> Result<(), Unacceptable> {
        let key = record.key;
        let known = self.0.kept(key).await;
        let record = record.verify_beside(known.as_ref(), &self.0.acceptance(known.as_ref()))?;
        self.0.accept(key, Some(record), Vec::new(), Source::Peer, known.is_none()).await;
        Ok(())
    }

    /// How many answers are in the cache.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.0.lock_cache().len()
    }

    async fn clean(self) {
        let mut tick = tokio::time::interval(self.0.options.cleanup_interval.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tokio::select! {
                () = self.0.tasks.cancelled() => return,
                _ = tick.tick() => {}
            }
            let removed = self.0.lock_cache().clean(self.0.clock.now());
            tracing::info!(removed, "Cleanup expired entries");
        }
    }
}

impl Inner {
    fn lock_cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_in_flight(&self) -> MutexGuard<'_, HashMap<PublicKey, watch::Receiver<Option<Answer>>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn kept(&self, key: PublicKey) -> Option<SignedRecord> {
        match self.store.last(key).await {
            Ok(kept) => kept,
            Err(reason) => {
                tracing::warn!(%reason, "records of before cannot be read");
                None
            }
        }
    }

    fn acceptance(&self, known: Option<&SignedRecord>) -> Acceptance {
        Acceptance { fleet: self.options.fleet, now_ms: self.clock.unix_ms(), known_seq: known.map(|known| known.seq) }
    }

    /// Keeps an answer, for a while in the cache and its `seq` on disk.
    async fn accept(
        &self,
        key: PublicKey,
        record: Option<VerifiedRecord>,
        observed: Vec<SocketAddr>,
        source: Source,
        new: bool,
    ) -> Arc<Resolved> {
        if let Some(record) = record.clone() {
            if new {
                tracing::info!("Discovered peer {}", key.node_id());
            }
            if let Err(reason) = self.store.keep(record).await {
                tracing::warn!(%reason, "a peer's record cannot be kept");
            }
        }
        let ttl = record.as_ref().map_or(self.options.negative_ttl, |record| self.remaining(record));
        let resolved = Arc::new(Resolved { key, record, observed, source, stale: false });
        self.cache(key, Cached::Known(Arc::clone(&resolved)), ttl);
        resolved
    }

    /// How long a record may be kept in the cache.
    fn remaining(&self, record: &VerifiedRecord) -> Duration {
        let record = record.record();
        let ends = record.issued_s.saturating_add(u64::from(record.ttl_s));
        let now = u64::try_from(self.clock.unix_ms() / 1000).unwrap_or(0);
        Duration::from_secs(ends.saturating_sub(now)).min(self.options.ttl)
    }

    /// What a part of the ring said is not kept for as long as what all say.
    fn shorten(&self, key: PublicKey) {
        let now = self.clock.now();
        self.lock_cache().shorten(&key, now, self.options.partial_ttl);
    }

    fn cache(&self, key: PublicKey, cached: Cached, ttl: Duration) {
        let now = self.clock.now();
        self.lock_cache().insert(key, cached, now, ttl);
    }
}

mod search;

#[cfg(test)]
mod tests;
