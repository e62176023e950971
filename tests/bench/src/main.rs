//! Compares a transfer over loopback with iperf3 (TCP) and rsync (daemon, no ssh), side by side in one run, and prints ratios.
//!
//! `tests/bench/run` installs the rivals and builds first. Timings are printed, never asserted.

mod measure;
mod memory;
mod rivals;
mod trees;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tempfile::TempDir;
use tests_harness::{AgentOptions, Fleet, FleetOptions, fill_random};

use crate::{
    measure::{Usage, median, timed},
    rivals::{amst, iperf3, rsync},
};

/// How much, and how often.
#[derive(Debug, Parser)]
struct Args {
    /// Megabytes of incompressible data in eight files.
    #[arg(long, default_value_t = 2000)]
    megabytes: u64,
    /// Interleaved runs of each.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// A configuration for the agents.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Leaves the rivals out: for profiles and for memory over a large transfer.
    #[arg(long)]
    alone: bool,
    /// Both roots, and rsync's folders, in memory: no disk is waited for.
    #[arg(long)]
    in_memory: bool,
    /// The example `loopback` of AMST: memory to memory over one lane, both ends in one process.
    #[arg(long, value_name = "PROGRAM")]
    amst: Option<PathBuf>,
    /// So many small files instead, beside rsync with and without `--fsync`.
    #[arg(long)]
    small_files: Option<u64>,
    /// So many transfers at once instead, of `--megabytes` each, with each agent's memory capped by a cgroup. Needs root.
    #[arg(long)]
    transfers: Option<u64>,
    /// With `--transfers`: streams of their session.
    #[arg(long, default_value_t = 256)]
    streams: u32,
    /// With `--transfers`: megabytes that each agent may have, with what the kernel caches for it.
    #[arg(long, default_value_t = 512)]
    cap: u64,
    /// So many empty files instead, in memory: for the memory that both agents need.
    #[arg(long)]
    entries: Option<u64>,
    /// With `--entries`: all in one folder.
    #[arg(long)]
    flat: bool,
}

/// One way of moving the data, over all runs.
#[derive(Debug, Default)]
struct Way {
    gbit_per_second: Vec<f64>,
    cpu_seconds_per_gb: Vec<f64>,
}

impl Way {
    fn add(&mut self, bytes: f64, seconds: f64, cpu_seconds: f64) {
        self.gbit_per_second.push(bytes * 8.0 / seconds / 1e9);
        self.cpu_seconds_per_gb.push(cpu_seconds / (bytes / 1e9));
    }

    fn median_gbit(&self) -> f64 {
        median(&self.gbit_per_second)
    }
}

/// Two agents, with their roots in this folder where it is given.
fn fleet(roots: Option<&Path>) -> Result<Fleet> {
    let Some(roots) = roots else { return Fleet::start(&FleetOptions::default()) };
    let mut fleet = Fleet::start(&FleetOptions { agents: Vec::new(), ..FleetOptions::default() })?;
    for name in ["site-a", "site-b"] {
        fleet.add_agent(AgentOptions {
            name: name.to_owned(),
            roots: vec![("data".to_owned(), roots.join(name))],
            relay: name == "site-a",
            ..AgentOptions::default()
        })?;
    }
    fleet.all_ready()?;
    Ok(fleet)
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(files) = args.small_files {
        return trees::small_files(files, args.runs);
    }
    if let Some(transfers) = args.transfers {
        return memory::concurrent(transfers, args.streams, args.cap, args.megabytes);
    }
    if let Some(entries) = args.entries {
        return trees::entries(entries, args.flat);
    }
    let memory = args.in_memory.then(|| tempfile::tempdir_in("/dev/shm")).transpose()?;
    let fleet = fleet(memory.as_ref().map(TempDir::path))?;
    if let Some(config) = &args.config {
        fleet.cli()?.ok(&["config", "set", "fleet", &config.display().to_string()])?;
    }
    let idle = measure::resident_megabytes(fleet.agents[1].process().pid())?;

    let (a, b) = (fleet.agents[0].root("data"), fleet.agents[1].root("data"));
    let source = a.join("set");
    fs::create_dir_all(&source)?;
    for part in 0..8 {
        fill_random(&source.join(format!("part-{part}")), args.megabytes * 1_000_000 / 8, part)?;
    }
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = (args.megabytes * 1_000_000) as f64;

    let (mut dwcp, mut transport) = (Way::default(), Way::default());
    let (mut tcp, mut daemon) = (Way::default(), Way::default());
    for run in 0..args.runs {
        send(&fleet, run, bytes, &mut dwcp)?;
        fs::remove_dir_all(b.join("in"))?;
        if let Some(program) = &args.amst {
            let (seconds, usage) = amst(program, args.megabytes)?;
            transport.add(bytes, seconds, usage.cpu_seconds);
        }
        if !args.alone {
            let (seconds, usage) = iperf3(args.megabytes)?;
            tcp.add(bytes, seconds, usage.cpu_seconds);
            let target = memory.as_ref().map_or(fleet.scratch.path(), TempDir::path).join("rsync");
            fs::create_dir(&target)?;
            let (seconds, usage) = rsync(fleet.scratch.path(), &source, &target)?;
            daemon.add(bytes, seconds, usage.cpu_seconds);
            fs::remove_dir_all(target)?;
        }
    }

    print_line(&format!("{} MB in 8 files, {} interleaved runs, medians\n", args.megabytes, args.runs));
    print_way("dwcp send", &dwcp);
    if args.amst.is_some() {
        print_way("AMST alone", &transport);
        print_line(&format!("goodput: {:.2} x AMST alone", dwcp.median_gbit() / transport.median_gbit()));
    }
    if !args.alone {
        print_way("iperf3 TCP", &tcp);
        print_way("rsync daemon", &daemon);
        let ratio = |other: &Way| dwcp.median_gbit() / other.median_gbit();
        print_line(&format!("\ngoodput: {:.2} x iperf3 TCP, {:.2} x rsync daemon", ratio(&tcp), ratio(&daemon)));
    }
    for (name, agent) in [("sender", &fleet.agents[0]), ("receiver", &fleet.agents[1])] {
        let peak = measure::peak_megabytes(agent.process().pid())?;
        print_line(&format!("{name}: peak resident {peak:.0} MB"));
    }
    print_line(&format!("idle agent: resident {idle:.0} MB"));
    Ok(())
}

fn send(fleet: &Fleet, run: usize, bytes: f64, way: &mut Way) -> Result<()> {
    let agents: Vec<_> = fleet.agents.iter().map(|agent| agent.process().pid()).collect();
    let before = Usage::of(&agents)?;
    let cli = fleet.cli()?;
    let (result, seconds) = timed(|| cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"]));
    let sent = result.with_context(|| format!("run {run}"))?;
    ensure!(sent["state"] == "SUCCEEDED", "{sent:#}");
    way.add(bytes, seconds, Usage::of(&agents)?.cpu_seconds - before.cpu_seconds);
    Ok(())
}

fn print_way(name: &str, way: &Way) {
    let (low, high) = measure::range(&way.gbit_per_second);
    print_line(&format!(
        "{name:<14} {:6.2} [{low:.2}-{high:.2}] Gbit/s   {:5.2} CPU s/GB",
        median(&way.gbit_per_second),
        median(&way.cpu_seconds_per_gb)
    ));
}

#[allow(clippy::print_stdout, reason = "this program's result is what it prints")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}
