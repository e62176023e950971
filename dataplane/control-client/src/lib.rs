//! Crate `dataplane-control-client`.
