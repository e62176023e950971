//! Generated gRPC code of DWCP, and the descriptor sets it was generated from.
//!
//! Nothing here is written by hand. Generated types stop at `proto-model` and `proto-wire`: only the API, the CLI and the
//! agents' session with the control plane see them above that.

/// The whole descriptor set, with comments: for JSON of any message.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dwcp.fds.bin"));

/// The operators' package only: what reflection shows.
pub const OPERATOR_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dwcp.v1.fds.bin"));

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

/// Between agents and the control plane, package `dwcp.agent.v1`; and over `agent.sock`.
pub use generated::dwcp::agent::v1 as agent;
/// Control frames between two agents, package `dwcp.peer.v1`.
pub use generated::dwcp::peer::v1 as peer;
/// The operators' API, package `dwcp.v1`.
pub use generated::dwcp::v1;
