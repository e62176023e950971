//! Crate `dataplane-identity`.
