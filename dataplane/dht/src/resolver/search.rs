//! One search: who is asked when, whose word counts, and whether the sources say the same.

use std::{net::SocketAddr, sync::Arc};

use foundation_runtime::OnEnd;
use futures::future::{BoxFuture, OptionFuture};
use metrics::counter;
use proto_model::PublicKey;
use tokio::sync::watch;

use super::{Answer, FallbackAnswer, FallbackError, Inner, ResolveError, Resolved, Resolver, Source};
use crate::{
    cache::Cached,
    directory::LookupEvent,
    disagreements::Disagreement,
    record::Record,
    signed::{MAX_SKEW, SignedRecord, Unacceptable, VerifiedRecord},
};

/// One search for one key, for all who ask for it meanwhile.
pub(super) struct Search {
    resolver: Resolver,
    inner: Arc<Inner>,
    key: PublicKey,
    /// What was known proved wrong.
    doubted: bool,
    sender: watch::Sender<Option<Answer>>,
    known: Option<SignedRecord>,
    /// What the DHT says, and another source should confirm.
    held: Option<VerifiedRecord>,
    heard: Heard,
}

/// What the sources have come to.
#[derive(Default)]
struct Progress {
    answered: bool,
    /// Some source said that it does not have it.
    denied: bool,
    dht_done: bool,
    /// The DHT has had its start.
    hedged: bool,
    asked: bool,
    fallback_done: bool,
}

/// What was heard of the newest record, for comparing.
#[derive(Default)]
struct Heard {
    /// The highest `seq` in the DHT under the owner's signature, of a record that is taken or would have been once.
    dht: Option<i64>,
    responses: usize,
    whole: bool,
    /// The newest one that is known otherwise.
    elsewhere: Option<SignedRecord>,
}

impl Search {
    pub(super) fn new(
        resolver: Resolver,
        key: PublicKey,
        doubted: bool,
        sender: watch::Sender<Option<Answer>>,
    ) -> Self {
        let inner = Arc::clone(&resolver.0);
        Self { resolver, inner, key, doubted, sender, known: None, held: None, heard: Heard::default() }
    }

    pub(super) async fn run(mut self) {
        self.known = self.inner.kept(self.key).await;
        self.heard.elsewhere.clone_from(&self.known);
        let peer = self.key.node_id();
        tracing::info!("Querying DHT for mutable data of {peer}");
        let mut lookup = self.inner.directory.resolve(self.key);
        let source = Arc::clone(&self.inner.fallback);
        let mut fallback: OptionFuture<BoxFuture<'_, _>> = None.into();
        let hedge = tokio::time::sleep(self.inner.options.hedge_after);
        let deadline = tokio::time::sleep(self.inner.options.deadline);
        tokio::pin!(hedge, deadline);
        // Also where the DHT has an answer, the control plane is heard now and then: whether both say the same.
        let check = self.doubted || self.inner.checks.allows(self.inner.clock.now());
        let mut progress = Progress::default();
        loop {
            let unanswered = !progress.answered && (progress.hedged || progress.dht_done);
            let wanted = self.doubted || unanswered || self.held.is_some() || (check && progress.dht_done);
            if wanted && !progress.asked {
                progress.asked = true;
                fallback = Some(source.look_up(self.key)).into();
            }
            if progress.asked == progress.fallback_done && progress.dht_done {
                break;
            }
            tokio::select! {
                () = &mut deadline => break,
                event = lookup.next(), if !progress.dht_done => self.on_dht(event, check, &mut progress).await,
                () = &mut hedge, if !progress.hedged => progress.hedged = true,
                Some(answer) = &mut fallback, if progress.asked && !progress.fallback_done => {
                    fallback = None.into();
                    self.on_fallback(answer, &mut progress).await;
                }
            }
            // The nodes of the ring have had time to outdo each other; who is met for the first time, and the control plane is slow,
            // is not kept waiting for what is only caution.
            let overdue = self.held.as_ref().is_some_and(|held| self.is_overdue(held.record()));
            if progress.hedged && (progress.fallback_done || !(self.doubted || overdue)) {
                self.release(&mut progress).await;
            }
        }
        self.release(&mut progress).await;
        if !progress.answered {
            self.give_up(progress.denied);
        }
        self.compare();
    }

    async fn on_dht(&mut self, event: LookupEvent, check: bool, progress: &mut Progress) {
        match event {
            LookupEvent::Found(record) => self.offer_of_dht(*record, check, progress).await,
            LookupEvent::Done { responses, whole } => {
                progress.dht_done = true;
                progress.denied |= responses > 0;
                (self.heard.responses, self.heard.whole) = (responses, whole);
                if responses == 0 {
                    tracing::info!("No nodes in DHT routing table answered for {}", self.key.node_id());
                }
            }
        }
    }

