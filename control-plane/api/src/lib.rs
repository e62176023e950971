//! The gRPC API of the control plane: one file per service, each of which parses, calls and translates.
//!
//! [`auth`] stands before all of them; [`error`] and [`paging`] are what they have in common; [`services`] is all of them.

pub mod agent;
pub mod audit;
pub mod auth;
pub mod bench;
pub mod config;
pub mod error;
pub mod join_tokens;
pub mod nodes;
pub mod operator_tokens;
pub mod paging;
mod rate_limit;
pub mod request;
mod service_names;
mod services;
mod state;
pub mod syncs;
pub mod system;
mod time;
pub mod transfers;
mod watch;

pub use services::services;
pub use state::State;
pub use system::{DatabaseKind, Finding, HostFindings, ServerFacts, ServerLimit, Severity};
pub use watch::Watches;

#[cfg(test)]
mod tests;
