//! Counts what encoders do.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use foundation_runtime::Clock;
use metrics::{Unit, counter, describe_counter, describe_histogram, gauge, histogram};

use crate::encoding::{Codec, Encoding};

/// The ratios are taken over the last minute in which there was data.
const WINDOW: Duration = Duration::from_secs(60);
/// The window moves in steps of a second, so that it holds at most 61 of them.
const STEP: Duration = Duration::from_secs(1);

/// Counts for all encoders of a process. Clones are the same meter.
#[derive(Clone, Debug)]
pub struct Meter {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

/// Totals of one codec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodecTotals {
    /// Segments.
    pub segments: u64,
    /// Bytes before.
    pub input_bytes: u64,
    /// Bytes after.
    pub output_bytes: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Since the start, by codec.
    pub codecs: BTreeMap<Codec, CodecTotals>,
    /// Bytes that were references, since the start.
    pub referenced_bytes: u64,
    /// Original ÷ encoded over the last minute that had data.
    pub compression_ratio: Option<f64>,
    /// The same over segments with references.
    pub delta_encoding_ratio: Option<f64>,
}

#[derive(Debug, Default)]
struct State {
    codecs: BTreeMap<Codec, CodecTotals>,
    referenced_bytes: u64,
    all: Window,
    delta: Window,
}

#[derive(Debug, Default)]
struct Window {
    steps: VecDeque<(Instant, u64, u64)>,
}

impl Window {
    fn add(&mut self, now: Instant, input: u64, output: u64) {
        match self.steps.back_mut() {
            Some((start, inputs, outputs)) if now.saturating_duration_since(*start) < STEP => {
                *inputs += input;
                *outputs += output;
            }
            Some(_) | None => self.steps.push_back((now, input, output)),
        }
        while self.steps.front().is_some_and(|(start, ..)| now.saturating_duration_since(*start) > WINDOW) {
            self.steps.pop_front();
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a ratio of a minute's bytes, for people")]
    fn ratio(&self) -> Option<f64> {
        let (input, output) = self.steps.iter().fold((0, 0), |(a, b), (_, input, output)| (a + input, b + output));
        (output > 0).then(|| input as f64 / output as f64)
    }
}

impl Meter {
    /// A meter that has counted nothing.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        describe_counter!("dwcp_hde_input_bytes_total", Unit::Bytes, "Bytes given to HDE, by what carries them.");
        describe_counter!("dwcp_hde_output_bytes_total", Unit::Bytes, "Bytes made by HDE, by what carries them.");
        describe_histogram!("dwcp_hde_encode_duration_seconds", Unit::Seconds, "How long segments took to encode.");
        Self { clock, state: Arc::default() }
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Stats {
            codecs: state.codecs.clone(),
            referenced_bytes: state.referenced_bytes,
            compression_ratio: state.all.ratio(),
            delta_encoding_ratio: state.delta.ratio(),
        }
    }

    /// When something begins that is to be recorded.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Counts what was encoded since then.
    pub fn record(&self, encoding: &Encoding, started: Instant) {
        let now = self.clock.now();
        let codec = encoding.codec.name();
        counter!("dwcp_hde_input_bytes_total", "codec" => codec).increment(encoding.input_bytes);
        counter!("dwcp_hde_output_bytes_total", "codec" => codec).increment(encoding.output_bytes);
        histogram!("dwcp_hde_encode_duration_seconds").record(now.saturating_duration_since(started));
        let (all, delta) = self.count(encoding, now);
        // Registered by the first data, never before.
        if let Some(ratio) = all {
            gauge!("dwcp_hde_compression_ratio").set(ratio);
        }
        if let Some(ratio) = delta {
            gauge!("dwcp_hde_delta_encoding_ratio").set(ratio);
        }
    }

    fn count(&self, encoding: &Encoding, now: Instant) -> (Option<f64>, Option<f64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = state.codecs.entry(encoding.codec).or_default();
        totals.segments += 1;
        totals.input_bytes += encoding.input_bytes;
        totals.output_bytes += encoding.output_bytes;
        state.referenced_bytes += encoding.referenced_bytes;
        if encoding.input_bytes > 0 {
            state.all.add(now, encoding.input_bytes, encoding.output_bytes);
        }
        if encoding.referenced_bytes > 0 {
            state.delta.add(now, encoding.input_bytes, encoding.output_bytes);
        }
        (state.all.ratio(), state.delta.ratio())
    }
}
