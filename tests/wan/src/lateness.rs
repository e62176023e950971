//! How late the emulator itself was, packet by packet.

use serde::Serialize;

/// A bucket is ten microseconds wide; what is beyond the last counts there, and by its own size in the maximum.
const BUCKET_NANOS: u64 = 10_000;
const BUCKETS: usize = 2_000;

/// Differences between when something was due and when it was done.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    most: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, sum: 0, most: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, nanos: u64) {
        let bucket = usize::try_from(nanos / BUCKET_NANOS).unwrap_or(usize::MAX).min(BUCKETS - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(nanos);
        self.most = self.most.max(nanos);
    }

    pub(crate) fn figures(&self) -> Lateness {
        Lateness {
            mean_us: self.sum / self.count.max(1) / 1_000,
            p99_us: self.quantile_us(99, 100),
            p999_us: self.quantile_us(999, 1_000),
            max_us: self.most / 1_000,
        }
    }

    /// The upper edge of the bucket that so large a share lies below, but nothing above the maximum.
    fn quantile_us(&self, part: u64, of: u64) -> u64 {
        let rank = self.count.saturating_mul(part).div_ceil(of);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank && rank > 0 {
                return ((bucket as u64 + 1) * BUCKET_NANOS).min(self.most) / 1_000;
            }
        }
        0
    }
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lateness {
    /// On average.
    pub mean_us: u64,
    /// Of all but one in a hundred.
    pub p99_us: u64,
    /// Of all but one in a thousand.
    pub p999_us: u64,
    /// At worst.
    pub max_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_what_was_recorded() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.figures(), Lateness::default());
        for n in 1..=1000 {
            histogram.record(n * 1_000);
        }
        histogram.record(50_000_000);
        let Lateness { mean_us, p99_us, p999_us, max_us } = histogram.figures();
        assert_eq!((mean_us, max_us), (549, 50_000));
        assert!((990..=1_000).contains(&p99_us) && (1_000..=1_010).contains(&p999_us), "{p99_us} {p999_us}");
    }
}
