//! The control plane over HTTP: liveness, health, status, metrics, and the fleet's view of the paths that the manuals name.
//!
//! Whoever serves puts a [`Peer`] into each request's extensions, and what is answered comes from a [`Backend`]; so this crate knows neither
//! sockets nor the database. Who may ask what is [`access`]'s, and how often [`limits`]'.

pub mod access;
mod backend;
mod error;
pub mod limits;
mod routes;

pub use backend::{Backend, Component, ComponentState, FleetStatus, Unavailable};
pub use foundation_listener::http_server::Peer;
pub use limits::{Limits, ParseRateError, Rate};
pub use routes::{metrics_only, router};
