//! Crate `control-plane-fleet`.
