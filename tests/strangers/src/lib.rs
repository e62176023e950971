//! Strangers on every port: what they do to a running fleet, and what that costs those who belong to it.
//!
//! The attacks are functions over addresses, so that a scenario runs a few for seconds and the command `tests/strangers/run` all of them for
//! minutes, with the main job going on.

#![allow(clippy::disallowed_methods, reason = "strangers act in real time")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod bed;
pub mod calls;
pub mod datagrams;
pub mod held;
pub mod http2;
pub mod measure;
pub mod peer;
pub mod quic;
mod sources;

pub use bed::{Bed, Phase, Targets};
pub use sources::source;
