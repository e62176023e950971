//! How many sessions may begin in a second, and when those come back who are sent away.
//!
//! After a restart all agents of a server come at once. What each costs is known (its transaction and what it is told), so that so many a
//! second are let in as the server and its database carry, and each of the others is given a time of its own: one after the other, at that
//! same pace.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use proto_model::NodeUid;
use rand::RngExt;

/// What is counted.
const SECOND: Duration = Duration::from_secs(1);

/// Sessions of one node in a second: one that broke off at once may be begun anew.
const MOST_OF_ONE: usize = 3;

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
    begun: VecDeque<(Instant, NodeUid)>,
    /// When the last one who was sent away comes back.
    booked: Option<Instant>,
    /// When each comes back who was sent away. One that asks sooner is told the same: nobody takes more places than one.
    bookings: HashMap<NodeUid, Instant>,
}

impl Arrivals {
    /// So many in any second.
    pub(super) fn new(most: u32) -> Self {
        Self { most: most.max(1), state: Mutex::default() }
    }

    /// Lets one in, or says after how many seconds it should come again.
    pub(super) fn admit(&self, node: NodeUid, now: Instant) -> Result<(), u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.begun.front().is_some_and(|(begun, _)| now.saturating_duration_since(*begun) >= SECOND) {
            state.begun.pop_front();
        }
        let most = usize::try_from(self.most).unwrap_or(usize::MAX);
        if state.begun.iter().filter(|(_, whose)| *whose == node).count() >= MOST_OF_ONE {
            return Err(1);
        }
        if state.begun.len() < most {
            state.begun.push_back((now, node));
            state.bookings.remove(&node);
            return Ok(());
        }
        if let Some(booked) = state.bookings.get(&node).filter(|booked| **booked > now) {
            return Err(seconds(*booked - now));
        }
        let booked = state.booked.map_or(now, |booked| booked.max(now)) + SECOND / self.most;
        let mut wait = booked - now;
        if wait > LONGEST {
            wait = LONGEST.mul_f64(rand::rng().random_range(0.5..=1.0));
        } else {
            state.booked = Some(booked);
        }
        if state.bookings.len() > most.saturating_mul(2 * 60) {
            state.bookings.retain(|_, booked| *booked > now);
        }
        state.bookings.insert(node, now + wait);
        Err(seconds(wait))
    }
}

fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use foundation_runtime::Clock;

    use super::*;

    fn node() -> NodeUid {
        NodeUid::new(uuid::Uuid::new_v4())
    }

    #[test]
    fn one_that_asks_without_end_takes_no_more_than_its_own_place() {
        let (arrivals, now) = (Arrivals::new(10), Clock::system().now());
        let greedy = node();
        assert_eq!((0..1000).filter(|_| arrivals.admit(greedy, now).is_ok()).count(), MOST_OF_ONE);
        let others = (0..10).filter(|_| arrivals.admit(node(), now).is_ok()).count();
        assert_eq!(others, 10 - MOST_OF_ONE);
        // Nor does who was sent away push the others back by asking again.
        let late = node();
        assert!((0..1000).all(|_| arrivals.admit(late, now) == Err(1)));
        assert_eq!(arrivals.admit(node(), now), Err(1));
    }

    #[test]
    fn no_second_has_more_than_it_may_and_the_others_come_back_at_that_pace() {
        let (arrivals, begun) = (Arrivals::new(10), Clock::system().now());
        let waits: Vec<_> = (0..110).map(|_| arrivals.admit(node(), begun)).collect();
        assert_eq!(waits.iter().filter(|wait| wait.is_ok()).count(), 10);
        let after = |seconds| waits.iter().filter(|wait| **wait == Err(seconds)).count();
        assert!((1..=10).all(|seconds| after(seconds) == 10), "{waits:?}");

        let mut let_in = Vec::new();
        for step in 0..500 {
            let now = begun + Duration::from_millis(10) * step;
            if arrivals.admit(node(), now).is_ok() {
                let_in.push(now);
            }
        }
        assert_eq!(let_in.len(), 40, "four whole seconds, and none of the first");
        assert!(let_in.windows(11).all(|eleven| eleven[10] - eleven[0] >= SECOND));
    }

    #[test]
    fn nobody_is_sent_away_for_very_long() {
        let (arrivals, now) = (Arrivals::new(1), Clock::system().now());
        let waits: Vec<_> = (0..1000).filter_map(|_| arrivals.admit(node(), now).err()).collect();
        assert!(waits.iter().all(|wait| (1..=60).contains(wait)));
        assert!(waits[100..].iter().all(|wait| *wait >= 30));
    }
}
