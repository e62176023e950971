//! Crate `control-plane-cli`.
