//! Compares HDE with other ways of making a new version small against an old one, on pairs of versions of real things.
//!
//! `tests/bench/hde/run` builds it and what it runs. Timings are printed, never asserted; what is decoded is compared byte by byte.

mod cases;
mod child;
mod contestant;
mod dwcp;
mod pair;
mod prefix;
mod table;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::{
    contestant::{Contestant, Limits, Places, decode, encode},
    pair::{Pair, pairs, same},
    table::{Row, summary},
};

/// HDE beside its rivals, on pairs of versions.
#[derive(Debug, Parser)]
#[command(name = "dwcp-bench-hde", args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    sets: Sets,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Data that nothing makes smaller, tiny edits, many small files, files beyond 3 GB
    Cases(cases::Cases),
    /// Prints the comparison of what was measured before, from files of `--json`; a later row takes the place of an earlier one
    Table { files: Vec<PathBuf> },
    #[command(hide = true)]
    PrefixEncode(Prefix),
    #[command(hide = true)]
    PrefixDecode(Prefix),
}

#[derive(Debug, Args)]
struct Prefix {
    level: i32,
    baseline: PathBuf,
    file: PathBuf,
    out: PathBuf,
}

impl Prefix {
    fn run(&self, decode: bool) -> Result<()> {
        let (cpu, wall) = prefix::on_files(decode, self.level, &self.baseline, &self.file, &self.out)?;
        print_line(&format!("{cpu} {wall}"));
        Ok(())
    }
}

#[derive(Debug, Args)]
struct Common {
    /// Where `tests/bench/hde/datasets` put its pairs
    #[arg(long, env = "DWCP_HDE_DATA", default_value = "/var/tmp/dwcp-hde")]
    data: PathBuf,
    /// Where encoded and decoded files go: in memory, so that no disk is waited for
    #[arg(long, default_value = "/dev/shm")]
    scratch: PathBuf,
    /// The program under test [default: beside this one]
    #[arg(long, env = "DWCP_BIN")]
    bin: Option<PathBuf>,
    /// Everything measured, a line for each contestant and set, after what is there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Sets {
    /// By name, with commas [default: all]
    #[arg(long, value_delimiter = ',')]
    sets: Vec<String>,
    /// Only these contestants, by name, with commas
    #[arg(long, value_delimiter = ',')]
    who: Vec<String>,
    /// Interleaved runs of each; the least counts. Rivals that take minutes run once
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only dwcp, zstd -3 and pf-3, once
    #[arg(long)]
    quick: bool,
    /// Figures of slow rivals (all but zstd -3 and pf-3) from an earlier `--json`, where they are there
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// The largest new version for `zstd -19 --patch-from`, in MB
    #[arg(long, default_value_t = 150)]
    slow_limit: u64,
    /// The largest for HDiffPatch, whose memory is some 6 times that
    #[arg(long, default_value_t = 450)]
    hdiffpatch_limit: u64,
    #[command(flatten)]
    common: Common,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match options.command {
        None => measure(&options.sets),
        Some(Command::Cases(cases)) => cases.measure(),
        Some(Command::Table { files }) => {
            let mut rows: Vec<Row> = Vec::new();
            for file in &files {
                for row in read_rows(file)? {
                    let known =
                        rows.iter_mut().find(|known| known.set == row.set && known.contestant == row.contestant);
                    match known {
                        Some(known) => *known = row,
                        None => rows.push(row),
                    }
                }
            }
            rows.sort_by_key(|row| (row.new_bytes, row.set.clone()));
            summary(&rows);
            Ok(())
        }
        Some(Command::PrefixEncode(prefix)) => prefix.run(false),
        Some(Command::PrefixDecode(prefix)) => prefix.run(true),
    }
}

