//! Crate `dataplane-amst`.
