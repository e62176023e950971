//! Many agents of one control plane on a bad day: all come back at once, some read nothing, a server stands still.
//!
//! An agent is here what the real one has of the control plane: its key, certificate, roster and the whole of its session
//! (`dataplane-control-client`), some hundreds in one process. Servers are real processes over a real PostgreSQL.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod bed;
mod figures;
mod herd;
mod look;
mod member;
mod paused;
mod silent;

pub use bed::Bed;
pub use figures::Spread;
pub use herd::{Herd, HerdOptions, Storm};
pub use paused::{Paused, paused};
pub use silent::{Silent, SilentOptions, silent};
