//! Crate `control-plane-console`.
