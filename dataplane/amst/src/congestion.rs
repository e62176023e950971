//! Congestion control: how many bytes of a session may be under way.
//!
//! One [`Core`] governs a session. Its *lanes* (connections to one peer) tell it what they sent, what was acknowledged and
//! what was lost; it tells each its share of one window, so that the session weighs as much as one flow however many lanes it
//! has. It is pure: no socket, no clock, and no word of the QUIC library outside of `adapter`. Time comes in as an argument, and
//! may step back a little between lanes of different threads.
//!
//! The library paces at 1.25 × window / smoothed round trip (RFC 9002 7.7) and reads back nothing but the window, so that an
//! algorithm has to say all it means in bytes under way.

pub(crate) mod adapter;
mod auto;
mod bbr;
mod core;
mod cubic;
mod cubic_curve;
mod rate_sample;
mod reno;
mod rtt;

pub use self::core::{Acked, Core, LaneId, Lost, Mode, Snapshot};

#[cfg(test)]
mod tests;
