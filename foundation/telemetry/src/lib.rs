//! Logs, traces and metrics of a program: set up once, changed while it runs, shut down in order.
//!
//! Everybody else uses `tracing` and `metrics` directly. Logs are JSON lines with flat fields, or lines for people on a terminal.
//! Traces go out by OTLP over gRPC; without an endpoint spans still have ids, so that logs and audit records name the trace.
//! Metrics are rendered in Prometheus's text format, each under the very name it was given.

mod component;
mod escape;
mod exporter;
mod format;
mod level;
mod log_layer;
mod metrics_handle;
pub mod metrics_http;
mod options;
mod process_metrics;
pub mod propagation;
mod record;
pub mod requests;
mod restraint;
mod sampler;
mod sink;
mod telemetry;
mod trace_layer;

pub use level::LevelError;
pub use metrics_handle::Metrics;
pub use options::{Format, Options};
pub use telemetry::{InitError, Telemetry, init};
pub use trace_layer::{TraceFuture, TraceLayer, TraceService};
