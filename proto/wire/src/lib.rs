//! Crate `proto-wire`.

pub mod hde;
