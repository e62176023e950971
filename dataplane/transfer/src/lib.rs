//! Crate `dataplane-transfer`.
