//! How often one caller may call what costs more than it looks.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Callers that are counted apart. Beyond it the counts begin anew: a bound on memory, not on who may call.
const MAX_KEYS: usize = 10_000;

/// At most so many calls of one key in a window.
#[derive(Debug)]
pub(crate) struct RateLimit<K> {
    calls: u32,
    window: Duration,
    counts: Mutex<HashMap<K, (Instant, u32)>>,
}

impl<K: Eq + Hash> RateLimit<K> {
    pub(crate) fn new(calls: u32, window: Duration) -> Self {
        Self { calls, window, counts: Mutex::default() }
    }

    /// Counts a call. When it is one too many, says after how long to come again.
    pub(crate) fn admit(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MAX_KEYS {
            counts.retain(|_, (begun, _)| now.duration_since(*begun) < self.window);
            if counts.len() >= MAX_KEYS {
                counts.clear();
            }
        }
        let (begun, count) = counts.entry(key).or_insert((now, 0));
        if now.duration_since(*begun) >= self.window {
            (*begun, *count) = (now, 0);
        }
        if *count >= self.calls {
            return Err(self.window.saturating_sub(now.duration_since(*begun)));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foundation_runtime::Clock;

    use super::*;

    #[test]
    fn a_window_has_so_many_calls_and_the_next_one_as_many() {
        let limit = RateLimit::new(2, Duration::from_mins(1));
        let now = Clock::system().now();
        assert!(limit.admit("a", now).is_ok() && limit.admit("a", now).is_ok());
        assert_eq!(limit.admit("a", now + Duration::from_secs(20)), Err(Duration::from_secs(40)));
        assert!(limit.admit("b", now).is_ok());
        assert!(limit.admit("a", now + Duration::from_mins(1)).is_ok());
    }
}
