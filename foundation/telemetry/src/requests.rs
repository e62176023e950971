//! Requests, counted the same way wherever they are handled: `dwcp_requests_total`, `dwcp_errors_total`, `dwcp_latency_seconds`,
//! and their companions with labels. [`crate::TraceLayer`] does it for gRPC servers; HTTP handlers call [`observe`].

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should, which includes a refusal of what the caller asked for.
    Handled,
    /// By a fault of ours.
    Fault,
}

/// Makes the series exist, so that a rate can be taken at the first request and the first fault.
pub fn register() {
    counter!("dwcp_requests_total").increment(0);
    counter!("dwcp_errors_total").increment(0);
}

/// A request was handled. `method` and `code` come from a fixed set, never from the caller.
pub fn observe(component: &'static str, method: &str, code: &str, outcome: Outcome, took: Duration) {
    let method = method.to_owned();
    counter!("dwcp_requests_total").increment(1);
    histogram!("dwcp_latency_seconds").record(took);
    counter!("dwcp_component_requests_total", "component" => component, "method" => method.clone(), "code" => code.to_owned())
        .increment(1);
    histogram!("dwcp_component_latency_seconds", "component" => component, "method" => method).record(took);
    match outcome {
        Outcome::Handled => {}
        Outcome::Fault => fault(component, code),
    }
}

/// Something went wrong that is counted as an error; `reason` comes from a fixed set.
pub fn fault(component: &'static str, reason: &str) {
    counter!("dwcp_errors_total").increment(1);
    counter!("dwcp_errors_by_reason_total", "component" => component, "reason" => reason.to_owned()).increment(1);
}

/// The meaning of names that more than one crate reports, or that a manual fixes.
pub(crate) fn describe() {
    describe_counter!(
        "dwcp_log_lines_lost_total",
        "Lines that did not fit into the log file; standard error has them."
    );
    describe_counter!("dwcp_requests_total", "Requests handled.");
    describe_counter!("dwcp_errors_total", "Requests that failed by a fault of ours, and other errors.");
    describe_counter!("dwcp_errors_by_reason_total", "Errors by component and reason.");
    describe_histogram!("dwcp_latency_seconds", Unit::Seconds, "How long requests took.");
    describe_counter!("dwcp_component_requests_total", "Requests by component, method and code.");
    describe_histogram!(
        "dwcp_component_latency_seconds",
        Unit::Seconds,
        "How long requests took, by component and method."
    );
    describe_counter!("dwcp_limit_hits_total", "Times that a bound was reached, by its name; see docs/limits.md.");
    describe_gauge!("dwcp_enabled", "1 where AMST and HDE are switched on.");
    describe_gauge!("dwcp_config_loaded", "1 where a valid configuration is in force.");
    describe_gauge!("dwcp_amst_active_streams", "Stream slots that AMST holds ready.");
    describe_counter!("dwcp_amst_bytes_sent", Unit::Bytes, "UDP payload that AMST sent.");
    describe_counter!("dwcp_amst_bytes_received", Unit::Bytes, "UDP payload that AMST received.");
    describe_counter!("dwcp_amst_stream_errors", "Streams that ended in an error.");
    describe_histogram!("dwcp_amst_connection_duration_seconds", Unit::Seconds, "How long connections lasted.");
    describe_gauge!("dwcp_hde_compression_ratio", "Original bytes over encoded bytes; 1 or more, higher is better.");
    describe_gauge!("dwcp_hde_baselines_synced", "Baselines that are equal at both ends.");
    describe_gauge!("dwcp_hde_delta_encoding_ratio", "Original bytes over delta bytes, of what was delta-encoded.");
    describe_gauge!("dwcp_hde_dictionary_size_bytes", Unit::Bytes, "Size of the loaded dictionary.");
}
