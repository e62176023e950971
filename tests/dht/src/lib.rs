//! The DHT on a bad day, over real UDP: a fleet cut in two, and a ring with made-up nodes around one record.

#![allow(clippy::disallowed_methods, reason = "these tests act in real time")]

pub mod alarm;
pub mod begin;
pub mod eclipse;
pub mod fleet;
pub mod krpc;
pub mod partition;
pub mod probe;
pub mod side;
pub mod sybils;
