//! The span of the whole verb, where the environment names a place for traces: the root of the trace that goes on in the
//! control plane and in the agents.

use std::future::Future;

use foundation_telemetry::{Options, Telemetry, init};
use tracing::{Instrument, field::Empty};

/// Runs `verb` in a span of its own, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
pub(crate) async fn traced<T>(name: &'static str, verb: impl Future<Output = T>) -> T {
    let Some(telemetry) = telemetry() else { return verb.await };
    let span = tracing::info_span!("verb", otel.name = format!("dwcp {name}"), otel.kind = "client", code = Empty);
    let result = verb.instrument(span).await;
    telemetry.shutdown().await;
    result
}

fn telemetry() -> Option<Telemetry> {
    let endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty())?;
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_unset| "off".to_owned());
    let options = Options { otlp_endpoint: Some(endpoint), level, ..Options::new("dwcp", env!("CARGO_PKG_VERSION")) };
    // A trace that cannot be kept is no reason not to do the work.
    init(options).ok()
}
