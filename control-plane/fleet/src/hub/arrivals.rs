//! How many sessions may begin in a second, and when those come back who are sent away.
//!
//! After a restart all agents of a server come at once. What each costs is known (its transaction and what it is told), so that so many a
//! second are let in as the server and its database carry, and each of the others is given a time of its own: one after the other, at that
//! same pace.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rand::RngExt;

/// What is counted.
const SECOND: Duration = Duration::from_secs(1);

/// Nobody is sent away for longer at once; of a longer queue the rest is spread over the last half of it.
const LONGEST: Duration = Duration::from_mins(1);

/// The sessions that began in the last second.
#[derive(Debug)]
pub(super) struct Arrivals {
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Within the last second, the oldest first: never more than may begin in one.
    begun: VecDeque<Instant>,
    /// When the last one who was sent away comes back.
    booked: Option<Instant>,
}

impl Arrivals {
    /// So many in any second.
    pub(super) fn new(most: u32) -> Self {
        Self { most: most.max(1), state: Mutex::default() }
    }

    /// Lets one in, or says after how many seconds it should come again.
    pub(super) fn admit(&self, now: Instant) -> Result<(), u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.begun.front().is_some_and(|begun| now.saturating_duration_since(*begun) >= SECOND) {
            state.begun.pop_front();
        }
        if state.begun.len() < usize::try_from(self.most).unwrap_or(usize::MAX) {
            state.begun.push_back(now);
            return Ok(());
        }
        let booked = state.booked.map_or(now, |booked| booked.max(now)) + SECOND / self.most;
        let mut wait = booked - now;
        if wait > LONGEST {
            wait = LONGEST.mul_f64(rand::rng().random_range(0.5..=1.0));
        } else {
            state.booked = Some(booked);
        }
        Err(u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use foundation_runtime::Clock;

    use super::*;

    #[test]
    fn no_second_has_more_than_it_may_and_the_others_come_back_at_that_pace() {
        let (arrivals, begun) = (Arrivals::new(10), Clock::system().now());
        let waits: Vec<_> = (0..110).map(|_| arrivals.admit(begun)).collect();
        assert_eq!(waits.iter().filter(|wait| wait.is_ok()).count(), 10);
        let after = |seconds| waits.iter().filter(|wait| **wait == Err(seconds)).count();
        assert!((1..=10).all(|seconds| after(seconds) == 10), "{waits:?}");

        let mut let_in = Vec::new();
        for step in 0..500 {
            let now = begun + Duration::from_millis(10) * step;
            if arrivals.admit(now).is_ok() {
                let_in.push(now);
            }
        }
        assert_eq!(let_in.len(), 40, "four whole seconds, and none of the first");
        assert!(let_in.windows(11).all(|eleven| eleven[10] - eleven[0] >= SECOND));
    }

    #[test]
    fn nobody_is_sent_away_for_very_long() {
        let (arrivals, now) = (Arrivals::new(1), Clock::system().now());
        let waits: Vec<_> = (0..1000).filter_map(|_| arrivals.admit(now).err()).collect();
        assert!(waits.iter().all(|wait| (1..=60).contains(wait)));
        assert!(waits[100..].iter().all(|wait| *wait >= 30));
    }
}
