//! Crate `dataplane-hde`.
