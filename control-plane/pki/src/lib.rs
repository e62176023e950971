//! Crate `control-plane-pki`.
