//! quinn's token bucket, line by line: 1.25 windows in a smoothed round trip, in bursts of about two milliseconds.

use crate::link::{MS, Nanos, scaled};

/// Datagrams of a burst at least and at most.
const BURST: (u64, u64) = (10, 256);

/// A connection's bucket.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    capacity: u64,
    window: u64,
    tokens: u64,
    before: Nanos,
}

impl Pacer {
    /// A full bucket.
    #[must_use]
    pub(crate) fn new(rtt: Nanos, window: u64, mtu: u64, now: Nanos) -> Self {
        let capacity = capacity(rtt, window, mtu);
        Self { capacity, window, tokens: capacity, before: now }
    }

    /// A packet left.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// When the next packet may leave, if not now.
    pub(crate) fn delay(&mut self, rtt: Nanos, bytes: u64, mtu: u64, window: u64, now: Nanos) -> Option<Nanos> {
        if window != self.window {
            self.capacity = capacity(rtt, window, mtu);
            self.tokens = self.tokens.min(self.capacity);
            self.window = window;
        }
        if self.tokens >= bytes || rtt == 0 {
            return None;
        }
        let elapsed = now.saturating_sub(self.before);
        let new = u64::try_from(u128::from(scaled(window, 1.25)) * u128::from(elapsed) / u128::from(rtt)).unwrap_or(0);
        self.tokens = (self.tokens + new).min(self.capacity);
        self.before = now;
        if self.tokens >= bytes {
            return None;
        }
        let missing = bytes.max(self.capacity) - self.tokens;
        Some(now + u64::try_from(u128::from(rtt) * u128::from(missing) / u128::from(window)).unwrap_or(MS) / 5 * 4)
    }
}

fn capacity(rtt: Nanos, window: u64, mtu: u64) -> u64 {
    let burst = u64::try_from(u128::from(window) * u128::from(2 * MS) / u128::from(rtt.max(1))).unwrap_or(u64::MAX);
    burst.clamp(BURST.0 * mtu, BURST.1 * mtu)
}
