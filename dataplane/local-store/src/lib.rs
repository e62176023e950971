//! Crate `dataplane-local-store`.
