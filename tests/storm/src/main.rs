//! `tests/storm/run`: many agents of one control plane on a bad day, at a size that takes longer than a suite may.

#![allow(clippy::print_stdout, reason = "a command prints what it found")]

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tests_storm::{Herd, HerdOptions, SilentOptions, paused};

/// What to try.
#[derive(Debug, Parser)]
struct Args {
    /// Agents.
    #[arg(long, default_value_t = 500)]
    agents: u16,
    /// Times that all servers are killed and started again.
    #[arg(long, default_value_t = 3)]
    restarts: u32,
    /// Seconds for which they are away.
    #[arg(long, default_value_t = 30)]
    away: u64,
    /// New sessions that a server may begin in a second.
    #[arg(long, default_value_t = 25)]
    rate: u32,
    /// So many agents stand still while configurations are written, instead.
    #[arg(long)]
    silent: Option<u16>,
    /// Configurations that are written then.
    #[arg(long, default_value_t = 200)]
    revisions: u32,
    /// So many times a server stands still while another goes on, instead.
    #[arg(long)]
    pauses: Option<u32>,
    /// Of all that is random; a new one where absent.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(silent) = args.silent {
        let found = tests_storm::silent(&SilentOptions { agents: args.agents, silent, revisions: args.revisions })?;
        println!("{found}");
        return found.check();
    }
    if let Some(rounds) = args.pauses {
        let found = paused(rounds, args.seed.unwrap_or_else(rand::random))?;
        println!("{found}");
        return found.check();
    }
    let options = HerdOptions {
        agents: args.agents,
        restarts: args.restarts,
        away: Duration::from_secs(args.away),
        rate: args.rate,
    };
    let mut herd = Herd::start(options)?;
    for restart in 1..=options.restarts {
        let storm = herd.storm()?;
        println!("restart {restart}: {storm}");
        storm.check()?;
    }
    herd.stop();
    Ok(())
}
