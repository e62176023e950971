//! Which traces are kept: a share that can be changed while the program runs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceId},
};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};

/// The share of traces that begin here and are kept.
#[derive(Clone, Debug)]
pub(crate) struct LiveRatio(Arc<AtomicU64>);

impl LiveRatio {
    pub(crate) fn new(rate: f64) -> Self {
        let ratio = Self(Arc::default());
        ratio.set(rate);
        ratio
    }

    /// What is no share is taken for the nearest one.
    pub(crate) fn set(&self, rate: f64) {
        let rate = if rate.is_nan() { 1.0 } else { rate.clamp(0.0, 1.0) };
        self.0.store(rate.to_bits(), Ordering::Relaxed);
    }

    fn rate(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl ShouldSample for LiveRatio {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        Sampler::TraceIdRatioBased(self.rate()).should_sample(parent, trace_id, name, kind, attributes, links)
    }
}
