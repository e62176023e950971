//! Crate `tests-scenarios`.
