//! The control plane's program: what `dwcp-control-plane` does, as a library, so that tests run it in their own process.
//!
//! [`run`] puts the parts together: the data directory, the private PostgreSQL ([`postgres`]), the fleet's keys, the hub of agents, the
//! gRPC port with `admin.sock`, HTTP and metrics, the DHT node of the ring.

mod admin_files;
mod advertise;
mod anchor;
mod backend;
pub mod backup;
mod connections;
mod data_dir;
mod grpc_listener;
mod grpc_services;
mod host_checks;
mod http_ports;
pub mod limits;
pub mod listen;
mod measures;
pub mod options;
pub mod postgres;
mod ready;
mod revocations;
mod run;
mod tls;

pub use admin_files::AdminFilesError;
pub use anchor::AnchorError;
pub use data_dir::DataDirError;
pub use limits::Limits;
pub use options::{Cli, Command, Options};
pub use run::{RunError, run};
pub use tls::TlsError;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
