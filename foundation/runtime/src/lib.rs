//! Crate `foundation-runtime`.
