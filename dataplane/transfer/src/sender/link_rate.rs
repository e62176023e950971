//! What the path to the receiver carries, as far as it shows: so that no more is done to make bytes small than they are worth.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How much a second of a rate counts against those before.
const NEWEST: f64 = 0.5;
/// By how much a path is taken to be faster than what it was given, where encoding holds it up.
const GUESS: f64 = 1.5;

/// Bytes a second of encoded data.
#[derive(Debug, Default)]
pub(super) struct LinkRate(AtomicU64);

/// What was seen over a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) sent_bytes: u64,
    pub(super) over: Duration,
    /// As much is under way as may be: the path, or the receiver, holds this end up.
    pub(super) window_full: bool,
    /// All threads encode.
    pub(super) encoding: bool,
}

impl LinkRate {
    /// Takes what was seen. What moved little because there was little to move says nothing.
    pub(super) fn see(&self, seen: Seen) {
        let seconds = seen.over.as_secs_f64();
        if seen.sent_bytes == 0 || seconds <= 0.0 {
            return;
        }
        let rate = crate::tally::float(seen.sent_bytes) / seconds;
        let before = crate::tally::float(self.0.load(Relaxed));
        let now = match (seen.window_full, seen.encoding) {
            (true, _) if before > 0.0 => before + (rate - before) * NEWEST,
            (true, _) => rate,
            (false, true) => before.max(rate * GUESS),
            (false, false) => return,
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of bytes, far below 2^63")]
        self.0.store(now as u64, Relaxed);
    }

    /// For each of so many threads; none where nothing is known.
    pub(super) fn of_each(&self, threads: usize) -> Option<u64> {
        let rate = self.0.load(Relaxed);
        (rate > 0).then(|| rate / u64::try_from(threads.max(1)).unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_what_a_full_window_moves_and_more_where_encoding_holds_it_up() {
        let rate = LinkRate::default();
        let seen = |sent_bytes, window_full, encoding| Seen {
            sent_bytes,
            over: Duration::from_secs(2),
            window_full,
            encoding,
        };
        rate.see(seen(100, false, false));
        assert_eq!(rate.of_each(4), None);
        rate.see(seen(8000, true, false));
        assert_eq!(rate.of_each(4), Some(1000));
        rate.see(seen(4000, true, true));
        assert_eq!(rate.of_each(1), Some(3000));
        rate.see(seen(40_000, false, true));
        assert_eq!(rate.of_each(1), Some(30_000));
        rate.see(seen(10, false, true));
        assert_eq!(rate.of_each(1), Some(30_000));
    }
}
