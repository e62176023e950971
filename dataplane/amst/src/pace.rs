//! How much may be under way to a reader: what it takes in the life of a piece.
//!
//! A piece lives from the credit for it until its reader is done: half a round trip until the sender knows of it, half until the piece comes,
//! one for what was lost, sometimes a second, and the reader's own time.
//!
//! More would lie in memory until the reader comes to it, and be lost with this program. Growth doubles with every round trip, as
//! long as the reader takes all that comes.

use std::time::{Duration, Instant};

/// Always: a few largest pieces for every thread that reads.
const LEAST: u64 = 8 * 1024 * 1024;

/// A shorter round trip counts as so long: who reads is not woken sooner.
const LEAST_ROUND: Duration = Duration::from_millis(20);

/// A piece's life: so many round trips, and the reader's time.
const LIFE_ROUNDS: u32 = 4;
const READS: Duration = Duration::from_millis(40);

/// After a round in which less was taken, this part of the difference goes.
const DECAY: u64 = 16;

/// Measures what a reader takes. All numbers are bytes of cost.
#[derive(Debug)]
pub(crate) struct Pace {
    limit: u64,
    /// Of this round.
    since: Option<Instant>,
    taken: u64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { limit: LEAST, since: None, taken: 0 }
    }

    #[cfg(test)]
    pub(crate) fn unbounded() -> Self {
        Self { limit: u64::MAX, ..Self::new() }
    }

    /// What may be promised.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The reader is done with so many bytes.
    pub(crate) fn taken(&mut self, bytes: u64, now: Instant, round_trip: impl FnOnce() -> Duration) {
        self.taken = self.taken.saturating_add(bytes);
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed < LEAST_ROUND {
            return;
        }
        let round_trip = round_trip();
        if elapsed < round_trip.max(LEAST_ROUND) {
            return;
        }
        let life = round_trip * LIFE_ROUNDS + READS;
        let in_a_life = u128::from(self.taken) * life.as_micros() / elapsed.as_micros().max(1);
        let wanted = u64::try_from(in_a_life).unwrap_or(u64::MAX).max(LEAST);
        self.limit = if wanted > self.limit { wanted } else { self.limit - (self.limit - wanted) / DECAY };
        (self.since, self.taken) = (Some(now), 0);
    }
}

#[cfg(test)]
mod tests {
    use foundation_runtime::Clock;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// So many rounds of this length, in each of which the reader takes the smaller of what is there and what it can.
    fn after(pace: &mut Pace, rounds: u32, round: Duration, able: u64) -> u64 {
        let mut now = pace.since.unwrap_or_else(|| Clock::system().now());
        pace.taken(0, now, || round);
        for _ in 0..rounds {
            now += round;
            let takes = able.min(pace.limit());
            pace.taken(takes, now, || round);
        }
        pace.limit()
    }

    #[test]
    fn a_reader_that_takes_all_gets_several_times_as_much_each_round_trip_however_long() {
        let mut pace = Pace::new();
        let round = Duration::from_millis(500);
        assert_eq!(pace.limit(), LEAST);
        assert!(after(&mut pace, 1, round, u64::MAX) >= 4 * LEAST);
        assert!(after(&mut pace, 1, round, u64::MAX) >= 16 * LEAST);
    }

    #[test]
    fn a_piece_may_live_as_long_as_two_repairs_take_without_its_sender_having_to_wait() {
        // 300 Mbit/s over 100 ms; of each piece something is lost, and repaired.
        let mut pace = Pace::new();
        let round = Duration::from_millis(100);
        let rate = 37_500_000 / 10;
        assert!(after(&mut pace, 20, round, rate) >= 4 * rate);
    }

    #[test]
    fn for_a_slow_reader_no_more_is_under_way_than_it_takes_soon() {
        let mut pace = Pace::new();
        after(&mut pace, 5, Duration::from_millis(100), u64::MAX);
        // 50 MB/s over a round trip that counts as 20 ms: 1 MB at a time.
        assert!(after(&mut pace, 200, Duration::from_millis(20), MIB) < LEAST + MIB);
    }

    #[test]
    fn a_short_round_trip_is_not_measured_shorter_than_a_reader_wakes() {
        let mut pace = Pace::new();
        let mut now = Clock::system().now();
        // 1 GB/s, a piece each millisecond.
        for _ in 0..100 {
            pace.taken(MIB, now, || Duration::from_micros(100));
            now += Duration::from_millis(1);
        }
        assert!((30 * MIB..50 * MIB).contains(&pace.limit()), "{}", pace.limit());
    }
}
