//! Round trips: what the path takes by itself (*base*), what it takes now, and how much of the difference is noise.
//!
//! A plain minimum is a bad base: one acknowledgment that was stamped early, by a receive loop that took the time once for many
//! datagrams, would make every later round trip look like a queue. The base is the least of the rounds' first quartiles over 30 s.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a round's quartile counts: a path that became longer is believed after this. BBR waits 10 s, and drains the queue
/// on purpose to look; here a competitor's saw tooth has to reach its bottom by itself.
const BASE_WINDOW: Duration = Duration::from_secs(30);

/// Rounds that end within this of a lower one say nothing new: so that 30 s are few values on a short path, too.
const BASE_STEP: Duration = Duration::from_millis(500);

/// Samples of a round that its quartile is taken from; of more, every second is dropped.
const MAX_SAMPLES: usize = 256;

/// Acknowledgments over which the present round trip is a minimum: as many as a receiver may delay in a row by chance.
const RECENT: usize = 4;

/// The jitter that is believed at most; what is more is a queue that comes and goes.
const MAX_JITTER: Duration = Duration::from_millis(4);

/// Round-trip times of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    least: Option<Duration>,
    /// The last of each lane, newest at the back.
    recent: VecDeque<Duration>,
    samples: Vec<Duration>,
    stride: usize,
    skipped: usize,
    /// Ascending in time and value.
    rounds: VecDeque<(Instant, Duration)>,
    jitter: Duration,
    last: Option<Duration>,
}

/// What a round's samples were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RoundTrips {
    /// First quartile.
    pub(super) quartile: Duration,
    /// The highest.
    pub(super) most: Duration,
    /// Whether the base sank by more than noise: what was concluded from the old one is void.
    pub(super) base_sank: bool,
}

impl Rtt {
    /// Takes the least round trip of one acknowledgment's packets.
    pub(super) fn sample(&mut self, rtt: Duration, lanes: usize) {
        self.smoothed = Some(self.smoothed.map_or(rtt, |smoothed| (smoothed * 7 + rtt) / 8));
        self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
        if let Some(last) = self.last {
            self.jitter = (self.jitter * 31 + last.abs_diff(rtt).min(MAX_JITTER)) / 32;
        }
        self.last = Some(rtt);
        self.recent.push_back(rtt);
        // Thin lanes wait for the receiver's timer; the least of twice as many is one that did not.
        let keep = if lanes > 1 { 2 * RECENT } else { RECENT };
        while self.recent.len() > keep {
            self.recent.pop_front();
        }
        if self.skipped >= self.stride {
            self.skipped = 0;
            self.samples.push(rtt);
        } else {
            self.skipped += 1;
        }
        if self.samples.len() >= MAX_SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride = 2 * self.stride + 1;
        }
    }

    /// Ends a round; none without a sample.
    pub(super) fn end_round(&mut self, now: Instant) -> Option<RoundTrips> {
        let most = self.samples.iter().max().copied()?;
        let quarter = (self.samples.len() - 1) / 4;
        let (_, quartile, _) = self.samples.select_nth_unstable(quarter);
        let quartile = *quartile;
        self.samples.clear();
        (self.stride, self.skipped) = (0, 0);
        let before = self.rounds.front().map(|(_, base)| *base);
        while self.rounds.back().is_some_and(|(_, value)| *value >= quartile) {
            self.rounds.pop_back();
        }
        if self.rounds.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= BASE_STEP) {
            self.rounds.push_back((now, quartile));
        }
        while self.rounds.len() > 1
            && self.rounds.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > BASE_WINDOW)
        {
            self.rounds.pop_front();
        }
        let noise = self.noise();
        let base_sank = before.is_some_and(|before| quartile + noise < before);
        Some(RoundTrips { quartile, most, base_sank })
    }

    /// The path without a queue; the first sample's neighbourhood as long as no round has ended.
    pub(super) fn base(&self) -> Option<Duration> {
        self.rounds.front().map(|(_, base)| *base).or(self.least)
    }

    /// The path now.
    pub(super) fn current(&self) -> Option<Duration> {
        self.recent.iter().min().copied()
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The queue now, as far as it can be told from noise at all.
    pub(super) fn queue(&self) -> Duration {
        match (self.current(), self.base()) {
            (Some(current), Some(base)) => current.saturating_sub(base),
            _ => Duration::ZERO,
        }
    }

    /// What a round trip differs from the next by without any cause.
    pub(super) fn jitter(&self) -> Duration {
        self.jitter
    }

    /// A queue below this is not told from noise: 2 ms and a fiftieth of the base, more where the path jitters.
    pub(super) fn queue_floor(&self) -> Duration {
        Duration::from_millis(2)
            + self.base().unwrap_or_default() / 50
            + (self.jitter * 3).min(Duration::from_millis(10))
    }

    /// A fall by this is the answer to something.
    pub(super) fn noise(&self) -> Duration {
        (self.base().unwrap_or_default() / 64).max(Duration::from_micros(500)) + self.jitter * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A round of twenty samples.
    fn round(rtt: &mut Rtt, now: Instant, sample: impl Fn(u64) -> Duration) -> RoundTrips {
        (0..20).for_each(|n| rtt.sample(sample(n), 1));
        rtt.end_round(now).unwrap()
    }

    #[test]
    fn one_early_stamp_does_not_make_a_base() {
        let (mut rtt, now) = (Rtt::default(), crate::congestion::core::testing::epoch());
        round(&mut rtt, now, |n| if n == 7 { ms(50) } else { ms(80) });
        assert_eq!((rtt.base(), rtt.queue()), (Some(ms(80)), Duration::ZERO));
    }

    #[test]
    fn a_base_learned_in_anothers_queue_sinks_at_once_and_says_so() {
        let (mut rtt, now) = (Rtt::default(), crate::congestion::core::testing::epoch());
        assert!(!round(&mut rtt, now, |_| ms(36)).base_sank);
        assert!(round(&mut rtt, now + ms(36), |_| ms(20)).base_sank);
        assert_eq!(rtt.base(), Some(ms(20)));
    }

    #[test]
    fn a_path_that_became_longer_is_believed_after_the_window() {
        let (mut rtt, now) = (Rtt::default(), crate::congestion::core::testing::epoch());
        round(&mut rtt, now, |_| ms(20));
        for n in 1..=40 {
            round(&mut rtt, now + Duration::from_secs(n), |_| ms(60));
        }
        assert_eq!((rtt.base(), rtt.queue()), (Some(ms(60)), Duration::ZERO));
    }

    #[test]
    fn many_samples_of_a_round_are_thinned_and_keep_their_quartile() {
        let (mut rtt, now) = (Rtt::default(), crate::congestion::core::testing::epoch());
        (0..100_000_u64).for_each(|n| rtt.sample(ms(10) + Duration::from_micros(n % 1000), 1));
        let quartile = rtt.end_round(now).unwrap().quartile;
        assert!((10_150..10_350).contains(&quartile.as_micros()), "{quartile:?}");
    }
}
