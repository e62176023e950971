//! What both ends saw, as intervals and as a result. Pure.
//!
//! Time of a flow begins at its receiver with the first byte, and at its sender with the first that could be sent: what lies between the
//! two is a part of a round trip, and both last equally long.

use proto_model::{BenchFlow, BenchInterval, BenchResult};
use proto_wire::bench::{BenchEnd, BenchSample};

/// Samples of an end that are kept: one in a tenth of a second for a minute, and the room of a slow end.
pub(super) const MAX_SAMPLES: usize = 1024;
/// How long an interval is.
const INTERVAL_MS: u32 = 1000;
/// A last interval that is shorter than this says nothing.
const LEAST_MS: u32 = 500;
/// How long a stretch is of which a rate counts for the time to nine tenths.
const STRETCH_MS: u32 = 100;

/// What an end said over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<BenchSample>);

impl Samples {
    /// One more; those that do not move on in time, and those over the bound, are left out.
    pub(super) fn add(&mut self, sample: BenchSample) {
        let later = self.0.last().is_none_or(|last| sample.time_ms >= last.time_ms);
        if later && self.0.len() < MAX_SAMPLES {
            self.0.push(sample);
        }
    }

    pub(super) fn last(&self) -> Option<&BenchSample> {
        self.0.last()
    }

    pub(super) fn time_ms(&self) -> u32 {
        self.last().map_or(0, |sample| sample.time_ms)
    }

    /// The last one until then.
    fn at(&self, ms: u32) -> Option<&BenchSample> {
        let after = self.0.partition_point(|sample| sample.time_ms <= ms);
        after.checked_sub(1).and_then(|index| self.0.get(index))
    }

    /// Payload that had arrived then, between two samples as if it came evenly.
    fn received_at(&self, ms: u32) -> u64 {
        let after = self.0.partition_point(|sample| sample.time_ms <= ms);
        let before = after.checked_sub(1).and_then(|index| self.0.get(index));
        let (from_ms, from) = before.map_or((0, 0), |sample| (sample.time_ms, sample.bytes_received));
        let Some(next) = self.0.get(after) else { return from };
        let more = next.bytes_received.saturating_sub(from);
        let (passed, whole) = (u64::from(ms - from_ms), u64::from(next.time_ms - from_ms).max(1));
        let part = u128::from(more) * u128::from(passed) / u128::from(whole);
        from.saturating_add(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// What was sent and lost between two times.
    fn sent_between(&self, start: u32, end: u32) -> (u64, u64) {
        let at = |ms| self.at(ms).map_or((0, 0), |sample| (sample.bytes_sent, sample.bytes_lost));
        let ((sent, lost), (sent_before, lost_before)) = (at(end), at(start));
        (sent.saturating_sub(sent_before), lost.saturating_sub(lost_before))
    }

    /// The median of what round trips were, in milliseconds; half a second in, where a queue has formed if one does.
    fn loaded_rtt_ms(&self) -> f64 {
        let mut seen: Vec<u64> =
            self.0.iter().filter(|sample| sample.time_ms >= LEAST_MS).map(|sample| sample.rtt_us).collect();
        seen.sort_unstable();
        ms(seen.get(seen.len() / 2).copied().unwrap_or_default())
    }

    /// How busy the busiest thread was, on average.
    fn busy(&self) -> f64 {
        let count = u32::try_from(self.0.len()).map_or(1.0, f64::from).max(1.0);
        self.0.iter().map(|sample| sample.busy).sum::<f64>() / count
    }
}

/// The two ends of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub(super) flow: BenchFlow,
    pub(super) sender: &'a Samples,
    pub(super) receiver: &'a Samples,
    /// For how long data was to flow.
    pub(super) seconds: u32,
}

impl Ends<'_> {
    /// Until when the receiver counts.
    fn until(&self) -> u32 {
        self.receiver.time_ms().min(self.seconds.saturating_mul(1000))
    }

    /// The seconds that are over at both ends; with the shorter last one where all is over.
    pub(super) fn intervals(&self, all: bool) -> Vec<BenchInterval> {
        let known = if all { u32::MAX } else { self.sender.time_ms().saturating_add(2 * STRETCH_MS) };
        let until = self.until().min(known);
        let mut intervals = Vec::new();
        let mut start = 0;
        while start < until {
            let end = start.saturating_add(INTERVAL_MS).min(until);
            let whole = end - start == INTERVAL_MS;
            let said = whole || all && end - start >= LEAST_MS;
            if !said {
                break;
            }
            intervals.push(self.interval(start, end));
            start = end;
        }
        intervals
    }

    fn interval(&self, start: u32, end: u32) -> BenchInterval {
        let (sent, lost) = self.sender.sent_between(start, end);
        let sender = self.sender.at(end).cloned().unwrap_or_default();
        BenchInterval {
            flow: self.flow,
            start: seconds(start),
            end: seconds(end),
            bytes: self.receiver.received_at(end).saturating_sub(self.receiver.received_at(start)),
            rtt_ms: ms(sender.rtt_us),
            loss: share(lost, sent),
            streams: sender.streams,
            lanes: sender.lanes,
            congestion_window: sender.congestion_window,
            congestion_mode: sender.congestion_mode,
        }
    }

    /// Bits a second between two times.
    fn rate(&self, start: u32, end: u32) -> f64 {
        let bytes = self.receiver.received_at(end).saturating_sub(self.receiver.received_at(start));
        if end > start { float(bytes) * 8.0 / seconds(end - start) } else { 0.0 }
    }

