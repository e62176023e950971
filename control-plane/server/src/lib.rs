//! Crate `control-plane-server`.
