//! Crate `control-plane-store`.
