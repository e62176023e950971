//! Crate `tests-bench`.
