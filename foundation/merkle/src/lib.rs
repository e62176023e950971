//! Crate `foundation-merkle`.
