//! Keeps a node's own record in the directory: on change, and again before it runs out.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use foundation_runtime::{Clock, OnEnd, TaskGroup};
use futures::future::OptionFuture;
use proto_model::NodeId;
use tokio::sync::{Notify, watch};

use crate::{
    directory::{Directory, LookupEvent, PublishError, Stored},
    keep::RecordStore,
    record::{FleetTag, MAX_ADDRESSES, MAX_RELAYS, MAX_TTL, Nat, NodeType, Record, WANTED_RECORD_BYTES},
    signed::{MAX_SEQ_AHEAD, RecordSigner, SignedRecord},
};

/// What a node has to say about itself; the publisher adds fleet, time and signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Where QUIC listens; what is beyond [`MAX_ADDRESSES`] is left out.
    pub addresses: Vec<SocketAddr>,
    /// How it can be reached.
    pub node_type: NodeType,
    /// What stands before it.
    pub nat: Nat,
    /// The relays it is connected to, the one in use first; what is beyond [`MAX_RELAYS`] is left out.
    pub relays: Vec<NodeId>,
}

/// How to publish.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// The fleet that the record names.
    pub fleet: FleetTag,
    /// How often the record is put again without a change; a fifth more or less each time. It holds two and a half times as long.
    pub republish_interval: Duration,
    /// How long changes are gathered.
    pub debounce: Duration,
    /// Delays after failures, the last one for all further.
    pub retries: [Duration; 3],
    /// How often a record that part of the ring does not have is put again as it is; a fifth more or less each time. What a
    /// partition kept from one side is there so long after it heals.
    pub repeat_interval: Duration,
}

impl PublisherOptions {
    /// Hourly, changes within 2 s; after a failure in 5 s, 15 s, then every minute; to a part of the ring every minute.
    #[must_use]
    pub fn new(fleet: FleetTag) -> Self {
        Self {
            fleet,
            republish_interval: Duration::from_secs(3600),
            debounce: Duration::from_secs(2),
            retries: [5, 15, 60].map(Duration::from_secs),
            repeat_interval: Duration::from_secs(60),
        }
    }
}

/// Publishes one node's record until its task group ends. Clones are the same publisher.
#[derive(Clone)]
pub struct Publisher {
    announcement: watch::Sender<Option<Announcement>>,
    interval: watch::Sender<Duration>,
    again: Arc<Notify>,
    lost: Arc<Notify>,
    signed: watch::Receiver<Option<SignedRecord>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// Starts; publishes nothing before the first [`Publisher::announce`].
    #[must_use]
    pub fn start(
        options: PublisherOptions,
        signer: Arc<dyn RecordSigner>,
        directory: Arc<dyn Directory>,
        store: Arc<dyn RecordStore>,
        clock: Clock,
        tasks: &TaskGroup,
    ) -> Self {
        let (signed_sender, signed) = watch::channel(None);
        let this = Self {
            announcement: watch::Sender::new(None),
            interval: watch::Sender::new(options.republish_interval),
            again: Arc::default(),
            lost: Arc::default(),
            signed,
        };
        let worker = Worker {
            fleet: options.fleet,
            debounce: options.debounce,
            retries: options.retries,
            repeat_interval: options.repeat_interval,
            announcement: this.announcement.subscribe(),
            interval: this.interval.subscribe(),
            again: Arc::clone(&this.again),
            lost: Arc::clone(&this.lost),
            signed: signed_sender,
            signer,
            directory,
            store,
            clock,
            last_seq: None,
        };
        let group = tasks.clone();
        tasks.spawn("dht publisher", OnEnd::Expected, async move {
            tokio::select! {
                () = group.cancelled() => {}
                () = worker.work() => {}
            }
        });
        this
    }

    /// Says something new; the same again is no change.
    pub fn announce(&self, announcement: Announcement) {
        self.announcement.send_if_modified(|now| {
            let changed = now.as_ref() != Some(&announcement);
            *now = Some(announcement);
            changed
        });
    }

    /// Another interval; puts the record again with the validity that follows from it.
    pub fn set_republish_interval(&self, interval: Duration) {
        self.interval.send_if_modified(|now| std::mem::replace(now, interval) != interval);
    }

    /// Signs the record anew and puts it at once: the ring changed.
    pub fn republish(&self) {
        self.again.notify_one();
    }

    /// Puts the record again as it is, soon: a node of the ring may have been restarted.
    pub fn put_again(&self) {
        self.lost.notify_one();
    }

