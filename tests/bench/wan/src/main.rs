//! A transfer over emulated wide-area paths beside its rivals, in one run: goodput, start, bytes sent beyond the useful ones, standing
//! queue; and how it shares a path with TCP. Figures are printed, never asserted; runs in which the emulator was late do not count.

mod alone;
mod bed;
mod beside;
mod case;
mod contestant;
mod drive;
mod figures;
mod quinn_pair;
mod small_files;
mod updates;

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::{
    bed::Bed,
    beside::Joins,
    case::{CASES, Case},
    contestant::{ALL, Contestant},
};

/// A transfer over emulated paths beside its rivals.
#[derive(Debug, Parser)]
#[command(name = "dwcp-bench-wan", args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    alone: Alone,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Next to TCP CUBIC flows: shares and Jain's index
    Beside(Beside),
    /// Many small files beside one of the same size, by dwcp and rsync
    SmallFiles(small_files::SmallFiles),
    /// New versions to a receiver that holds the old ones, by dwcp and rsync -z
    Updates(updates::Updates),
    #[command(hide = true)]
    QuinnReceive(QuinnReceive),
    #[command(hide = true)]
    QuinnSend(QuinnSend),
}

#[derive(Debug, Args)]
struct Common {
    /// Who, by name; may be repeated [default: all]
    #[arg(long = "contestant")]
    contestants: Vec<Contestant>,
    /// Interleaved runs of each, with as many seeds
    #[arg(long, default_value_t = 3)]
    runs: u64,
    /// The first seed of what is lost
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the agents log, as RUST_LOG has it (`dataplane_amst=trace`: each round trip); the sender's log is kept in a file
    /// named CASE-CONTESTANT-SEED.log
    #[arg(long, value_name = "LEVELS")]
    agent_log: Option<String>,
    /// The fleet's configuration, as `dwcp config set fleet` takes it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Everything measured
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Common {
    fn contestants(&self) -> Vec<Contestant> {
        if self.contestants.is_empty() { ALL.iter().map(|(_, one)| *one).collect() } else { self.contestants.clone() }
    }
}

#[derive(Debug, Args)]
struct Alone {
    /// RTT,RATE,LOSS; may be repeated [default: six of them]
    #[arg(long = "case")]
    cases: Vec<Case>,
    /// The bottleneck's queue; may be repeated [default: 1bdp and 0.25bdp]
    #[arg(long = "queue")]
    queues: Vec<String>,
    /// How long a transfer takes at the link's rate
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Beside {
    /// RTT,RATE,LOSS
    #[arg(long, default_value = "80ms,200mbit,0")]
    case: Case,
    /// The bottleneck's queue
    #[arg(long, default_value = "1bdp")]
    queue: String,
    /// So many TCP flows; may be repeated [default: 1 and 4]
    #[arg(long)]
    flows: Vec<u32>,
    /// When the contestant joins; may be repeated [default: all three]
    #[arg(long)]
    joins: Vec<Joins>,
    /// How long all run
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct QuinnReceive {
    address: SocketAddr,
    certificate: PathBuf,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    for_seconds: f64,
}

#[derive(Debug, Args)]
struct QuinnSend {
    address: SocketAddr,
    to: SocketAddr,
    certificate: PathBuf,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    congestion: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match options.command {
        None => alone(&options.alone),
        Some(Command::Beside(beside)) => measured_beside(&beside),
        Some(Command::SmallFiles(options)) => {
            print_line(&machine()?);
            let cells = options.measure(&mut Bed::new(&options.common)?)?;
            keep(options.common.json.as_ref(), &options.to_json(&cells))
        }
        Some(Command::Updates(options)) => {
            print_line(&machine()?);
            let cells = options.measure(&mut Bed::new(&options.common)?)?;
            keep(options.common.json.as_ref(), &options.to_json(&cells))
        }
        Some(Command::QuinnReceive(options)) => {
            let QuinnReceive { address, certificate, connections, for_seconds } = options;
            let bytes = runtime()?.block_on(quinn_pair::receive(address, &certificate, connections, for_seconds))?;
            print_line(&bytes.to_string());
            Ok(())
        }
        Some(Command::QuinnSend(options)) => {
            let QuinnSend { address, to, certificate, connections, congestion } = options;
            runtime()?.block_on(quinn_pair::send(address, to, &certificate, connections, &congestion))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("a runtime")
}

fn alone(options: &Alone) -> Result<()> {
    let cases = if options.cases.is_empty() {
        CASES.iter().map(|text| text.parse()).collect::<Result<_>>()?
    } else {
        options.cases.clone()
    };
    let queues =
        if options.queues.is_empty() { vec!["1bdp".to_owned(), "0.25bdp".to_owned()] } else { options.queues.clone() };
    let plan = alone::Plan {
        cases,
        queues,
        contestants: options.common.contestants(),
        runs: options.common.runs,
        seed: options.common.seed,
        seconds: options.seconds,
    };
    print_line(&format!("{}; medians of {} runs, in real time", machine()?, plan.runs));
    let cells = alone::measure(&mut Bed::new(&options.common)?, &plan)?;
    keep(options.common.json.as_ref(), &json!({ "machine": machine()?, "seconds": options.seconds, "alone": cells }))
}

fn measured_beside(options: &Beside) -> Result<()> {
    let plan = beside::Plan {
        case: options.case.clone(),
        queue: options.queue.clone(),
        contestants: options.common.contestants(),
        flows: if options.flows.is_empty() { vec![1, 4] } else { options.flows.clone() },
        joins: if options.joins.is_empty() {
            vec![Joins::Before, Joins::With, Joins::After]
        } else {
            options.joins.clone()
        },
        runs: options.common.runs,
        seed: options.common.seed,
        seconds: options.seconds,
    };
    print_line(&machine()?);
    let cells = beside::measure(&mut Bed::new(&options.common)?, &plan)?;
    keep(options.common.json.as_ref(), &json!({ "machine": machine()?, "seconds": options.seconds, "beside": cells }))
}

/// Cores, load, and what TCP may choose from.
fn machine() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let known = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
    let present = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let bbr = if known.contains("bbr") { "" } else { " (no bbr in this kernel)" };
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("{cores} cores, load {load}; TCP knows {}{bbr}, rsync has {}", known.trim(), present.trim()))
}

fn keep(file: Option<&PathBuf>, what: &serde_json::Value) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    fs::write(file, serde_json::to_vec_pretty(what)?).with_context(|| file.display().to_string())
}

#[allow(clippy::print_stdout, reason = "this program's result is what it prints")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}
