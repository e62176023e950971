//! Each noun's verbs; this module only dispatches.

mod agent_check;
mod audit;
mod bench;
mod check;
mod clock_skew;
mod config;
mod context;
mod finding;
mod follow;
mod hde;
mod local_check;
mod node;
mod node_check;
mod operator;
mod ping;
mod send;
mod sync;
mod system;
mod token;
mod transfer;

use std::{process::ExitCode, time::Duration};

use clap::CommandFactory;

use crate::{
    args::{Args, Verb},
    failure::{Exit, Failure},
    output::Output,
};

/// Runs the verb.
pub(crate) async fn run(args: Args, output: &Output) -> Result<ExitCode, Failure> {
    let Args { global, verb } = args;
    let done = |()| ExitCode::SUCCESS;
    match verb {
        Verb::Send(send) => send::run(&global, output, send).await,
        Verb::Node(verb) => node::run(&global, output, verb).await.map(done),
        Verb::Token(verb) => token::run(&global, output, verb).await.map(done),
        Verb::Operator(verb) => operator::run(&global, output, verb).await.map(done),
        Verb::Config(verb) => config::run(&global, output, verb).await,
        Verb::Transfer(verb) => transfer::run(&global, output, verb).await,
        Verb::Sync(verb) => sync::run(&global, output, verb).await,
        Verb::Audit(verb) => audit::run(&global, output, verb).await,
        Verb::Hde(verb) => hde::run(output, verb).map(done),
        Verb::Ping(ping) => ping::run(&global, output, ping).await.map(done),
        Verb::Bench(bench) => bench::run(&global, output, bench).await,
        Verb::Check(check) => check::run(&global, output, check).await,
        Verb::Context(verb) => context::run(&global, output, verb).map(done),
        Verb::System(verb) => system::run(&global, output, verb).await.map(done),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "dwcp", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `nodes/x` from `x`; a full name stays as it is.
fn resource(collection: &str, name: &str) -> String {
    if name.starts_with(&format!("{collection}/")) { name.to_owned() } else { format!("{collection}/{name}") }
}

/// The last part of a resource's name.
fn short(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

/// An id that makes a repeat of the same call harmless.
fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// How often, and how long after one another, a call is made whose outcome is not known: the database is back within seconds, or not soon.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Makes a call that changes something. Where the server cannot say whether it was made, it is repeated with the same request id, so that
/// it is made once.
async fn once<R: Clone, T>(
    request: R,
    call: impl AsyncFn(R) -> Result<tonic::Response<T>, tonic::Status>,
) -> Result<T, Failure> {
    let mut tries = 1;
    loop {
        let failure = match call(request.clone()).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => Failure::from(status),
        };
        if failure.reason.as_deref() != Some("OUTCOME_UNKNOWN") || tries == TRIES {
            return Err(failure);
        }
        tries += 1;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// A token that was made, and whose secret was lost with the first answer: a repeat never shows it.
fn secret_lost(name: &str, noun: &str) -> Failure {
    let hint = format!("dwcp {noun} revoke {}, and make another", short(name));
    Failure::new(Exit::Temporary, format!("{name} was made, but the answer with its secret was lost")).hint(hint)
}

/// `k=v,k=v`.
fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
