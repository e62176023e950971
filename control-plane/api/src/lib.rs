//! Crate `control-plane-api`.
