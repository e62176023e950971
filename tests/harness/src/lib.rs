//! Crate `tests-harness`.
