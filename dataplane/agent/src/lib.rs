//! The agent of a host: joins a fleet, and runs what a member runs.
//!
//! One loop (`keeper`) keeps what is in force at what should be; the parts (transport, session with the control plane,
//! discovery, transfers, local store, HTTP, `agent.sock`) are started and watched, a part that fails is started again and shown,
//! and none of them needs the control plane to be there.

mod apply;
mod bandwidth;
mod benches;
pub mod command;
mod configuration;
mod content;
mod content_verb;
mod data_dir;
mod defaults;
mod discovery;
mod health;
mod host;
mod host_health;
mod http;
mod join;
mod keeper;
mod layers;
mod listen;
mod local;
mod member;
mod metrics;
mod metrics_port;
mod profiles;
mod rdma;
mod reach;
mod ready;
mod records;
mod run;
mod service_status;
mod socket_buffers;
mod supervisor;
mod syncs;
mod transfers;
mod turns;
mod view;

pub use apply::chain;
pub use content_verb::{ContentVerbError, content, content_as_owner};
pub use data_dir::DataDirError;
pub use join::{JoinError, as_owner as join_as_owner, join};
pub use layers::LayersError;
pub use listen::ListenError;
pub use member::MemberError;
pub use run::{RunError, run};

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
