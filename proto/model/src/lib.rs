//! Crate `proto-model`.
