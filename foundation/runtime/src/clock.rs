//! Time as an argument: one clock, handed to whatever asks for the time, so that a test can turn it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, Utc};

/// The source of time of a program. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    base: Instant,
    start: DateTime<Utc>,
    passed: Mutex<Duration>,
}

/// Turns a manual clock.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `start` until it is turned.
    #[must_use]
    pub fn manual(start: DateTime<Utc>) -> (Self, ManualClock) {
        let manual = Arc::new(Manual { base: monotonic_now(), start, passed: Mutex::new(Duration::ZERO) });
        (Self(Source::Manual(Arc::clone(&manual))), ManualClock(manual))
    }

    /// The monotonic time: for durations.
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::System => monotonic_now(),
            Source::Manual(manual) => manual.base + manual.passed(),
        }
    }

    /// The time of day: for what is stored or shown.
    #[must_use]
    pub fn utc(&self) -> DateTime<Utc> {
        match &self.0 {
            Source::System => DateTime::<Utc>::from(wall_now()),
            Source::Manual(manual) => manual.start + manual.passed(),
        }
    }

    /// The time of day in milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(&self) -> i64 {
        self.utc().timestamp_millis()
    }
}

impl Manual {
    fn passed(&self) -> Duration {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ManualClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        *self.0.passed.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock")]
fn monotonic_now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "this is the clock")]
fn wall_now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_turned() {
        let start = DateTime::<Utc>::UNIX_EPOCH;
        let (clock, hand) = Clock::manual(start);
        let before = clock.now();
        hand.advance(Duration::from_secs(90));
        assert_eq!(clock.now() - before, Duration::from_secs(90));
        assert_eq!(clock.unix_ms(), 90_000);
    }
}
