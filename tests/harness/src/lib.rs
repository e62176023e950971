//! Starts real processes for scenarios: PostgreSQL (embedded or one of its own), control planes, agents, an OTLP receiver.
//!
//! Every port is chosen by the kernel, every folder is temporary, and what was started is stopped when its handle is
//! dropped. Waiting is always for something that can be seen, with a deadline; nothing sleeps to be on the safe side.

mod agent;
mod agent_service;
mod api;
mod binaries;
mod cli;
mod control_plane;
mod fault;
mod fleet;
mod fleet_keys;
mod grpcurl;
mod held_ports;
mod host;
mod metric;
mod mounts;
mod otlp;
mod process;
mod ready;
mod scratch;
mod seed;
mod tree;
mod two_hosts;
mod two_servers;
mod wait;

pub use agent::{Agent, AgentOptions, join_arguments};
pub use agent_service::{Shown, agent_channel, agent_service, certificate_refusal};
pub use api::{Api, Bearer};
pub use binaries::binary;
pub use cli::{Cli, Ran};
pub use control_plane::{ControlPlane, ControlPlaneOptions};
pub use fault::{SmallDisk, Stopped, clock_off_by};
pub use fleet::{Fleet, FleetOptions};
pub use fleet_keys::fleet_keys;
pub use grpcurl::{Grpcurl, grpcurls};
pub use host::{Host, repository};
pub use metric::{limit_hits, metric};
pub use mounts::{as_seen_by, private_mounts};
pub use otlp::{OtlpReceiver, SeenEvent, SeenSpan};
pub use process::Process;
pub use scratch::Scratch;
pub use seed::seed;
pub use tree::{digest_tree, fill_random, write_sample_tree};
pub use two_hosts::{End, TwoHosts, digest, joined, page, typed};
pub use two_servers::two_servers;
pub use wait::{eventually, eventually_async};
