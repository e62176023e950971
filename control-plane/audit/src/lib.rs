//! Crate `control-plane-audit`.
