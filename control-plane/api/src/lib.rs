//! The gRPC API of the control plane: one file per service, each of which parses, calls and translates.
//!
//! [`auth`] stands before all of them; [`error`] and [`paging`] are what they have in common.

pub mod auth;
pub mod error;
pub mod paging;
pub mod request;
mod state;

pub use state::State;