    /// What the DHT has is taken at once, unless there is reason to hear the control plane first.
    async fn offer_of_dht(&mut self, record: SignedRecord, check: bool, progress: &mut Progress) {
        let seq = record.seq;
        let Some(verified) = self.believed(record, Source::Dht, progress) else { return };
        self.heard.dht = self.heard.dht.max(Some(seq));
        let known = self.known.as_ref().map(|known| known.seq);
        let nothing_new = known.is_some_and(|known| seq <= known);
        let caution = match known {
            _ if self.is_overdue(verified.record()) => true,
            // What has just failed.
            Some(_) => self.doubted && nothing_new,
            None => check,
        };
        if caution && !progress.answered && !progress.fallback_done {
            if self.held.as_ref().is_none_or(|held| held.seq() < seq) {
                self.held = Some(verified);
            }
        } else {
            self.take(verified, Vec::new(), Source::Dht, progress).await;
        }
    }

    /// Its owner has had to put a newer one by now: twice as often as it would run out, at least.
    fn is_overdue(&self, record: &Record) -> bool {
        let renewed = u64::from(record.ttl_s) / 2 + MAX_SKEW.as_secs();
        self.now_s() > record.issued_s.saturating_add(renewed)
    }

    async fn on_fallback(&mut self, answer: Result<Option<FallbackAnswer>, FallbackError>, progress: &mut Progress) {
        progress.fallback_done = true;
        match answer {
            Ok(Some(FallbackAnswer { record, observed })) => {
                if let Some(record) = record {
                    self.offer_of_fallback(record, &observed, progress).await;
                }
                if self.held.is_none() && !progress.answered {
                    if observed.is_empty() {
                        progress.denied = true;
                    } else {
                        self.observed_only(observed, progress).await;
                    }
                }
            }
            Ok(None) => progress.denied = true,
            Err(reason) => tracing::debug!(%reason, "the fallback has no answer"),
        }
    }

    async fn offer_of_fallback(&mut self, record: SignedRecord, observed: &[SocketAddr], progress: &mut Progress) {
        let newer = self.heard.elsewhere.as_ref().is_none_or(|other| other.seq < record.seq);
        if newer && record.clone().verify(&self.inner.acceptance(None)).is_ok() {
            self.heard.elsewhere = Some(record.clone());
        }
        let beyond_dht = self.held.as_ref().is_none_or(|held| held.seq() < record.seq);
        if beyond_dht {
            if let Some(record) = self.believed(record, Source::ControlPlane, progress) {
                self.held = None;
                self.take(record, observed.to_vec(), Source::ControlPlane, progress).await;
            }
        } else if let Some(held) = self.held.take() {
            self.take(held, observed.to_vec(), Source::Dht, progress).await;
        }
    }

    async fn observed_only(&mut self, observed: Vec<SocketAddr>, progress: &mut Progress) {
        let resolved = self.inner.accept(self.key, None, observed, Source::ControlPlane, false).await;
        self.answer(Ok(resolved), progress);
    }

    /// What was held back is the best there is.
    async fn release(&mut self, progress: &mut Progress) {
        if let Some(held) = self.held.take() {
            self.take(held, Vec::new(), Source::Dht, progress).await;
        }
    }

    /// A record, if it is acceptable, and says something new.
    fn believed(&mut self, record: SignedRecord, source: Source, progress: &Progress) -> Option<VerifiedRecord> {
        let seq = record.seq;
        let beside = self.held.as_ref().map(VerifiedRecord::signed).or(self.known.as_ref()).cloned();
        let heard = |heard: &mut Heard| {
            if source == Source::Dht {
                heard.dht = heard.dht.max(Some(seq));
            }
        };
        // The very same again says nothing new; another one of the same `seq` does.
        if (progress.answered || self.held.is_some()) && beside.as_ref() == Some(&record) {
            heard(&mut self.heard);
            return None;
        }
        let copy = record.clone();
        match record.verify_beside(beside.as_ref(), &self.inner.acceptance(beside.as_ref())) {
            Ok(record) => Some(record),
            Err(reason) => {
                let once_right = matches!(reason, Unacceptable::Rollback { .. } | Unacceptable::Expired);
                if once_right && copy.verify_signature().is_ok() {
                    heard(&mut self.heard);
                }
                // Beside a newer one, that some node is a little behind is nothing to complain about.
                if !(progress.answered && matches!(reason, Unacceptable::Rollback { .. })) {
                    not_believed(&self.key, reason);
                }
                None
            }
        }
    }

    async fn take(
        &mut self,
        record: VerifiedRecord,
        observed: Vec<SocketAddr>,
        source: Source,
        progress: &mut Progress,
    ) {
        let new = self.known.is_none();
        self.known = Some(record.signed().clone());
        let resolved = self.inner.accept(self.key, Some(record), observed, source, new).await;
        self.answer(Ok(resolved), progress);
    }

