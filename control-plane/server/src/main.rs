//! `dwcp-control-plane`.

use std::{error::Error, process::ExitCode};

use clap::Parser as _;
use control_plane_server::{Cli, Options, backup, options::Command, run};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dwcp-control-plane: {}", line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let command = Cli::parse().command()?;
    // Another call's provider would be the same.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        Command::Run(options) => runtime.block_on(serve(*options)),
        Command::Backup(options) => Ok(runtime.block_on(backup::create(options))?),
        Command::Restore(options) => Ok(runtime.block_on(backup::restore(options))?),
        Command::OpenEpoch(options) => Ok(runtime.block_on(backup::open_epoch(options))?),
    }
}

async fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    let telemetry = foundation_telemetry::init(options.logging.telemetry())?;
    let ended = run(options, &telemetry).await;
    telemetry.shutdown().await;
    Ok(ended?)
}

/// An error and its causes in one line; a cause that the error has said already is not said again.
fn line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.replace('\n', "; ")
}
