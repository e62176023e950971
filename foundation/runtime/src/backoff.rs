//! Growing, jittered delays between retries.
//!
//! Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): the delay is drawn evenly from zero to a ceiling
//! that doubles, so that a fleet that lost the same server does not come back in step.

use std::time::Duration;

/// The delays of one retry loop.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Delays up to `first` at the beginning, never above `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, ceiling: first.min(max) }
    }

    /// The next delay: at least an eighth of the ceiling, so that a loop never spins.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(self.max);
        let share = rand::random_range(0.125..=1.0);
        ceiling.mul_f64(share)
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.first.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for _ in 0..20 {
            let delay = backoff.next_delay();
            assert!(delay >= Duration::from_millis(12) && delay <= Duration::from_secs(5));
        }
        assert_eq!(backoff.ceiling, Duration::from_secs(5));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
