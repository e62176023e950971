//! [`BenchReport`]: how far a bench is, and what it came to.

use proto_rpc::{
    agent,
    v1::{self as rpc, bench::State, bench_spec::Direction},
};

use super::{BenchFlow, BenchId, BenchPlan};
use crate::{
    InvalidField, TimeSpent, TransferError, TransferPathInfo, invalid_field::at, invalid_field::each,
    transfer_error::bounded_text,
};

/// Intervals of a report at most: one a second and flow, and the last, shorter one.
const MAX_INTERVALS: usize = 2 * (BenchPlan::MAX_SECONDS as usize + 1);

/// How far a bench is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchState {
    /// Not begun.
    Pending,
    /// Data flows.
    Running,
    /// There is a result.
    Succeeded,
    /// There is none.
    Failed,
    /// Who asked for it went away.
    Cancelled,
}

impl BenchState {
    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_end(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The name that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        State::from(self).as_str_name()
    }
}

impl From<BenchState> for State {
    fn from(state: BenchState) -> Self {
        match state {
            BenchState::Pending => Self::Pending,
            BenchState::Running => Self::Running,
            BenchState::Succeeded => Self::Succeeded,
            BenchState::Failed => Self::Failed,
            BenchState::Cancelled => Self::Cancelled,
        }
    }
}

/// What was measured in a second of one flow.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchInterval {
    /// Which.
    pub flow: BenchFlow,
    /// In seconds since data could flow.
    pub start: f64,
    /// Likewise.
    pub end: f64,
    /// Payload that arrived.
    pub bytes: u64,
    /// The sender's smoothed round trip.
    pub rtt_ms: f64,
    /// The part of what was sent that was lost.
    pub loss: f64,
    /// Pieces that may be under way.
    pub streams: u32,
    /// QUIC connections.
    pub lanes: u32,
    /// Bytes that may be under way.
    pub congestion_window: u64,
    /// What the congestion control does.
    pub congestion_mode: String,
}

/// What a flow came to.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchResult {
    /// Which.
    pub flow: BenchFlow,
    /// For how long data flowed.
    pub seconds: f64,
    /// Payload that arrived.
    pub bytes: u64,
    /// Bits a second, over all of it.
    pub mean: f64,
    /// Over the second half.
    pub steady: f64,
    /// Until nine tenths of the steady rate were reached.
    pub to_90_percent: Option<f64>,
    /// Before data flowed.
    pub base_rtt_ms: f64,
    /// The median while data flowed.
    pub loaded_rtt_ms: f64,
    /// The part of what was sent that was lost.
    pub loss: f64,
    /// UDP bytes that the sender's session sent.
    pub bytes_on_the_wire: u64,
    /// How much more that is than what arrived.
    pub overhead: f64,
    /// Bytes that were declared lost.
    pub bytes_sent_again: u64,
    /// What held it up at the sender.
    pub time_spent: TimeSpent,
    /// How busy the busiest of the sender's threads was.
    pub sender_cpu: f64,
    /// The same of the receiver's.
    pub receiver_cpu: f64,
    /// Streams at the end.
    pub streams: u32,
    /// QUIC connections at the end.
    pub lanes: u32,
    /// What governs the rate.
    pub congestion_algorithm: String,
    /// What has to be under way to fill the path.
    pub bandwidth_delay_product: u64,
    /// The bound of bandwidth that concerned the sender, in bits a second, and its name.
    pub limit: Option<(u64, String)>,
    /// What would make it faster.
    pub advice: String,
}

/// A bench as the node that runs it sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchReport {
    /// Which.
    pub bench: BenchId,
    /// How far.
    pub state: BenchState,
    /// Why it failed.
    pub error: Option<TransferError>,
    /// What carries it.
    pub path: Option<TransferPathInfo>,
    /// By the second.
    pub intervals: Vec<BenchInterval>,
    /// At the end.
    pub results: Vec<BenchResult>,
}

impl BenchReport {
    /// The first report.
    #[must_use]
    pub fn new(bench: BenchId) -> Self {
        Self { bench, state: BenchState::Pending, error: None, path: None, intervals: Vec::new(), results: Vec::new() }
    }
}

