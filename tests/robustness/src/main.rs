//! `tests/robustness/run`: the campaigns that take longer than a suite may.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tests_robustness::{Mode, Options, cut_power, run};

/// What to hurt, and how much.
#[derive(Debug, Parser)]
struct Args {
    /// Kills in each mode.
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Of all that is random; a new one where absent.
    #[arg(long)]
    seed: Option<u64>,
    /// One of the two modes only.
    #[arg(long)]
    mode: Option<ModeName>,
    /// Kills in a phase, at most.
    #[arg(long, default_value_t = 8)]
    phase: u32,
    /// Megabytes of a large file.
    #[arg(long, default_value_t = 12)]
    megabytes: usize,
    /// Power cuts instead of kills (as root: it mounts a file system of its own).
    #[arg(long)]
    cuts: Option<u32>,
    /// Where history and logs are kept when something is wrong.
    #[arg(long, default_value = "/tmp/dwcp-robustness")]
    keep: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeName {
    /// Two servers over one outside PostgreSQL.
    Outside,
    /// One server with a PostgreSQL of its own.
    Embedded,
}

#[allow(clippy::print_stdout, reason = "a command prints what it found")]
fn main() -> Result<()> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    if let Some(cuts) = args.cuts {
        println!("{:?}, seed {seed}", cut_power(cuts, seed, args.megabytes << 20)?);
        return Ok(());
    }
    let modes = match args.mode {
        None => vec![Mode::Outside, Mode::Embedded],
        Some(ModeName::Outside) => vec![Mode::Outside],
        Some(ModeName::Embedded) => vec![Mode::Embedded],
    };
    for mode in modes {
        println!("mode                  {mode:?}, seed {seed}");
        let options = Options {
            seed,
            kills: args.kills,
            phase: args.phase.max(2),
            large: args.megabytes << 20,
            mode,
            keep: args.keep.clone(),
        };
        println!("{}\n", run(&options)?);
    }
    Ok(())
}
