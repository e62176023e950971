//! Bounds of what is sent in a second: of a session, of all sessions with a peer, of the whole endpoint. What waits does so before
//! its bytes are handed to QUIC, so that a bound can lie far below what one stream carries.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use foundation_runtime::Clock;
use proto_model::PublicKey;
use tokio::sync::Notify;

use crate::telemetry;

/// What may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(10);
/// The same at the slowest: a few datagrams.
const LEAST_BURST: u64 = 4 * 1024;
/// Bytes of a piece that are handed over together, at least and at most.
const LEAST_SLICE: usize = 1024;
const MOST_SLICE: usize = 64 * 1024;
/// Below so many bits a second pieces of a session go one after the other, so that each arrives soon after it began.
pub(crate) const ONE_BY_ONE_BELOW: u64 = 200_000_000;
/// How often it is counted what was sent.
pub(crate) const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// For so long at most those who come next pay for what was sent beyond the bound.
const MOST_DEBT: Duration = Duration::from_secs(2);
/// Bytes that are taken to wait in QUIC's buffers, at most; or those of a second.
const MOST_BUFFERED: u64 = 2 * 1024 * 1024;
/// Of a datagram: IPv4 and UDP.
pub(crate) const DATAGRAM_OVERHEAD: u64 = 28;
/// A bound counts what the link carries: so much is charged for a thousand bytes of a piece, until what was sent is counted.
const CHARGE_PER_MILLE: u64 = 1035;

/// Bounds for nodes of a fleet, in bits a second; what has none is not bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// All that the endpoint sends.
    pub total: Option<u64>,
    /// What it sends to one peer.
    pub peers: HashMap<PublicKey, u64>,
}

/// The bounds that sessions share.
#[derive(Debug)]
pub(crate) struct Limiters {
    clock: Clock,
    total: Limiter,
    peers: Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    rates: HashMap<PublicKey, u64>,
    /// Of peers with sessions.
    limiters: HashMap<PublicKey, Limiter>,
}

impl Limiters {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { total: Limiter::new(clock.clone(), None), clock, peers: Mutex::default() }
    }

    /// Those of a session with a peer: its own, the peer's, the endpoint's.
    pub(crate) fn of(&self, peer: &PublicKey, own: Option<u64>) -> [Limiter; 3] {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of sessions that are over.
        peers.limiters.retain(|_, limiter| Arc::strong_count(&limiter.0) > 1);
        let bits = peers.rates.get(peer).copied();
        let of_peer = peers.limiters.entry(*peer).or_insert_with(|| Limiter::new(self.clock.clone(), bits));
        [Limiter::new(self.clock.clone(), own), of_peer.clone(), self.total.clone()]
    }

    /// Bits a second of all sessions together.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total.bits()
    }

    pub(crate) fn set(&self, rates: &Rates) {
        self.total.set(rates.total);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.rates.clone_from(&rates.peers);
        for (peer, limiter) in &peers.limiters {
            limiter.set(rates.peers.get(peer).copied());
        }
    }
}

/// One bound. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Bytes a second; 0 for no bound.
    rate: AtomicU64,
    changed: Notify,
    clock: Clock,
    /// Who waits, in the order in which they came.
    queue: tokio::sync::Mutex<()>,
    bucket: Mutex<Bucket>,
}

/// When all that was charged is paid, at a rate.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    paid_at: Instant,
    /// Charged, and not seen to be sent: it waits in QUIC's buffers.
    buffered: u64,
}

impl Bucket {
    /// Goes over to another rate: what is not paid yet lasts longer or shorter, and with no bound it is forgotten.
    fn at(&mut self, rate: u64, now: Instant) {
        let before = std::mem::replace(&mut self.rate, rate);
        if before == rate {
            return;
        }
        let ahead = self.paid_at.saturating_duration_since(now);
        if before == 0 || rate == 0 {
            (self.paid_at, self.buffered) = (now, 0);
        } else {
            let bytes = ahead.as_nanos() * u128::from(before) / 1_000_000_000;
            self.paid_at = now + lasts(u64::try_from(bytes).unwrap_or(u64::MAX), rate);
        }
    }

    /// Charges bytes, where they may go now; or how long that takes yet.
    fn charge(&mut self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let burst = BURST.max(lasts(LEAST_BURST, self.rate));
        let ahead = self.paid_at.saturating_duration_since(now);
        if ahead > burst {
            return Err(ahead - burst);
        }
        self.paid_at = self.paid_at.max(now) + lasts(bytes, self.rate);
        self.buffered = self.buffered.saturating_add(bytes);
        Ok(())
    }

    /// Takes note of what was sent in the last [`SETTLE_EVERY`]. What was not charged before, acknowledgements and what was sent again,
    /// is paid for by the time in which it was sent, and else by those who come next: for so long at most that no peer gives up.
    fn settle(&mut self, sent: u64, now: Instant) {
        let more = sent.saturating_sub(self.buffered);
        self.buffered = self.buffered.saturating_sub(sent).min(MOST_BUFFERED.max(self.rate));
        if self.rate == 0 || more == 0 {
            return;
        }
        let begun = now.checked_sub(SETTLE_EVERY).unwrap_or(now);
        let paid_at = self.paid_at.max(begun) + lasts(more, self.rate);
        self.paid_at = paid_at.min(self.paid_at.max(now + MOST_DEBT));
    }
}

/// So many bytes of a piece are handed over together: little of a slow bound's second.
fn slice_bytes(rate: u64) -> usize {
    match rate {
        0 => usize::MAX,
        rate => usize::try_from(rate / 100).unwrap_or(MOST_SLICE).clamp(LEAST_SLICE, MOST_SLICE),
    }
}