/// A number that a peer or an agent says, made harmless.
fn number(number: f64) -> f64 {
    if number.is_finite() { number.clamp(0.0, 1e18) } else { 0.0 }
}

fn state(number: i32) -> Result<BenchState, InvalidField> {
    match State::try_from(number) {
        Ok(State::Pending) => Ok(BenchState::Pending),
        Ok(State::Running) => Ok(BenchState::Running),
        Ok(State::Succeeded) => Ok(BenchState::Succeeded),
        Ok(State::Failed) => Ok(BenchState::Failed),
        Ok(State::Cancelled) => Ok(BenchState::Cancelled),
        Ok(State::Unspecified) | Err(_) => Err(InvalidField::new("state", "says nothing")),
    }
}

fn flow(number: i32) -> Result<BenchFlow, InvalidField> {
    match Direction::try_from(number) {
        Ok(Direction::Forward) => Ok(BenchFlow::Forward),
        Ok(Direction::Reverse) => Ok(BenchFlow::Reverse),
        Ok(Direction::Unspecified | Direction::Both) | Err(_) => {
            Err(InvalidField::new("direction", "is neither FORWARD nor REVERSE"))
        }
    }
}

impl TryFrom<rpc::BenchInterval> for BenchInterval {
    type Error = InvalidField;

    fn try_from(said: rpc::BenchInterval) -> Result<Self, Self::Error> {
        Ok(Self {
            flow: flow(said.direction)?,
            start: number(said.start_seconds),
            end: number(said.end_seconds),
            bytes: said.bytes,
            rtt_ms: number(said.rtt_ms),
            loss: number(said.loss),
            streams: said.streams,
            lanes: said.lanes,
            congestion_window: said.congestion_window_bytes,
            congestion_mode: bounded_text(&said.congestion_mode),
        })
    }
}

impl From<BenchInterval> for rpc::BenchInterval {
    fn from(interval: BenchInterval) -> Self {
        Self {
            direction: Direction::from(interval.flow).into(),
            start_seconds: interval.start,
            end_seconds: interval.end,
            bytes: interval.bytes,
            bits_per_second: interval.bits_per_second(),
            rtt_ms: interval.rtt_ms,
            loss: interval.loss,
            streams: interval.streams,
            lanes: interval.lanes,
            congestion_window_bytes: interval.congestion_window,
            congestion_mode: interval.congestion_mode,
        }
    }
}

impl BenchInterval {
    /// Bits of payload in a second.
    #[must_use]
    pub fn bits_per_second(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes in a second")]
        let bits = self.bytes as f64 * 8.0;
        if self.end > self.start { bits / (self.end - self.start) } else { 0.0 }
    }
}

impl TryFrom<rpc::BenchResult> for BenchResult {
    type Error = InvalidField;

    fn try_from(said: rpc::BenchResult) -> Result<Self, Self::Error> {
        let limit = Some(said.limit_bits_per_second).filter(|bits| *bits > 0);
        Ok(Self {
            flow: flow(said.direction)?,
            seconds: number(said.seconds),
            bytes: said.bytes,
            mean: number(said.mean_bits_per_second),
            steady: number(said.steady_bits_per_second),
            to_90_percent: Some(number(said.seconds_to_90_percent)).filter(|seconds| *seconds > 0.0),
            base_rtt_ms: number(said.base_rtt_ms),
            loaded_rtt_ms: number(said.loaded_rtt_ms),
            loss: number(said.loss),
            bytes_on_the_wire: said.bytes_on_the_wire,
            overhead: number(said.overhead),
            bytes_sent_again: said.bytes_sent_again,
            time_spent: said.time_spent.into(),
            sender_cpu: number(said.sender_cpu),
            receiver_cpu: number(said.receiver_cpu),
            streams: said.streams,
            lanes: said.lanes,
            congestion_algorithm: bounded_text(&said.congestion_algorithm),
            bandwidth_delay_product: said.bandwidth_delay_product_bytes,
            limit: limit.map(|bits| (bits, bounded_text(&said.limited_by))),
            advice: bounded_text(&said.advice),
        })
    }
}

