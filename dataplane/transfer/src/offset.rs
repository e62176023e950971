//! How far this host's clock is ahead of the control plane's, as the session with it said last.

use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use foundation_runtime::Clock;
use tokio::sync::watch;

use crate::service::Transfers;

/// A clock that moved by more than this against the monotonic one was set, or the host slept.
const STEP: TimeDelta = TimeDelta::seconds(2);

#[derive(Debug, Default)]
pub(crate) struct Offset(watch::Sender<Option<Said>>);

#[derive(Clone, Copy, Debug)]
struct Said {
    ahead: TimeDelta,
    at: DateTime<Utc>,
    when: Instant,
}

impl Offset {
    fn set(&self, clock: &Clock, ahead: TimeDelta) {
        let said = Said { ahead, at: clock.utc(), when: clock.now() };
        self.0.send_replace(Some(said));
    }

    /// None where nobody said it since this program was started, or this host's clock was set after that.
    pub(crate) fn ahead(&self, clock: &Clock) -> Option<TimeDelta> {
        let said = (*self.0.borrow())?;
        said.ahead_at(clock.utc(), clock.now())
    }

    /// Waits until it is said anew. Cancel safe.
    pub(crate) async fn said(&self) {
        if self.0.subscribe().changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Said {
    fn ahead_at(self, utc: DateTime<Utc>, now: Instant) -> Option<TimeDelta> {
        let passed = TimeDelta::from_std(now.saturating_duration_since(self.when)).ok()?;
        ((utc - self.at - passed).abs() <= STEP).then_some(self.ahead)
    }
}

impl Transfers {
    /// This host's clock is ahead of the control plane's by so much: deadlines that were given to that one are kept by its clock.
    pub fn is_ahead_of_control_plane(&self, ahead: TimeDelta) {
        self.0.offset.set(&self.0.clock, ahead);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_said_holds_until_the_clock_is_set() {
        let (clock, turn) = Clock::manual(DateTime::UNIX_EPOCH);
        let offset = Offset::default();
        assert_eq!(offset.ahead(&clock), None);
        offset.set(&clock, TimeDelta::minutes(4));
        turn.advance(Duration::from_secs(3600));
        assert_eq!(offset.ahead(&clock), Some(TimeDelta::minutes(4)));
        let said = offset.0.borrow().unwrap();
        for step in [TimeDelta::minutes(-4), TimeDelta::minutes(4)] {
            assert_eq!(said.ahead_at(clock.utc() + step, clock.now()), None);
        }
        assert!(said.ahead_at(clock.utc() + TimeDelta::seconds(1), clock.now()).is_some());
    }
}