    /// The newest signed record: also for the control plane and for members over QUIC, so that the ring is never its only place.
    #[must_use]
    pub fn signed(&self) -> watch::Receiver<Option<SignedRecord>> {
        self.signed.clone()
    }
}

struct Worker {
    fleet: FleetTag,
    debounce: Duration,
    retries: [Duration; 3],
    repeat_interval: Duration,
    announcement: watch::Receiver<Option<Announcement>>,
    interval: watch::Receiver<Duration>,
    again: Arc<Notify>,
    lost: Arc<Notify>,
    signed: watch::Sender<Option<SignedRecord>>,
    signer: Arc<dyn RecordSigner>,
    directory: Arc<dyn Directory>,
    store: Arc<dyn RecordStore>,
    clock: Clock,
    last_seq: Option<i64>,
}

/// Why the record was not published.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Record(#[from] crate::record::RecordError),
    #[error("seq {0} was used before and lies more than a day ahead of the clock")]
    ClockBehind(i64),
}

/// How the newest record lies in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    /// Where it should.
    Everywhere,
    /// The loss of a node does not lose it, but part of the ring may have an older one.
    InPart,
    /// The loss of a node may lose it.
    AtTooFew,
}

impl Placed {
    /// After a put that nobody answered.
    const fn after_silence(self) -> Self {
        match self {
            Self::Everywhere | Self::InPart => Self::InPart,
            Self::AtTooFew => Self::AtTooFew,
        }
    }

    fn of(stored: Stored) -> Self {
        if stored.is_everywhere() {
            Self::Everywhere
        } else if stored.is_enough() {
            Self::InPart
        } else {
            Self::AtTooFew
        }
    }
}

fn warn_of_too_few(stored: Stored) {
    let Stored { stored_at, ring } = stored;
    tracing::warn!(
        stored_at,
        ring,
        "Metadata is not in the DHT as it should be: the loss of a ring node would lose it"
    );
}

/// Why the worker stops waiting.
enum Wake {
    /// A new record is due.
    Publish,
    /// Nobody needs it any more.
    End,
}

impl Worker {
    async fn work(mut self) {
        if self.announcement.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut failures = 0_usize;
        loop {
            let interval = *self.interval.borrow_and_update();
            let announcement = self.announcement.borrow_and_update().clone().unwrap_or_default();
            let (delay, placed) = match self.publish(announcement, interval).await {
                Ok(stored) => {
                    failures = 0;
                    (interval.mul_f64(rand::random_range(0.8..=1.2)), Placed::of(stored))
                }
                Err(reason) => {
                    let delay = self.retries[failures.min(self.retries.len() - 1)];
                    failures += 1;
                    // No ring is a state, not a failure: the control plane serves.
                    if !matches!(reason, Failure::Publish(PublishError::NoRing)) {
                        tracing::warn!(%reason, retry_s = delay.as_secs(), "Metadata is not in the DHT as it should be");
                    }
                    // The next attempt is one with a new record.
                    (delay, Placed::Everywhere)
                }
            };
            match self.wait(delay, placed).await {
                Wake::Publish => {}
                Wake::End => return,
            }
        }
    }

    /// Waits until a new record is due; until then the present one is put again where it is missing.
    async fn wait(&mut self, delay: Duration, mut placed: Placed) -> Wake {
        let due = tokio::time::sleep(delay);
        tokio::pin!(due);
        let mut repeats = 0_usize;
        loop {
            let pause = match placed {
                Placed::Everywhere => None,
                Placed::InPart => Some(self.repeat_interval.mul_f64(rand::random_range(0.8..=1.2))),
                Placed::AtTooFew => Some(self.retries[repeats.min(self.retries.len() - 1)]),
            };
            let repeat = OptionFuture::from(pause.map(tokio::time::sleep));
            tokio::select! {
                () = &mut due => return Wake::Publish,
                () = self.again.notified() => return Wake::Publish,
                changed = self.interval.changed() => return if changed.is_err() { Wake::End } else { Wake::Publish },
                changed = self.announcement.changed() => {
                    if changed.is_err() {
                        return Wake::End;
                    }
                    tokio::time::sleep(self.debounce).await;
                    return Wake::Publish;
                }
                () = self.lost.notified() => tokio::time::sleep(self.debounce).await,
                Some(()) = repeat => repeats += 1,
            }
            match self.put_as_it_is(placed).await {
                Ok(stored) => placed = Placed::of(stored),
                // The ring has a newer one of ours: beyond that.
                Err(PublishError::NotMostRecent) => return Wake::Publish,
                Err(reason) => {
                    tracing::debug!(%reason, "metadata was not put again");
                    placed = placed.after_silence();
                }
            }
        }
    }

