//! Bounds of what is sent in a second: of a session, of all sessions with a peer, of the whole endpoint. What waits does so before
//! its bytes are handed to QUIC, so that a bound can lie far below what one stream carries.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use foundation_runtime::Clock;
use proto_model::PublicKey;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::telemetry;

/// What may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(10);
/// The same at the slowest: a few datagrams.
const LEAST_BURST: u64 = 4 * 1024;
/// Bytes of a piece that are handed over together, at least and at most.
const LEAST_SLICE: usize = 4 * 1024;
const MOST_SLICE: usize = 64 * 1024;
/// Below so many bits a second pieces of a session go one after the other, so that each arrives soon after it began.
const ONE_BY_ONE_BELOW: u64 = 200_000_000;
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
    peers: std::sync::Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    rates: HashMap<PublicKey, u64>,
    /// Of peers with sessions.
    limiters: HashMap<PublicKey, Limiter>,
}

impl Limiters {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { total: Limiter::new(clock.clone(), None), clock, peers: std::sync::Mutex::default() }
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
    /// Who sends a piece, where they go one by one.
    turn: Mutex<()>,
    /// In the order in which they came.
    bucket: Mutex<Bucket>,
    /// Charged so far, and sent so far as it was counted.
    charged: AtomicU64,
    sent: AtomicU64,
    /// Sent and not yet charged.
    owed: AtomicU64,
}

/// When all that was charged is paid.
#[derive(Debug)]
struct Bucket {
    paid_at: Instant,
}

impl Bucket {
    /// Charges bytes, where they may go now; or how long that takes yet.
    fn charge(&mut self, bytes: u64, rate: u64, now: Instant) -> Result<(), Duration> {
        let burst = BURST.max(lasts(LEAST_BURST, rate));
        let ahead = self.paid_at.saturating_duration_since(now);
        if ahead > burst {
            return Err(ahead - burst);
        }
        self.paid_at = self.paid_at.max(now) + lasts(bytes, rate);
        Ok(())
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
        let now = clock.now();
        let limiter = Self(Arc::new(Inner {
            rate: AtomicU64::new(0),
            changed: Notify::new(),
            clock,
            turn: Mutex::default(),
            bucket: Mutex::new(Bucket { paid_at: now }),
            charged: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            owed: AtomicU64::new(0),
        }));
        limiter.set(bits);
        limiter
    }

    /// Changes the bound, at once also for who waits.
    pub(crate) fn set(&self, bits: Option<u64>) {
        let rate = bits.map_or(0, |bits| (bits / 8).max(1));
        if self.0.rate.swap(rate, Relaxed) != rate {
            self.0.changed.notify_one();
        }
    }

    /// So many bytes of a piece are to be handed over together.
    pub(crate) fn slice(&self) -> usize {
        slice_bytes(self.0.rate.load(Relaxed))
    }

    /// Waits for one's turn to send a piece; none where pieces may go side by side, by the lowest bound that concerns them.
    pub(crate) async fn turn(&self, lowest: Option<u64>) -> Option<MutexGuard<'_, ()>> {
        let one_by_one = lowest.is_some_and(|bits| bits < ONE_BY_ONE_BELOW);
        if one_by_one { Some(self.0.turn.lock().await) } else { None }
    }

    /// Waits until so many bytes of a piece may go. Cancel safe; who leaves is charged nothing.
    pub(crate) async fn pass(&self, bytes: usize) {
        if self.0.rate.load(Relaxed) == 0 {
            return;
        }
        let cost = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(CHARGE_PER_MILLE) / 1000;
        let mut bucket = self.0.bucket.lock().await;
        let mut waited = false;
        loop {
            let changed = self.0.changed.notified();
            let rate = self.0.rate.load(Relaxed);
            if rate == 0 {
                return;
            }
            let owed = self.0.owed.load(Relaxed);
            match bucket.charge(cost + owed, rate, self.0.clock.now()) {
                Ok(()) => {
                    self.0.owed.fetch_sub(owed, Relaxed);
                    self.0.charged.fetch_add(cost, Relaxed);
                    return;
                }
                Err(wait) => {
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
        }
    }

    /// Charges what was sent beyond what was charged, acknowledgements and what was sent again: whoever sends next pays for it.
    pub(crate) fn settle(&self, sent: u64) {
        let all = self.0.sent.fetch_add(sent, Relaxed) + sent;
        let more = all.saturating_sub(self.0.charged.fetch_max(all, Relaxed));
        if self.0.rate.load(Relaxed) > 0 {
            self.0.owed.fetch_add(more, Relaxed);
        }
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

    /// What passes in so many seconds of a manual clock, in slices, and how often it had to wait.
    fn passes(bucket: &mut Bucket, from: Instant, seconds: u64, slice: u64, rate: u64) -> u64 {
        let (mut now, mut passed) = (from, 0);
        while now < from + Duration::from_secs(seconds) {
            match bucket.charge(slice, rate, now) {
                Ok(()) => passed += slice,
                Err(wait) => now += wait.max(Duration::from_millis(1)),
            }
        }
        passed
    }

    #[test]
    fn a_bound_holds_within_a_hundredth_at_any_rate() {
        for bits in [64_000_u64, 1_000_000, 20_000_000, 1_000_000_000, 10_000_000_000] {
            let rate = bits / 8;
            let now = Clock::system().now();
            let mut bucket = Bucket { paid_at: now };
            let slice = u64::try_from(slice_bytes(rate)).unwrap();
            let passed = passes(&mut bucket, now, 100, slice, rate);
            assert!(passed.abs_diff(rate * 100) <= rate + slice, "{bits}: {passed}");
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_burst() {
        let now = Clock::system().now();
        let mut bucket = Bucket { paid_at: now };
        let later = now + Duration::from_secs(3600);
        let passed = passes(&mut bucket, later, 1, 4096, 1_000_000);
        assert!(passed < 1_030_000, "{passed}");
    }

    #[tokio::test]
    async fn who_waits_is_let_go_when_the_bound_is_lifted_and_debts_are_paid_by_the_next() {
        let limiter = Limiter::new(Clock::system(), Some(8_000));
        limiter.pass(60_000).await;
        let mut waiting = Box::pin(limiter.pass(1));
        assert!((&mut waiting).now_or_never().is_none());
        limiter.set(None);
        waiting.await;

        limiter.set(Some(8_000_000));
        limiter.settle(1_000_000);
        assert_eq!(limiter.0.owed.load(Relaxed), 1_000_000 - 60_000 * CHARGE_PER_MILLE / 1000);
    }
}