/// How long so many bytes last at a rate.
fn lasts(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(Duration::from_secs(3600))
}

impl Limiter {
    pub(crate) fn new(clock: Clock, bits: Option<u64>) -> Self {
        let bucket = Bucket { rate: 0, paid_at: clock.now(), buffered: 0 };
        let (rate, changed, queue) = (AtomicU64::new(0), Notify::new(), tokio::sync::Mutex::default());
        let limiter = Self(Arc::new(Inner { rate, changed, clock, queue, bucket: Mutex::new(bucket) }));
        limiter.set(bits);
        limiter
    }

    /// Changes the bound, at once also for who waits.
    pub(crate) fn set(&self, bits: Option<u64>) {
        let rate = bits.map_or(0, |bits| (bits / 8).max(1));
        if self.0.rate.swap(rate, Relaxed) != rate {
            // Taken note of now, so that a bound that comes and goes forgets its debts.
            drop(self.bucket());
            self.0.changed.notify_one();
        }
    }

    /// So many bytes of a piece are to be handed over together.
    pub(crate) fn slice(&self) -> usize {
        slice_bytes(self.0.rate.load(Relaxed))
    }

    /// Waits until so many bytes of a piece may go. Cancel safe; who leaves is charged nothing.
    pub(crate) async fn pass(&self, bytes: usize) {
        if self.0.rate.load(Relaxed) == 0 {
            return;
        }
        let cost = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(CHARGE_PER_MILLE) / 1000;
        let _place = self.0.queue.lock().await;
        let mut waited = false;
        loop {
            let changed = self.0.changed.notified();
            let charged = {
                let mut bucket = self.bucket();
                if bucket.rate == 0 {
                    return;
                }
                bucket.charge(cost, self.0.clock.now())
            };
            let Err(wait) = charged else { return };
            if !waited {
                telemetry::rate_wait();
            }
            waited = true;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    /// Takes note of what was sent, with the heads of its datagrams, in the last [`SETTLE_EVERY`].
    pub(crate) fn settle(&self, sent: u64) {
        self.bucket().settle(sent, self.0.clock.now());
    }

    /// At the rate that is in force.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        let mut bucket = self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.at(self.0.rate.load(Relaxed), self.0.clock.now());
        bucket
    }

    /// Bits a second.
    pub(crate) fn bits(&self) -> Option<u64> {
        Some(self.0.rate.load(Relaxed).saturating_mul(8)).filter(|bits| *bits > 0)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn bucket(rate: u64) -> (Bucket, Instant) {
        let now = Clock::system().now();
        (Bucket { rate, paid_at: now, buffered: 0 }, now)
    }

    /// What passes in so many seconds of virtual time, in slices; a part of what passes is sent once more.
    fn passes(bucket: &mut Bucket, from: Instant, seconds: u64, again_per_mille: u64) -> u64 {
        let slice = u64::try_from(slice_bytes(bucket.rate)).unwrap();
        let (mut now, mut passed, mut settled, mut settled_at) = (from, 0, 0, from);
        while now < from + Duration::from_secs(seconds) {
            match bucket.charge(slice, now) {
                Ok(()) => passed += slice,
                Err(wait) => now += wait.max(Duration::from_millis(1)),
            }
            if now >= settled_at + SETTLE_EVERY {
                bucket.settle((passed - settled) * (1000 + again_per_mille) / 1000, now);
                (settled, settled_at) = (passed, now);
            }
        }
        passed
    }

    #[test]
    fn a_bound_holds_within_a_hundredth_at_any_rate() {
        for bits in [64_000_u64, 1_000_000, 20_000_000, 1_000_000_000, 10_000_000_000] {
            let rate = bits / 8;
            for again in [0, 50] {
                let (mut bucket, now) = bucket(rate);
                let sent = passes(&mut bucket, now, 100, again) * (1000 + again) / 1000;
                assert!(sent.abs_diff(rate * 100) <= 2 * rate + 64 * 1024, "{bits}, {again}: {sent}");
            }
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_burst() {
        let (mut bucket, now) = bucket(1_000_000);
        let passed = passes(&mut bucket, now + Duration::from_secs(3600), 1, 0);
        assert!(passed < 1_030_000, "{passed}");
    }

    #[test]
    fn what_was_sent_within_the_bound_leaves_no_debt_and_what_went_beyond_it_a_short_one() {
        let (mut bucket, mut now) = bucket(2_500_000);
        // Eight hours of acknowledgements, a quarter of the bound.
        for _ in 0..8 * 3600 {
            now += SETTLE_EVERY;
            bucket.settle(600_000, now);
        }
        assert_eq!(bucket.charge(1000, now), Ok(()));
        now += SETTLE_EVERY;
        bucket.settle(1 << 30, now);
        let wait = bucket.charge(1000, now).unwrap_err();
        assert!(wait <= MOST_DEBT, "{wait:?}");
    }

    #[test]
    fn another_rate_holds_for_what_is_not_paid_yet_and_no_bound_forgets_it() {
        let (mut bucket, now) = bucket(1_000);
        bucket.charge(60_000, now).unwrap();
        bucket.at(1_000_000, now);
        assert!(bucket.charge(1, now).unwrap_err() < Duration::from_millis(60));
        bucket.at(0, now);
        bucket.at(1_000, now);
        assert_eq!(bucket.charge(1, now), Ok(()));
    }

    #[tokio::test]
    async fn who_waits_is_let_go_when_the_bound_is_lifted() {
        let limiter = Limiter::new(Clock::system(), Some(8_000));
        limiter.pass(60_000).await;
        let mut waiting = Box::pin(limiter.pass(1));
        assert!((&mut waiting).now_or_never().is_none());
        limiter.set(None);
        waiting.await;
    }
}