    fn answer(&self, answer: Answer, progress: &mut Progress) {
        if !progress.answered {
            progress.answered = true;
            self.inner.lock_in_flight().remove(&self.key);
            self.sender.send_replace(Some(answer));
        }
    }

    /// No source had it: what was kept from before, if it is not too old, else nothing.
    fn give_up(&self, denied: bool) {
        let peer = self.key.node_id();
        let reason = if denied { ResolveError::NotFound } else { ResolveError::Unreachable };
        tracing::info!(%reason, "Failed to query metadata of {peer}");
        let now = self.now_s();
        let kept = self.known.clone().and_then(|known| known.verify_signature().ok());
        let usable = kept.filter(|kept| {
            // A node that took itself back (validity 0) is not looked for at its old place.
            kept.record().ttl_s > 0
                && now < kept.record().issued_s.saturating_add(self.inner.options.stale_for.as_secs())
        });
        let negative = self.inner.options.negative_ttl;
        let answer = if let Some(record) = usable {
            let stale = record.record().expired(now);
            if stale {
                tracing::info!("Peer metadata is stale: {peer}");
            }
            let resolved =
                Resolved { key: self.key, record: Some(record), observed: Vec::new(), source: Source::Kept, stale };
            let resolved = Arc::new(resolved);
            self.inner.cache(self.key, Cached::Known(Arc::clone(&resolved)), negative);
            Ok(resolved)
        } else {
            if denied {
                self.inner.cache(self.key, Cached::Absent, negative);
            }
            Err(reason)
        };
        self.answer(answer, &mut Progress::default());
    }

    /// Whether the DHT says what is known otherwise; where it says less, it is told, and asked again.
    fn compare(&self) {
        if self.heard.responses == 0 {
            return;
        }
        if !self.heard.whole {
            self.inner.shorten(self.key);
        }
        let elsewhere = self.heard.elsewhere.clone().and_then(|record| record.verify_signature().ok());
        let now_s = self.now_s();
        let elsewhere = elsewhere.filter(|newest| {
            let record = newest.record();
            let settled = record.issued_s.saturating_add(self.inner.options.settled_after.as_secs()) <= now_s;
            settled && !record.expired(now_s) && self.heard.dht < Some(newest.seq())
        });
        let Some(newest) = elsewhere else { return self.inner.disagreements.settled(&self.key) };
        let what = Disagreement { key: self.key, dht: self.heard.dht, known: newest.seq() };
        let now = self.inner.clock.now();
        tracing::info!(
            peer = %self.key.node_id(), kind = what.kind(), dht = ?what.dht, known = what.known,
            "The DHT disagrees with what is known of a peer"
        );
        let first = self.inner.disagreements.note(what, now);
        if self.inner.repairs.allows(now) {
            let (directory, record) = (Arc::clone(&self.inner.directory), newest.signed().clone());
            self.inner.tasks.spawn("tell the DHT", OnEnd::Expected, async move {
                if let Err(reason) = directory.publish(record).await {
                    tracing::debug!(%reason, "the DHT was not told of a newer record");
                }
            });
        }
        if first {
            self.ask_again();
        }
    }

    /// Until the DHT says what others say.
    fn ask_again(&self) {
        let (resolver, inner, key) = (self.resolver.clone(), Arc::clone(&self.inner), self.key);
        let group = self.inner.tasks.clone();
        self.inner.tasks.spawn("ask the DHT again", OnEnd::Expected, async move {
            let mut pause = inner.options.ask_again_after;
            while inner.disagreements.contains(&key) {
                tokio::select! {
                    () = group.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                // What comes of it is noted where it is found out.
                drop(resolver.refresh(key).await);
                pause = inner.options.ask_again_every;
            }
        });
    }

    fn now_s(&self) -> u64 {
        u64::try_from(self.inner.clock.unix_ms() / 1000).unwrap_or(0)
    }
}

/// Somebody offers what is not to be believed: the owner itself with two values at one `seq`, a liar, or a node that is behind.
fn not_believed(key: &PublicKey, reason: Unacceptable) {
    counter!("dwcp_dht_rejected_records_total", "reason" => reason.name()).increment(1);
    if matches!(reason, Unacceptable::Conflict(_)) {
        tracing::warn!(peer = %key.node_id(), %reason, "A peer's metadata was not accepted");
    } else {
        tracing::info!(peer = %key.node_id(), %reason, "A peer's metadata was not accepted");
    }
}

impl Drop for Search {
    /// A search that was broken off must not keep later ones from beginning.
    fn drop(&mut self) {
        if self.sender.borrow().is_none() {
            self.inner.lock_in_flight().remove(&self.key);
        }
    }
}
