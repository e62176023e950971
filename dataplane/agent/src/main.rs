//! `dwcp-agent`.

use std::{env, io, process::ExitCode};

use dataplane_agent::{
    chain,
    command::{self, Asked},
    content, content_as_owner, join, join_as_owner, run,
};
use foundation_runtime::{Clock, TaskGroup, stop_signal};

fn main() -> ExitCode {
    let asked = match command::parse(env::args_os()) {
        Ok(asked) => asked,
        Err(said) => {
            // Help goes to a pipe that may be closed.
            drop(said.print());
            return ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(2));
        }
    };
    // Another call's provider would be the same.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let asked = match asked {
        Asked::Join(mut args) => {
            join_as_owner(&mut args).map(|()| Asked::Join(args)).map_err(|error| error.to_string())
        }
        Asked::Content(mut args) => {
            content_as_owner(&mut args).map(|()| Asked::Content(args)).map_err(|error| chain(&error))
        }
        run @ Asked::Run(_) => Ok(run),
    };
    match asked.and_then(start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("dwcp-agent: {why}");
            ExitCode::FAILURE
        }
    }
}

fn start(asked: Asked) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let ended = runtime.block_on(async {
        let clock = Clock::system();
        match asked {
            Asked::Join(args) => {
                let tasks = TaskGroup::new("join");
                Box::pin(join(args, &clock, &tasks, &mut io::stdout())).await.map_err(|error| error.to_string())
            }
            Asked::Content(args) => {
                Box::pin(content(args, clock, &mut io::stdout())).await.map_err(|error| chain(&error))
            }
            Asked::Run(args) => Box::pin(run(*args, clock, stopped())).await.map_err(|error| chain(&error)),
        }
    });
    // What still blocks a thread was named in the log, and must not hold up the stop.
    runtime.shutdown_background();
    ended
}

async fn stopped() {
    match stop_signal().await {
        Ok(signal) => tracing::info!(component = "agent", ?signal, "Asked to stop"),
        Err(error) => {
            tracing::warn!(component = "agent", %error, "Signals cannot be listened to; only SIGKILL ends this process");
            std::future::pending().await
        }
    }
}
