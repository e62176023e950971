//! The rate at which a session's bytes arrive, from sends and acknowledgments alone (draft-ietf-ccwg-bbr-06 4.1).
//!
//! The seam gives no packet numbers with an acknowledgment. All packets of one batch carry the same time of sending, so that time,
//! with its lane, finds what was known when a packet left.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Batches of a lane whose state is kept; with ten packets each these are over 100 MB under way. Older ones give no sample.
const MAX_BATCHES: usize = 8192;

/// What was known when a batch left (draft-ietf-ccwg-bbr-06 4.1.2.2).
#[derive(Clone, Copy, Debug)]
struct Batch {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    app_limited: bool,
}

/// The batches of one lane that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Batches(VecDeque<Batch>);

/// Counts what arrives.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Up to this count of delivered bytes samples are of an application that had nothing to send.
    app_limited_until: u64,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Bytes a second.
    pub(super) rate: f64,
    /// Whether the application was what held it down.
    pub(super) app_limited: bool,
    /// Bytes that had arrived when the packet left: a packet that left after a round's end ends the next.
    pub(super) prior_delivered: u64,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { delivered: 0, delivered_at: now, first_sent: now, app_limited_until: 0 }
    }

    /// Bytes that arrived so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// A batch leaves; `idle` if nothing was under way before it.
    pub(super) fn sent(&mut self, batches: &mut Batches, now: Instant, idle: bool) {
        if idle {
            (self.first_sent, self.delivered_at) = (now, now);
        }
        if batches.0.back().is_some_and(|last| last.sent == now) {
            return;
        }
        if batches.0.len() >= MAX_BATCHES {
            batches.0.pop_front();
        }
        batches.0.push_back(Batch {
            sent: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            app_limited: self.delivered < self.app_limited_until,
        });
    }

    /// Notes that a lane had nothing more to send while so much was under way.
    pub(super) fn app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = self.delivered.saturating_add(in_flight).max(1);
    }

    /// Packets arrived, the newest of which left at `sent`.
    pub(super) fn acked(&mut self, batches: &mut Batches, now: Instant, sent: Instant, bytes: u64) -> Option<Sample> {
        self.delivered = self.delivered.saturating_add(bytes);
        self.delivered_at = self.delivered_at.max(now);
        while batches.0.front().is_some_and(|batch| batch.sent < sent) {
            batches.0.pop_front();
        }
        let batch = *batches.0.front().filter(|batch| batch.sent == sent)?;
        self.first_sent = self.first_sent.max(sent);
        // The slower of the two: acknowledgments that arrive in a heap say nothing about the path.
        let sending = sent.saturating_duration_since(batch.first_sent);
        let acking = now.saturating_duration_since(batch.delivered_at);
        let interval = sending.max(acking).max(Duration::from_micros(100));
        let arrived = self.delivered.saturating_sub(batch.delivered);
        Some(Sample {
            rate: to_f64(arrived) / interval.as_secs_f64(),
            app_limited: batch.app_limited,
            prior_delivered: batch.delivered,
        })
    }
}

/// The highest of the last values, by the number of the round or cycle they are of.
#[derive(Clone, Debug)]
pub(super) struct MaxFilter {
    length: u64,
    values: VecDeque<(u64, f64)>,
}

impl MaxFilter {
    pub(super) fn new(length: u64) -> Self {
        Self { length, values: VecDeque::new() }
    }

    pub(super) fn update(&mut self, at: u64, value: f64) {
        while self.values.back().is_some_and(|(_, other)| *other <= value) {
            self.values.pop_back();
        }
        self.values.push_back((at, value));
        while self.values.front().is_some_and(|(first, _)| first.saturating_add(self.length) <= at) {
            self.values.pop_front();
        }
    }

    pub(super) fn get(&self) -> f64 {
        self.values.front().map_or(0.0, |(_, value)| *value)
    }
}

/// Bytes as a number to reckon with; exact below 2^53, and no session moves more.
#[allow(clippy::cast_precision_loss, reason = "exact below 2^53 bytes")]
pub(super) fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// Whole bytes of a number that may be anything.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to what a u64 holds; NaN becomes 0"
)]
pub(super) fn to_bytes(number: f64) -> u64 {
    number.clamp(0.0, 9.0e15) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgments_in_a_heap_do_not_raise_the_rate() {
        let start = crate::congestion::core::testing::epoch();
        let (mut rate, mut batches) = (Rate::new(start), Batches::default());
        let at = |ms: u64| start + Duration::from_millis(ms);
        // 10 kB each 10 ms, a million bytes a second, acknowledged after 100 ms; the last ten all at once.
        let mut best: f64 = 0.0;
        for n in 0..40_u64 {
            rate.sent(&mut batches, at(10 * n), n == 0);
            let arrives = if n < 30 { n.checked_sub(10)..n.checked_sub(9) } else { None..None };
            if let (Some(from), Some(until)) = (arrives.start, arrives.end) {
                (from..until).for_each(|k| {
                    best = best.max(rate.acked(&mut batches, at(10 * n), at(10 * k), 10_000).unwrap().rate);
                });
            }
        }
        (20..40).for_each(|k| best = best.max(rate.acked(&mut batches, at(490), at(10 * k), 10_000).unwrap().rate));
        assert!(best <= 1_200_000.0, "{best}");
        assert!(best >= 900_000.0, "{best}");
        assert_eq!(rate.delivered(), 400_000);
    }

    #[test]
    fn what_left_after_the_application_ran_dry_is_marked() {
        let start = crate::congestion::core::testing::epoch();
        let (mut rate, mut batches) = (Rate::new(start), Batches::default());
        rate.sent(&mut batches, start, true);
        rate.app_limited(1000);
        let later = start + Duration::from_millis(1);
        rate.sent(&mut batches, later, false);
        let now = start + Duration::from_millis(50);
        assert!(!rate.acked(&mut batches, now, start, 1000).unwrap().app_limited);
        assert!(rate.acked(&mut batches, now, later, 1000).unwrap().app_limited);
    }

    #[test]
    fn a_filter_forgets_what_is_older_than_its_length() {
        let mut filter = MaxFilter::new(3);
        for (round, value, highest) in [(0, 5.0, 5.0), (1, 3.0, 5.0), (2, 1.0, 5.0), (3, 2.0, 3.0), (4, 2.0, 2.0)] {
            filter.update(round, value);
            assert!((filter.get() - highest).abs() < f64::EPSILON, "round {round}: {}", filter.get());
        }
    }
}
