//! `dwcp`: the operator's command line.
//!
//! Noun and verb, as `args` declares them; each noun is a module of `verbs`. Data goes to standard output, talk to
//! standard error. JSON is the API's message in proto3 JSON. Exit codes stand in `failure`.

mod args;
mod connection;
mod context;
mod failure;
mod output;
mod part;
mod progress;
#[cfg(test)]
mod reference;
mod trace;
mod units;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Args, output::Output};

/// Parses the command line, runs the verb, and turns what went wrong into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    // The second installation in a process is the only failure, and there is no second.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors, and clap knows which stream and code each takes.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Output::new(args.global.output, args.global.color);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output.failure(&failure::Failure::failed(format!("cannot start the runtime: {error}")));
        }
    };
    let result = runtime.block_on(trace::traced(args.verb.name(), verbs::run(args, &output)));
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => output.failure(&failure),
    }
}