    /// What it came to; without advice.
    pub(super) fn result(&self, base_rtt_ms: f64, end: &BenchEnd) -> BenchResult {
        let until = self.until();
        let bytes = self.receiver.received_at(until);
        let steady = self.rate(until / 2, until);
        let wire = self.sender.last().cloned().unwrap_or_default();
        BenchResult {
            flow: self.flow,
            seconds: seconds(until),
            bytes,
            mean: self.rate(0, until),
            steady,
            to_90_percent: self.to_90_percent(steady, until),
            base_rtt_ms,
            loaded_rtt_ms: self.sender.loaded_rtt_ms(),
            loss: share(wire.bytes_lost, wire.bytes_sent),
            bytes_on_the_wire: wire.bytes_sent,
            // Both for as long as data was to flow: what was under way when time was over had been sent, and counts.
            overhead: share(wire.bytes_sent, bytes.max(1)).max(1.0) - 1.0,
            bytes_sent_again: wire.bytes_lost,
            time_spent: end.time_spent.clone(),
            sender_cpu: self.sender.busy(),
            receiver_cpu: self.receiver.busy(),
            streams: wire.streams,
            lanes: wire.lanes,
            congestion_algorithm: end.congestion_algorithm.clone(),
            bandwidth_delay_product: whole(steady / 8.0 * base_rtt_ms / 1000.0),
            limit: end.limit.clone(),
            advice: String::new(),
        }
    }

    /// The end of the first stretch that has nine tenths of the steady rate.
    fn to_90_percent(self, steady: f64, until: u32) -> Option<f64> {
        let stretches = (0..until / STRETCH_MS).map(|index| index * STRETCH_MS);
        let mut fast = stretches.filter(|start| self.rate(*start, start + STRETCH_MS) >= 0.9 * steady);
        fast.next().filter(|_| steady > 0.0).map(|start| seconds(start + STRETCH_MS))
    }
}

fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1000.0
}

fn ms(us: u64) -> f64 {
    float(us) / 1000.0
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { float(part) / float(of) }
}

#[allow(clippy::cast_precision_loss, reason = "for people; exact up to 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a product of two numbers that are not negative"
)]
fn whole(number: f64) -> u64 {
    number.clamp(0.0, 1e18) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: impl Iterator<Item = (u32, u64)>) -> Samples {
        let mut samples = Samples::default();
        for (time_ms, bytes) in of {
            samples.add(BenchSample {
                time_ms,
                bytes_received: bytes,
                bytes_sent: bytes + bytes / 10,
                bytes_lost: bytes / 100,
                rtt_us: 20_000 + u64::from(time_ms),
                busy: 0.5,
                ..BenchSample::default()
            });
        }
        samples
    }

    /// A start of a second in which nothing comes but in its second half, then 10 MB a second; samples at odd times.
    fn flow() -> Samples {
        let at = |ms: u32| if ms <= 500 { 0 } else { u64::from(ms - 500) * 10_000 };
        samples((0..=101).map(move |index| index * 99).map(move |ms| (ms, at(ms))))
    }

    #[test]
    fn a_second_has_what_arrived_in_it_and_the_last_one_waits_for_its_end() {
        let both = flow();
        let ends = Ends { flow: BenchFlow::Forward, sender: &both, receiver: &both, seconds: 10 };
        let intervals = ends.intervals(false);
        assert_eq!(intervals.len(), 9);
        let first = &intervals[0];
        assert!((4_950_000..=5_050_000).contains(&first.bytes), "{first:?}");
        assert!(intervals[1..].iter().all(|one| (9_990_000..=10_010_000).contains(&one.bytes)), "{intervals:?}");
        assert!((intervals[3].loss - 0.01 / 1.1).abs() < 1e-4, "{:?}", intervals[3]);
        assert_eq!(ends.intervals(true).len(), 10, "9.999 s are over");
    }

    #[test]
    fn a_result_is_steady_over_its_second_half_and_says_when_it_became_so() {
        let both = flow();
        // Its sender ends after eight seconds; what the receiver takes after that is no more than a rest.
        let at = |ms: u32| (ms, if ms <= 500 { 0 } else { u64::from(ms - 500) * 10_000 });
        let sender = samples((0..=80).map(|index| at(index * 100)));
        let ends = Ends { flow: BenchFlow::Reverse, sender: &sender, receiver: &both, seconds: 8 };
        let end = BenchEnd { limit: Some((1, "bandwidth.total".into())), ..BenchEnd::default() };
        let result = ends.result(20.0, &end);
        assert!((result.steady - 80e6).abs() < 1e5 && (result.mean - 75e6).abs() < 1e5, "{result:?}");
        assert!((result.to_90_percent.unwrap() - 0.6).abs() < 0.11, "{result:?}");
        assert!((result.overhead - 0.1).abs() < 1e-3, "{result:?}");
        assert!((199_000..=201_000).contains(&result.bandwidth_delay_product), "{result:?}");
        assert!(result.loaded_rtt_ms > 24.0 && (result.sender_cpu - 0.5).abs() < 1e-9, "{result:?}");
        assert_eq!((result.seconds.to_bits(), result.limit), (8.0_f64.to_bits(), end.limit));
    }

    #[test]
    fn nothing_makes_no_number_of_it() {
        let none = Samples::default();
        let ends = Ends { flow: BenchFlow::Forward, sender: &none, receiver: &none, seconds: 10 };
        assert!(ends.intervals(true).is_empty());
        let result = ends.result(0.0, &BenchEnd::default());
        assert!(result.mean == 0.0 && result.loss == 0.0 && result.to_90_percent.is_none(), "{result:?}");
        let mut back = samples([(100, 5), (50, 9)].into_iter());
        assert_eq!(back.time_ms(), 100);
        (0..5000).for_each(|ms| back.add(BenchSample { time_ms: 100 + ms, ..BenchSample::default() }));
        assert_eq!(back.0.len(), MAX_SAMPLES);
    }
}