    /// Puts the newest record again: the same value at the same `seq` only says to whoever has it that it is still so.
    async fn put_as_it_is(&self, before: Placed) -> Result<Stored, PublishError> {
        let Some(signed) = self.signed.borrow().clone() else { return Err(PublishError::Restarting) };
        let seq = signed.seq;
        let stored = self.directory.publish(signed).await?;
        let now = Placed::of(stored);
        if now == Placed::AtTooFew {
            warn_of_too_few(stored);
        } else if now != before {
            tracing::info!(
                seq,
                stored_at = stored.stored_at,
                ring = stored.ring,
                "Metadata was put into the DHT again"
            );
        }
        Ok(stored)
    }

    async fn publish(&mut self, announcement: Announcement, interval: Duration) -> Result<Stored, Failure> {
        let seq = self.next_seq().await?;
        let record = self.record(announcement, interval);
        let signed = SignedRecord::sign(self.signer.as_ref(), seq, &record)?;
        if signed.value.len() > WANTED_RECORD_BYTES {
            tracing::warn!(
                bytes = signed.value.len(),
                "the node's record is larger than small tunnels carry in one packet"
            );
        }
        // Before the DHT has it: whoever serves it otherwise should not wait for the ring.
        self.signed.send_replace(Some(signed.clone()));
        tracing::info!("Updating metadata in DHT for {}, seq: {seq}", signed.target());
        let stored = match self.directory.publish(signed).await {
            Ok(stored) => stored,
            Err(PublishError::NotMostRecent) => {
                // The ring knows a higher one of ours: read it back before the next attempt.
                self.last_seq = self.read_back().await.max(self.last_seq);
                return Err(PublishError::NotMostRecent.into());
            }
            Err(error) => return Err(error.into()),
        };
        tracing::info!(seq, stored_at = stored.stored_at, ring = stored.ring, "Successfully published metadata to DHT");
        if !stored.is_enough() {
            warn_of_too_few(stored);
        }
        Ok(stored)
    }

    fn record(&self, announcement: Announcement, interval: Duration) -> Record {
        let Announcement { mut addresses, node_type, nat, mut relays } = announcement;
        addresses.truncate(MAX_ADDRESSES);
        relays.truncate(MAX_RELAYS);
        let ttl = (interval * 5 / 2).clamp(Duration::from_secs(60), MAX_TTL);
        Record {
            issued_s: u64::try_from(self.clock.unix_ms() / 1000).unwrap_or(0),
            ttl_s: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
            fleet: self.fleet,
            addresses,
            node_type,
            nat,
            relays,
        }
    }

    /// Higher than any before, also over restarts and a lost store.
    async fn next_seq(&mut self) -> Result<i64, Failure> {
        let mut last = self.last_seq;
        if last.is_none() {
            last = match self.store.own_seq().await {
                Ok(Some(seq)) => Some(seq),
                Ok(None) => self.read_back().await,
                Err(reason) => {
                    tracing::warn!(%reason, "the last sequence number cannot be read");
                    self.read_back().await
                }
            };
        }
        let now = self.clock.unix_ms();
        let seq = last.map_or(now, |last| now.max(last.saturating_add(1)));
        let ahead = i64::try_from(MAX_SEQ_AHEAD.as_millis()).expect("a day in milliseconds is an i64");
        if seq > now.saturating_add(ahead) {
            return Err(Failure::ClockBehind(seq));
        }
        self.last_seq = Some(seq);
        if let Err(reason) = self.store.keep_own_seq(seq).await {
            // Going on: the number grows with the clock anyway.
            tracing::warn!(%reason, "the sequence number cannot be kept");
        }
        Ok(seq)
    }

    /// The highest `seq` of our own that the directory holds.
    async fn read_back(&self) -> Option<i64> {
        let mut lookup = self.directory.resolve(self.signer.public_key());
        let mut highest = None;
        loop {
            match lookup.next().await {
                LookupEvent::Found(record) => {
                    if let Ok(record) = record.verify_signature() {
                        highest = highest.max(Some(record.seq()));
                    }
                }
                LookupEvent::Done { .. } => return highest,
            }
        }
    }
}

#[cfg(test)]
mod tests;
