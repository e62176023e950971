//! What a run is judged by.

use crate::link::{MS, Nanos, Path, SECOND};

/// How long a bin of arrivals is.
const BIN: Nanos = 100 * MS;

/// Bytes of data in a packet of 1,500 on the wire: QUIC's headers and TCP's take about the same.
const PAYLOAD: f64 = 1440.0;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Packets that arrived, by flow and bin.
    arrivals: Vec<Vec<u64>>,
    /// Bytes that waited, each 10 ms.
    queue: Vec<(Nanos, u64)>,
    /// Packets sent, lost, and lost that arrived nevertheless, by flow.
    pub totals: Vec<(u64, u64, u64)>,
    /// Packets that found the queue full.
    pub overflows: u64,
}

impl Measured {
    /// Nothing yet, of so many flows.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        Self { arrivals: vec![Vec::new(); flows], queue: Vec::new(), totals: vec![(0, 0, 0); flows], overflows: 0 }
    }

    pub(crate) fn arrived(&mut self, flow: usize, now: Nanos) {
        let bin = usize::try_from(now / BIN).unwrap_or(0);
        let bins = &mut self.arrivals[flow];
        if bins.len() <= bin {
            bins.resize(bin + 1, 0);
        }
        bins[bin] += 1;
    }

    pub(crate) fn observe(&mut self, now: Nanos, backlog: u64) {
        self.queue.push((now, backlog));
    }

    pub(crate) fn count(&mut self, flow: usize, sent: u64, lost: u64, spurious: u64) {
        let totals = &mut self.totals[flow];
        *totals = (totals.0 + sent, totals.1 + lost, totals.2 + spurious);
    }

    /// Bits of data a second that a flow got between two times.
    #[must_use]
    pub fn goodput(&self, flow: usize, from: Nanos, until: Nanos) -> f64 {
        let bin = |at: Nanos| usize::try_from(at / BIN).unwrap_or(0);
        let packets: u64 = self.arrivals[flow].iter().take(bin(until)).skip(bin(from)).sum();
        float(packets) * PAYLOAD * 8.0 * float(SECOND) / float(until - from)
    }

    /// The first end of a bin in which a flow got nine tenths of what it can get at most, from its first arrival.
    #[must_use]
    pub fn time_to_full(&self, flow: usize, path: &Path) -> Option<f64> {
        let bins = &self.arrivals[flow];
        let first = bins.iter().position(|packets| *packets > 0)?;
        let most = float(path.rate) / 8.0 / 1500.0 * float(BIN) / float(SECOND) * (1.0 - path.loss);
        let full = bins.iter().position(|packets| float(*packets) >= 0.9 * most)?;
        Some(float((full + 1 - first) as u64) / 10.0)
    }

    /// The share of packets that were sent again.
    #[must_use]
    pub fn resent(&self, flow: usize) -> f64 {
        let (sent, lost, _) = self.totals[flow];
        float(lost) / float(sent.max(1))
    }

    /// The median queue between two times, in bytes.
    #[must_use]
    pub fn standing_queue(&self, from: Nanos, until: Nanos) -> u64 {
        let mut queue: Vec<u64> =
            self.queue.iter().filter(|(at, _)| (from..until).contains(at)).map(|(_, backlog)| *backlog).collect();
        queue.sort_unstable();
        queue.get(queue.len() / 2).copied().unwrap_or(0)
    }

    /// Jain's index over the flows, between two times.
    #[must_use]
    pub fn jain(&self, from: Nanos, until: Nanos) -> f64 {
        let rates: Vec<f64> = (0..self.arrivals.len()).map(|flow| self.goodput(flow, from, until)).collect();
        let (sum, squares) = rates.iter().fold((0.0, 0.0), |(sum, squares), rate| (sum + rate, squares + rate * rate));
        if squares > 0.0 { sum * sum / squares / float(rates.len() as u64) } else { 0.0 }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a simulation are small")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
