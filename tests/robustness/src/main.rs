//! `tests/robustness/run`: the campaigns that take longer than a suite may.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tests_robustness::{
    Cut, Killed, Mode, Options, cut_power, cut_power_of_syncs, fail_agents, fail_server, fail_while_writing,
    kill_far_apart, resend, revoke, run, start_often,
};

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
    /// Power cuts of a host that sends one sync and receives another, instead (as root).
    #[arg(long)]
    sync_cuts: Option<u32>,
    /// Kills of a receiver in the middle of one large file, one transfer each, instead.
    #[arg(long)]
    resends: Option<u32>,
    /// Kills of the sender or the receiver over an emulated path of 80 ms, 100 Mbit/s and 1 % of loss, one transfer each, instead (as root).
    #[arg(long)]
    distant: Option<u32>,
    /// Nodes that are deleted while they send and receive, instead.
    #[arg(long)]
    revocations: Option<u32>,
    /// Starts after kills at random moments, also while a program starts, instead.
    #[arg(long)]
    starts: Option<u32>,
    /// Rounds in each of which a server, PostgreSQL or its connections fail while eight operators write, instead.
    #[arg(long)]
    writes: Option<u32>,
    /// Every system call that may fail, with every error, at an agent and at a server, instead.
    #[arg(long)]
    syscalls: bool,
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
    if let Some(cuts) = args.sync_cuts {
        println!("{:?}, seed {seed}", cut_power_of_syncs(cuts, seed, args.megabytes << 20)?);
        return Ok(());
    }
    if let Some(rounds) = args.resends {
        let resent = resend(rounds, seed, wide(args.megabytes << 20))?;
        resent.iter().for_each(|one| {
            println!("{} MB had arrived, {} held, {} kB again", one.arrived >> 20, one.held >> 20, one.again / 1000)
        });
        let again: Vec<_> = resent.iter().map(|one| one.again / 1000).collect();
        println!("bytes sent again      {} kB a kill, seed {seed}", middle_and_most(again));
        return Ok(());
    }
    if let Some(kills) = args.distant {
        return distant(kills, seed, u32::try_from(args.megabytes)?);
    }
    if let Some(rounds) = args.revocations {
        let cuts = revoke(rounds, seed, wide(args.megabytes << 20))?;
        let of = |what: fn(&Cut) -> u64| middle_and_most(cuts.iter().map(what).collect());
        println!("session with the control plane gone after  {} ms", of(|cut| millis(cut.control)));
        println!("sessions with peers gone after             {} ms", of(|cut| millis(cut.peer)));
        println!("last byte moved after                      {} ms", of(|cut| millis(cut.moved_until)));
        println!("moved after the deletion                   {} kB", of(|cut| cut.moved / 1000));
        return Ok(());
    }
    if let Some(starts) = args.starts {
        println!("{:?}, seed {seed}", start_often(starts, seed, args.megabytes << 20)?);
        return Ok(());
    }
    if let Some(rounds) = args.writes {
        let written = fail_while_writing(rounds, seed)?;
        println!("{written}");
        return written.check();
    }
    if args.syscalls {
        println!("seed {seed}");
        fail_agents(seed, None)?;
        return fail_server(seed, None);
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

#[allow(clippy::print_stdout, reason = "a command prints what it found")]
fn distant(kills: u32, seed: u64, megabytes: u32) -> Result<()> {
    let killed = kill_far_apart(kills, seed, megabytes)?;
    for one in &killed {
        println!(
            "{:?} killed at {} %: {} kB again, {} kB on the path; went on {} ms after its start",
            one.end,
            one.at / 10,
            one.again / 1000,
            one.again_on_the_path / 1000,
            millis(one.resumed_after)
        );
    }
    let of = |what: fn(&Killed) -> u64| middle_and_most(killed.iter().map(what).collect());
    println!("bytes sent again          {} kB a kill of {megabytes} MB, seed {seed}", of(|one| one.again / 1000));
    println!("more than that on the path {} kB", of(|one| one.again_on_the_path / 1000));
    println!("went on after             {} ms", of(|one| millis(one.resumed_after)));
    Ok(())
}

fn middle_and_most(mut values: Vec<u64>) -> String {
    values.sort_unstable();
    let middle = values.get(values.len() / 2).copied().unwrap_or_default();
    format!("median {middle}, most {}", values.last().copied().unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
