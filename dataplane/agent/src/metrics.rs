//! The agent's own metrics; those of requests, transport and codec belong to who measures them.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use proto_model::config::Effective;

/// Says what the names mean.
pub(crate) fn describe(version: &'static str) {
    describe_gauge!("dwcp_build_info", "The program's version; always 1.");
    describe_gauge!("dwcp_config_info", "The configuration in force; always 1.");
    describe_counter!(
        "dwcp_audit_verify_failures_total",
        "Audit heads that did not continue the one that this agent holds."
    );
    describe_gauge!("dwcp_audit_witnessed_events", "How many events the audit head covers that this agent holds.");
    counter!("dwcp_audit_verify_failures_total").increment(0);
    gauge!("dwcp_audit_witnessed_events").set(0.0);
    foundation_telemetry::requests::register();
    gauge!("dwcp_build_info", "version" => version).set(1.0);
    gauge!("dwcp_config_loaded").set(0.0);
}

/// A configuration is in force.
pub(crate) fn in_force(effective: &Effective, before: Option<&Effective>) {
    gauge!("dwcp_enabled").set(if effective.config.enabled { 1.0 } else { 0.0 });
    gauge!("dwcp_config_loaded").set(1.0);
    if let Some(before) = before.filter(|before| before.digest != effective.digest) {
        // Without a way to drop a series, what is not in force any more is 0.
        gauge!("dwcp_config_info", "hash" => before.digest.to_string()).set(0.0);
    }
    gauge!("dwcp_config_info", "hash" => effective.digest.to_string()).set(1.0);
}