impl From<BenchResult> for rpc::BenchResult {
    fn from(result: BenchResult) -> Self {
        let (limit_bits_per_second, limited_by) = result.limit.unwrap_or_default();
        Self {
            direction: Direction::from(result.flow).into(),
            seconds: result.seconds,
            bytes: result.bytes,
            mean_bits_per_second: result.mean,
            steady_bits_per_second: result.steady,
            seconds_to_90_percent: result.to_90_percent.unwrap_or_default(),
            base_rtt_ms: result.base_rtt_ms,
            loaded_rtt_ms: result.loaded_rtt_ms,
            loss: result.loss,
            bytes_on_the_wire: result.bytes_on_the_wire,
            overhead: result.overhead,
            bytes_sent_again: result.bytes_sent_again,
            time_spent: (&result.time_spent).into(),
            sender_cpu: result.sender_cpu,
            receiver_cpu: result.receiver_cpu,
            streams: result.streams,
            lanes: result.lanes,
            congestion_algorithm: result.congestion_algorithm,
            bandwidth_delay_product_bytes: result.bandwidth_delay_product,
            limit_bits_per_second,
            limited_by,
            advice: result.advice,
        }
    }
}

impl TryFrom<agent::BenchReport> for BenchReport {
    type Error = InvalidField;

    fn try_from(said: agent::BenchReport) -> Result<Self, Self::Error> {
        let bench = said.bench.unwrap_or_default();
        let path = bench.path.map(TransferPathInfo::try_from).transpose();
        let intervals = bench.intervals.into_iter().take(MAX_INTERVALS);
        Ok(Self {
            bench: said.bench_id.parse().map_err(at("bench_id"))?,
            state: state(bench.state)?,
            error: bench.error.map(TransferError::from),
            path: path.map_err(|error| error.within("path"))?,
            intervals: each("intervals", intervals, BenchInterval::try_from)?,
            results: each("results", bench.results.into_iter().take(2), BenchResult::try_from)?,
        })
    }
}

impl From<BenchReport> for agent::BenchReport {
    fn from(report: BenchReport) -> Self {
        Self { bench_id: report.bench.to_string(), bench: Some(report.into()) }
    }
}

impl From<BenchReport> for rpc::Bench {
    /// What was asked for and when is added by who knows it.
    fn from(report: BenchReport) -> Self {
        Self {
            name: report.bench.resource_name(),
            spec: None,
            state: State::from(report.state).into(),
            error: report.error.map(Into::into),
            path: report.path.map(Into::into),
            intervals: report.intervals.into_iter().map(Into::into).collect(),
            results: report.results.into_iter().map(Into::into).collect(),
            create_time: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded_and_survives_the_wire() {
        let bench = BenchId::from_parts(1, &[7; 10]);
        let interval = BenchInterval {
            flow: BenchFlow::Reverse,
            start: 1.0,
            end: 2.0,
            bytes: 1_000_000,
            rtt_ms: 20.5,
            loss: 0.005,
            streams: 16,
            lanes: 1,
            congestion_window: 250_000,
            congestion_mode: "cruise".into(),
        };
        assert!((interval.bits_per_second() - 8e6).abs() < 1e-6);
        let report = BenchReport { state: BenchState::Running, intervals: vec![interval], ..BenchReport::new(bench) };
        assert_eq!(BenchReport::try_from(agent::BenchReport::from(report.clone())), Ok(report.clone()));
        let mut said = agent::BenchReport::from(report);
        let inner = said.bench.as_mut().expect("there");
        inner.intervals[0].rtt_ms = f64::NAN;
        inner.intervals = vec![inner.intervals[0].clone(); 1000];
        let parsed = BenchReport::try_from(said).expect("a report");
        assert_eq!((parsed.intervals.len(), parsed.intervals[0].rtt_ms.to_bits()), (MAX_INTERVALS, 0));
    }
}
