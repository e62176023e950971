//! What went in and out of one direction, in all and over time.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::packet;

/// How long a bin of the series lasts, in milliseconds.
pub const BIN: u64 = 50;
const BIN_NANOS: u64 = BIN * 1_000_000;
/// More bins than an hour has are not kept.
const MOST_BINS: usize = 36_000;
/// Further flows count as one of nobody's.
const MOST_FLOWS: usize = 64;

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets that the sender's host handed over.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Of these what lies behind the TCP or UDP header.
    pub payload_in: u64,
    /// Packets that were handed out.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Of these what lies behind the TCP or UDP header.
    pub payload_out: u64,
    /// Dropped since the queue was full.
    pub dropped: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost since the link was down.
    pub cut: u64,
    /// Larger than the path's MTU.
    pub too_big: u64,
    /// Held back, to come out of order.
    pub held_back: u64,
    /// The longest that the queue was, in bytes.
    pub queue_max_bytes: u64,
}

/// By protocol number and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Flow {
    /// 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Of the sender.
    pub from_port: u16,
    /// Of the receiver.
    pub to_port: u16,
}

/// What one flow got through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowBytes {
    /// Whose.
    pub flow: Flow,
    /// Bytes of IP packets handed out, in each bin.
    pub out: Vec<u64>,
}

/// All that is counted of one direction. Each series has one value for each bin since the start; the last may be unfinished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// In all.
    pub counts: Counts,
    /// Bytes handed over by the sender's host.
    pub bytes_in: Vec<u64>,
    /// Bytes handed out.
    pub bytes_out: Vec<u64>,
    /// Of these behind the TCP or UDP header.
    pub payload_out: Vec<u64>,
    /// The mean length of the queue, in bytes.
    pub queue_bytes: Vec<u64>,
    /// The first bin begins here.
    #[serde(skip)]
    since: u64,
    #[serde(serialize_with = "as_list")]
    flows: BTreeMap<Flow, Vec<u64>>,
}

fn as_list<S: serde::Serializer>(flows: &BTreeMap<Flow, Vec<u64>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(flows.iter().map(|(flow, out)| FlowBytes { flow: *flow, out: out.clone() }))
}

impl Tally {
    pub(crate) fn since(now: u64) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// What each flow got through.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowBytes> {
        self.flows.iter().map(|(flow, out)| FlowBytes { flow: *flow, out: out.clone() }).collect()
    }

    /// The mean length of the queue over a stretch of bins.
    #[must_use]
    pub fn mean_queue(&self, bins: std::ops::Range<usize>) -> u64 {
        let within = self.queue_bytes.get(bins.start..bins.end.min(self.queue_bytes.len())).unwrap_or_default();
        within.iter().sum::<u64>() / (bins.len() as u64).max(1)
    }

    pub(crate) fn arrived(&mut self, now: u64, bytes: &[u8]) {
        self.counts.packets_in += 1;
        self.counts.bytes_in += bytes.len() as u64;
        self.counts.payload_in += packet::payload(bytes);
        add(&mut self.bytes_in, now - self.since, bytes.len() as u64);
    }

    /// A packet left the queue in which it had waited for so long.
    pub(crate) fn waited(&mut self, at: u64, bytes: usize, nanos: u64) {
        // Little's law: the mean length is what waited times how long, over the time.
        let share = u128::from(nanos) * bytes as u128 / u128::from(BIN_NANOS);
        add(&mut self.queue_bytes, at.saturating_sub(self.since), u64::try_from(share).unwrap_or(u64::MAX));
    }

    pub(crate) fn left(&mut self, now: u64, bytes: &[u8]) {
        let (length, payload) = (bytes.len() as u64, packet::payload(bytes));
        self.counts.packets_out += 1;
        self.counts.bytes_out += length;
        self.counts.payload_out += payload;
        let now = now - self.since;
        add(&mut self.bytes_out, now, length);
        add(&mut self.payload_out, now, payload);
        let flow = packet::flow(bytes);
        let full = self.flows.len() >= MOST_FLOWS;
        let flow = if full && !self.flows.contains_key(&flow) { Flow::default() } else { flow };
        add(self.flows.entry(flow).or_default(), now, length);
    }
}

fn add(series: &mut Vec<u64>, at: u64, count: u64) {
    let bin = usize::try_from(at / BIN_NANOS).unwrap_or(usize::MAX);
    if bin >= MOST_BINS {
        return;
    }
    if series.len() <= bin {
        series.resize(bin + 1, 0);
    }
    series[bin] += count;
}
