//! Scenarios: one file a promise, each with real processes. See `tests/`.
