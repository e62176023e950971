//! `dwcp-control-plane`.

use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use control_plane_server::{Cli, run};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dwcp-control-plane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let options = Cli::parse().options()?;
    // Another call's provider would be the same.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options, Arc::new(String::new)))?;
    Ok(())
}
