//! Crate `dataplane-agent`.