fn measure(options: &Sets) -> Result<()> {
    let common = &options.common;
    let scratch = tempfile::tempdir_in(&common.scratch)?;
    let places = places(common, scratch.path())?;
    let (ways, _) = dwcp::ways(&places.dwcp)?;
    let mut who = vec![Contestant::Zstd3, Contestant::Prefix(3)];
    who.extend(ways.into_iter().map(Contestant::Dwcp));
    if !options.quick {
        who.extend([Contestant::PatchFrom19, Contestant::Xdelta3, Contestant::Rsync, Contestant::Casync]);
        let module = child::run(std::process::Command::new(&places.python).args(["-c", "import hdiffpatch"]));
        match module {
            Ok(_) => who.push(Contestant::HDiffPatch),
            Err(error) => print_line(&format!("without HDiffPatch: {error}")),
        }
    }
    who.retain(|one| options.who.is_empty() || options.who.contains(&one.name()));
    let known = options.known.as_deref().map(read_rows).transpose()?.unwrap_or_default();
    let limits =
        Limits { slow_bytes: options.slow_limit * 1_000_000, hdiffpatch_bytes: options.hdiffpatch_limit * 1_000_000 };
    let mut json = common.json.as_ref().map(|file| File::options().create(true).append(true).open(file)).transpose()?;
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    let runs = if options.quick { 1 } else { options.runs };
    print_line(&format!("{}; least of {runs} interleaved runs\n", machine()?));
    for pair in pairs(&common.data.join("pairs"), &options.sets)? {
        let rows = on(&pair, &who, runs, &known, &limits, &places, &mut failed)?;
        for row in &rows {
            row.print();
            if let Some(json) = &mut json {
                writeln!(json, "{}", serde_json::to_string(row)?)?;
            }
        }
        all.extend(rows);
    }
    summary(&all);
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Every contestant on one pair; `failed` gets those that did not do as promised.
fn on(
    pair: &Pair,
    who: &[Contestant],
    runs: usize,
    known: &[Row],
    limits: &Limits,
    places: &Places,
    failed: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    pair.warm()?;
    for run in 0..runs {
        for one in who.iter().filter(|one| one.takes(pair, limits)) {
            let name = one.name();
            let before = known.iter().find(|row| row.set == pair.name && row.contestant == name);
            if let (true, Some(row)) = (one.is_slow(), before) {
                if run == 0 {
                    ensure!(row.new_bytes == pair.new_bytes, "{}: known figures are of other data", pair.name);
                    rows.push(row.clone());
                }
                continue;
            }
            if one.is_slow() && run > 0 {
                continue;
            }
            let row = match once(*one, pair, places) {
                Ok(row) => row,
                Err(error) => {
                    print_line(&format!("{}: {name}: {error:#}", pair.name));
                    failed.push(format!("{name} on {}", pair.name));
                    continue;
                }
            };
            match rows.iter_mut().find(|row| row.contestant == name) {
                Some(there) => there.merge(&row),
                None => rows.push(row),
            }
        }
    }
    for file in fs::read_dir(&places.scratch)? {
        drop(fs::remove_file(file?.path()));
    }
    Ok(rows)
}

fn once(who: Contestant, pair: &Pair, places: &Places) -> Result<Row> {
    let (bytes, cost) = encode(who, pair, places)?;
    let decoded = decode(who, pair, places)?;
    if decoded.is_some() {
        same(&places.decoded(), &pair.new)?;
    }
    drop(fs::remove_file(places.decoded()));
    Ok(Row {
        set: pair.name.clone(),
        contestant: who.name(),
        new_bytes: pair.new_bytes,
        bytes,
        encode: cost,
        decode: decoded,
        load: load()?,
    })
}

fn places(common: &Common, scratch: &Path) -> Result<Places> {
    let beside = std::env::current_exe()?.with_file_name("dwcp");
    let dwcp = common.bin.as_ref().map_or(beside, |folder| folder.join("dwcp"));
    ensure!(dwcp.is_file(), "{} is missing: tests/bench/hde/run builds it", dwcp.display());
    let python = common.data.join("tools/bin/python");
    let (_, threads) = dwcp::ways(&dwcp)?;
    Ok(Places { scratch: scratch.to_owned(), dwcp, threads, python })
}

fn read_rows(file: &Path) -> Result<Vec<Row>> {
    let lines = BufReader::new(File::open(file).with_context(|| file.display().to_string())?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').next().unwrap_or_default().to_owned())
}

fn machine() -> Result<String> {
    Ok(format!("{} cores, load {}", std::thread::available_parallelism()?, load()?))
}

#[allow(clippy::print_stdout, reason = "this program's result is what it prints")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}
