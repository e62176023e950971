//! When a sync's next run is due. Pure: time and chance are arguments.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proto_model::SyncId;

/// The first pause after a run that failed; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest: whoever mends what was wrong should not wait longer for the sync to see it. A longer interval counts as it is.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// The longest wait at a start of the agent, so that all syncs of all agents do not begin at once.
const MAX_JITTER: Duration = Duration::from_secs(30);

/// What is known of the runs of a sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    /// When the last run, or look, began.
    pub(super) began: Option<DateTime<Utc>>,
    /// Runs that failed, one after the other.
    pub(super) failures: u32,
    /// At a start of the agent nothing begins before this.
    pub(super) not_before: Option<DateTime<Utc>>,
    /// How much later the next one is due.
    pub(super) spread: Duration,
}

/// A sync's place among all: from 0 to 1, always the same.
pub(super) fn share(id: SyncId) -> f64 {
    // The end of its id is random.
    let [.., a, b, c, d] = *id.uuid().as_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

/// How much later than others of its interval a sync of this place runs.
pub(super) fn spread(every: Duration, share: f64) -> Duration {
    (every / 10).min(MAX_JITTER).mul_f64(share.clamp(0.0, 1.0))
}

impl Schedule {
    /// After a start of the agent: a share of the interval is waited for.
    pub(super) fn after_start(self, every: Duration, share: f64, now: DateTime<Utc>) -> Self {
        Self { not_before: Some(later(now, spread(every, share))), ..self }
    }

    /// A clock that was set back does not hold a sync up for longer than its interval: what lies after now began now.
    pub(super) fn heed_clock(&mut self, now: DateTime<Utc>) {
        self.began = self.began.map(|began| began.min(now));
        self.not_before = self.not_before.filter(|not_before| *not_before <= later(now, MAX_JITTER));
    }

    /// When the next run is due: `every` after the last one began, so right after its end where it took longer; later where runs fail.
    pub(super) fn next(&self, every: Duration, now: DateTime<Utc>) -> DateTime<Utc> {
        let Some(began) = self.began else { return self.not_before.unwrap_or(now).max(now) };
        let pause = match self.failures {
            0 => every,
            failures => every.max(backoff(failures)),
        };
        let pause = pause.saturating_add(self.spread);
        self.not_before.map_or(later(began, pause), |not_before| later(began, pause).max(not_before))
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)));
    doubled.min(MAX_BACKOFF)
}

fn later(time: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(by).ok().and_then(|by| time.checked_add_signed(by)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
    }

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn a_run_is_due_an_interval_after_the_last_one_began_or_right_after_a_longer_one() {
        let schedule = Schedule { began: Some(at(0)), ..Schedule::default() };
        assert_eq!(schedule.next(EVERY, at(3)), at(10));
        assert!(schedule.next(EVERY, at(25)) <= at(25));
        assert_eq!(Schedule::default().next(EVERY, at(5)), at(5));
    }

    #[test]
    fn a_clock_that_was_set_back_holds_a_sync_up_for_an_interval_at_most() {
        let started = Schedule { began: Some(at(0)), ..Schedule::default() }.after_start(EVERY, 1.0, at(0));
        let mut schedule = started;
        // It is looked again and again, and due in the end.
        let due = (0..20).map(|second| at(second - 1000)).find(|now| {
            schedule.heed_clock(*now);
            schedule.next(EVERY, *now) <= *now
        });
        assert_eq!(due, Some(at(-990)));
        // What is not over yet is kept.
        let mut schedule = started;
        schedule.heed_clock(at(0));
        assert_eq!(schedule, started);
    }

    #[test]
    fn runs_that_fail_come_ever_more_seldom_up_to_a_bound() {
        let after = |failures| Schedule { began: Some(at(0)), failures, ..Schedule::default() };
        let pauses: Vec<_> =
            (0..12).map(|failures| (after(failures).next(EVERY, at(1)) - at(0)).num_seconds()).collect();
        assert_eq!(pauses, [10, 10, 10, 10, 10, 16, 32, 64, 128, 256, 300, 300]);
        let seldom = Duration::from_secs(3600);
        assert_eq!(after(40).next(seldom, at(1)), at(3600));
    }

    #[test]
    fn syncs_of_one_interval_have_each_a_place_of_their_own_and_keep_it() {
        let ids = (0..256_u16).map(|n| {
            SyncId::from_parts(7, proto_model::Digest::blake3(&n.to_le_bytes()).as_bytes().first_chunk().unwrap())
        });
        let mut places: Vec<f64> = ids.map(share).collect();
        places.sort_unstable_by(f64::total_cmp);
        assert!(places[0] >= 0.0 && places[255] <= 1.0);
        // Of ten parts of the time, none has twice its share.
        for part in 0..10_i32 {
            let part = f64::from(part) / 10.0;
            let there = places.iter().filter(|place| (part..part + 0.1).contains(*place)).count();
            assert!((8..=48).contains(&there), "{there} from {part}");
        }
        let minutes = Duration::from_secs(300);
        let schedule = Schedule { began: Some(at(0)), spread: spread(minutes, 0.5), ..Schedule::default() };
        assert_eq!(schedule.next(minutes, at(1)), at(315));
    }

    #[test]
    fn a_start_is_spread_over_a_share_of_the_interval() {
        let schedule = Schedule::default();
        assert_eq!(schedule.after_start(EVERY, 0.5, at(0)).next(EVERY, at(0)), at(0) + TimeDelta::milliseconds(500));
        let hour = Duration::from_secs(36_000);
        assert_eq!(schedule.after_start(hour, 1.0, at(0)).next(hour, at(0)), at(30));
    }
}
