//! Crate `proto-wire`.
