//! The control plane's program: what `dwcp-control-plane` does, as a library, so that tests run it in their own process.

mod guarded;
pub mod listen;
pub mod options;
pub mod postgres;
mod ready;
mod tls;

pub use options::{Cli, Options};
