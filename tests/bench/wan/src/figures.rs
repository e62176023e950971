//! What a run comes to: the same arithmetic over the emulator's own counts for every contestant.

use serde::Serialize;
use tests_wan::{BIN, Link, Report};

/// What a contestant says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Bytes of the file, or of memory, that arrived; `None` where it does not tell.
    pub(crate) useful: Option<u64>,
    /// Whether all of a file arrived; what has no file runs for its time.
    pub(crate) complete: bool,
    /// From the start of the count to its end, in seconds.
    pub(crate) ended: f64,
    /// What counts, in seconds from the first data byte, where it goes on to drain its buffers after that.
    pub(crate) window: Option<f64>,
}

/// One run, with shares of the link's rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Useful bytes from the first data byte to the end.
    pub(crate) whole: f64,
    /// The same over the second half of the time in which data flows: what a file's end takes after its last byte is in `whole`.
    pub(crate) steady: f64,
    /// Seconds from the first data byte until 0.2 s of 90 % of the link's rate have passed.
    pub(crate) to_90: Option<f64>,
    /// Bytes behind TCP's or UDP's header that entered the path, beyond the useful ones.
    pub(crate) beyond: f64,
    /// Packets that were dropped or lost, of those that entered.
    pub(crate) lost: f64,
    /// The mean queue over the second half, in BDP.
    pub(crate) queue_bdp: f64,
    /// From the first data byte to the end.
    pub(crate) seconds: f64,
    pub(crate) complete: bool,
    pub(crate) late_mean_us: u64,
    pub(crate) late_p99_us: u64,
    pub(crate) late_max_us: u64,
}

const BIN_SECONDS: f64 = BIN as f64 / 1000.0;
/// What a bin has at least once data flows; less is a handshake.
const DATA: u64 = 15_000;
/// The window in which 90 % must go through, in bins.
const WINDOW: usize = 4;

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]
pub(crate) fn figures(report: &Report, link: &Link, outcome: Outcome) -> Option<Figures> {
    let tally = &report.there.tally;
    let rate = link.rate?.0 as f64;
    let first = tally.bytes_in.iter().position(|bytes| *bytes >= DATA)?;
    let start = first as f64 * BIN_SECONDS;
    let seconds = outcome.window.unwrap_or(outcome.ended - start);
    // Where it is not told, what arrived is taken for useful.
    let useful = outcome.useful.unwrap_or(tally.counts.payload_out) as f64;
    let share = (useful / tally.counts.payload_out.max(1) as f64).min(1.0);
    let end = (((start + seconds) / BIN_SECONDS).round() as usize).min(tally.payload_out.len());
    // The last bin of all is not full.
    let last = tally.bytes_in.get(..end)?.iter().rposition(|bytes| *bytes >= DATA)?;
    let half = (first + last) / 2;
    let second_half: u64 = tally.payload_out.get(half..last)?.iter().sum();
    let steady = second_half as f64 * share * 8.0 / ((last - half) as f64 * BIN_SECONDS) / rate;
    let within: u64 = tally.payload_out.get(first..end)?.iter().sum();
    let whole = if outcome.window.is_some() { within as f64 * share } else { useful };
    let enough = 0.9 * rate / 8.0 * BIN_SECONDS * WINDOW as f64;
    let windows = tally.bytes_out.get(first..)?.windows(WINDOW);
    let to_90 = windows.map(|bins| bins.iter().sum::<u64>() as f64).position(|bytes| bytes >= enough);
    let counts = &tally.counts;
    Some(Figures {
        whole: whole * 8.0 / seconds / rate,
        steady,
        to_90: to_90.map(|bins| (bins + WINDOW) as f64 * BIN_SECONDS),
        beyond: counts.payload_in as f64 / useful - 1.0,
        lost: (counts.dropped + counts.lost) as f64 / counts.packets_in.max(1) as f64,
        queue_bdp: tally.mean_queue(half..last) as f64 / link.bdp_bytes()?.max(1) as f64,
        seconds,
        complete: outcome.complete,
        late_mean_us: report.there.late.mean_us,
        late_p99_us: report.there.late.p99_us,
        late_max_us: report.there.late.max_us,
    })
}

/// Jain's index: 1 where all have the same, 1/n where one has all.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// The middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The least and the most.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equals_and_a_share_for_one_alone() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!((median(&[3.0, 1.0, 2.0]), range(&[3.0, 1.0, 2.0])), (2.0, (1.0, 3.0)));
    }
}
