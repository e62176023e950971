//! Crate `foundation-telemetry`.
