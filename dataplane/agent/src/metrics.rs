//! The agent's own metrics, by the names of the DW manual; those of the transport and the codec are described there.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Says what the names mean, and makes counters begin at 0, so that `rate()` works on the first failure.
pub(crate) fn describe(version: &'static str) {
    describe_gauge!("dwcp_enabled", "1 where adaptive transport and delta encoding are switched on");
    describe_gauge!("dwcp_config_loaded", "1 where a valid configuration is in force");
    describe_counter!("dwcp_requests_total", "Requests that were handled: HTTP and the local API");
    describe_counter!("dwcp_errors_total", "Requests that failed for a reason on this side");
    describe_histogram!("dwcp_latency_seconds", "How long requests took");
    describe_counter!("dwcp_component_requests_total", "Requests that were handled, by component");
    describe_counter!("dwcp_component_errors_total", "Requests that failed for a reason on this side, by component");
    describe_gauge!("dwcp_build_info", "The program's version");
    describe_gauge!("dwcp_config_info", "What is in force");
    counter!("dwcp_requests_total").absolute(0);
    counter!("dwcp_errors_total").absolute(0);
    gauge!("dwcp_build_info", "version" => version).set(1.0);
    gauge!("dwcp_config_loaded").set(0.0);
}

/// One request was handled.
pub(crate) fn served(component: &'static str, error: bool, took: Duration) {
    counter!("dwcp_requests_total").increment(1);
    counter!("dwcp_component_requests_total", "component" => component).increment(1);
    if error {
        counter!("dwcp_errors_total").increment(1);
        counter!("dwcp_component_errors_total", "component" => component).increment(1);
    }
    histogram!("dwcp_latency_seconds").record(took.as_secs_f64());
}
