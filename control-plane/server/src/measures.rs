//! What the server's own metrics mean.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Says what they mean, and makes the counters begin at 0, so that a rate can be taken at the first failure.
pub(crate) fn describe(version: &'static str, commit: &'static str) {
    describe_gauge!("dwcp_build_info", "The program's version; always 1.");
    describe_gauge!("dwcp_grpc_connections", "Connections to the gRPC port and admin.sock that are open.");
    describe_counter!("dwcp_tls_handshake_failures_total", "TLS handshakes that failed or took too long.");
    describe_gauge!("dwcp_db_pool_connections", "Connections to PostgreSQL, used and idle.");
    describe_gauge!("dwcp_db_up", "1 where PostgreSQL can be used and written to.");
    describe_counter!("dwcp_audit_events_total", "Events in the audit log.");
    describe_gauge!("dwcp_audit_verified_sequence", "Up to which event the audit log was verified against the anchor.");
    counter!("dwcp_tls_handshake_failures_total").increment(0);
    gauge!("dwcp_build_info", "version" => version, "commit" => commit).set(1);
}
