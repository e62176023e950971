//! A new version over a path to a receiver that holds the old one, by dwcp and by `rsync -z`: how soon it is published.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::{
    Common,
    bed::{Bed, TARGET},
    case::Case,
    drive::{REAL_TIME, daemon},
    figures::{median, range},
    print_line,
};

/// What is sent, at the first host.
const SOURCE: &str = "/srv/dwcp/data/update";
/// Versions that were sent are kept at once, as a standing sync keeps them, also on a file system that shares no blocks.
const CONFIGURATION: &str = "content:\n  copy_baselines: always\ncompression:\n  baseline_interval: 1s\n";
/// How often a run in which the emulator was late is made again.
const TRIES: u64 = 3;

#[derive(Debug, Args)]
pub(crate) struct Updates {
    /// Where `tests/bench/hde/datasets` put its pairs
    #[arg(long, env = "DWCP_HDE_DATA", default_value = "/var/tmp/dwcp-hde")]
    data: PathBuf,
    /// Pairs by name, with commas; all copies of one are in memory
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "small,typescript,botocore,scipy,media,ckptf32,densebf16,sqlite,rustbinary"
    )]
    sets: Vec<String>,
    /// RTT,RATE,LOSS
    #[arg(long, default_value = "20ms,200mbit,0")]
    case: Case,
    /// The bottleneck's queue
    #[arg(long, default_value = "1bdp")]
    queue: String,
    /// Without rsync
    #[arg(long)]
    without_rsync: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Dwcp,
    Rsync,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
struct Run {
    way: Way,
    /// From the order to the end.
    seconds: f64,
    /// Bytes of packets, both directions.
    bytes: u64,
    /// Why the emulator's word is not good, where it is not.
    late: Option<String>,
}

/// One pair.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    set: String,
    runs: Vec<Run>,
}

impl Cell {
    /// Those in which the emulator kept up, or else all.
    fn seconds(&self, way: Way) -> Vec<f64> {
        let of = |good: bool| {
            let runs = self.runs.iter().filter(move |run| run.way == way && (!good || run.late.is_none()));
            runs.map(|run| run.seconds).collect::<Vec<_>>()
        };
        let good = of(true);
        if good.is_empty() { of(false) } else { good }
    }

    fn ratio(&self) -> Option<f64> {
        let (mine, other) = (self.seconds(Way::Dwcp), self.seconds(Way::Rsync));
        (!mine.is_empty() && !other.is_empty()).then(|| median(&other) / median(&mine))
    }

    fn print(&self) {
        let side = |way: Way| {
            let seconds = self.seconds(way);
            if seconds.is_empty() {
                return String::new();
            }
            let (low, high) = range(&seconds);
            let bytes = self.runs.iter().filter(|run| run.way == way).map(|run| run.bytes).min().unwrap_or_default();
            #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
            let sent = bytes as f64 / 1e6;
            format!("{:.2} s [{low:.2}-{high:.2}], {sent:.2} MB", median(&seconds))
        };
        let late = self.runs.iter().filter(|run| run.late.is_some()).count();
        let ratio = self.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        print_line(&format!("| {} | {} | {} | {ratio} | {late} late |", self.set, side(Way::Dwcp), side(Way::Rsync)));
    }
}

impl Updates {
    pub(crate) fn measure(&self, bed: &mut Bed) -> Result<Vec<Cell>> {
        if self.common.config.is_none() {
            bed.configure(CONFIGURATION)?;
        }
        let mut cells = Vec::new();
        print_line(&format!("{}, queue {}\n", self.case, self.queue));
        print_line("| set | dwcp send | rsync -z | rsync / dwcp | |\n| --- | --- | --- | --- | --- |");
        for set in &self.sets {
            let mut cell = Cell { set: set.clone(), runs: Vec::new() };
            for run in 0..self.common.runs {
                for way in [Way::Dwcp, Way::Rsync] {
                    if self.without_rsync && way == Way::Rsync {
                        continue;
                    }
                    for again in 0..TRIES {
                        let run = self.one_run(bed, way, set, self.common.seed + run + again * 1000);
                        let run = run.with_context(|| format!("{set} by {way:?}"))?;
                        let good = run.late.is_none();
                        cell.runs.push(run);
                        if good {
                            break;
                        }
                    }
                }
            }
            cell.print();
            cells.push(cell);
        }
        let ratios: Vec<f64> = cells.iter().filter_map(Cell::ratio).collect();
        if let Some(least) = ratios.iter().copied().reduce(f64::min) {
            #[allow(clippy::cast_precision_loss, reason = "a small count")]
            let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
            print_line(&format!(
                "\nupdates arrive {mean:.2} times as soon as by rsync -z (geometric mean of {} sets), {least:.2} in the worst; wanted: 3, none below 1",
                ratios.len()
            ));
        }
        Ok(cells)
    }

    pub(crate) fn to_json(&self, cells: &[Cell]) -> serde_json::Value {
        json!({ "case": self.case.to_string(), "queue": self.queue, "updates": cells })
    }

    /// The old version is there; how long the new one takes.
    fn one_run(&self, bed: &mut Bed, way: Way, set: &str, seed: u64) -> Result<Run> {
        bed.clear()?;
        bed.free_path();
        bed.hosts.two.ok("rm -rf /srv/dwcp/data/in /srv/rsync; mkdir -p /srv/rsync/update")?;
        self.put(bed, set, "v0")?;
        let dwcp = "dwcp -o json send --from site-a data:/update site-b:data:/in/";
        let (line, target) = match way {
            Way::Dwcp => {
                bed.hosts.one.ok(dwcp)?;
                // Who changes a file takes a while; until then what was sent is kept.
                bed.hosts.one.ok("sleep 3")?;
                (dwcp.to_owned(), "/srv/dwcp/data/in/update")
            }
            Way::Rsync => {
                let old = self.version(set, "v0");
                bed.hosts.two.ok(&format!("cp -r {old} /srv/rsync/update/it"))?;
                let line = format!(
                    "{REAL_TIME} rsync -rtzI --no-whole-file --port 8730 {SOURCE}/it rsync://{TARGET}/in/update/"
                );
                (line, "/srv/rsync/update")
            }
        };
        self.put(bed, set, "v1")?;
        let _daemon = if way == Way::Rsync { Some(daemon(bed)?) } else { None };
        if way == Way::Dwcp {
            bed.fresh_agents()?;
        }
        let link = self.case.link(&self.queue, seed)?;
        bed.begin(&link)?;
        let ran = bed.hosts.one.run(&line)?;
        let seconds = bed.passed().as_secs_f64();
        ensure!(ran.code == 0, "{ran:?}");
        let report = bed.wan.report()?;
        bed.hosts.two.ok(&format!("diff -r {} {target}/it", self.version(set, "v1")))?;
        let bytes = [&report.there, &report.back].iter().flat_map(|side| &side.tally.bytes_in).sum();
        let late = (!report.verdict.is_good()).then(|| report.verdict.to_string());
        eprintln!("{set} {way:?}: {seconds:.2} s, {bytes} bytes, {}", late.as_deref().unwrap_or("good"));
        Ok(Run { way, seconds, bytes, late })
    }

    fn version(&self, set: &str, version: &str) -> String {
        self.data.join("pairs").join(format!("{set}.{version}")).display().to_string()
    }

    /// Puts a version where it is sent from, as an editor would: a new file under the old name.
    fn put(&self, bed: &Bed, set: &str, version: &str) -> Result<()> {
        let from = self.version(set, version);
        let line = format!(
            "mkdir -p {SOURCE} && rm -rf {SOURCE}/.new && cp -r {from} {SOURCE}/.new && rm -rf {SOURCE}/it && \
             mv {SOURCE}/.new {SOURCE}/it && chown -R dwcp-agent: {SOURCE}"
        );
        bed.hosts.one.ok(&line).map(drop)
    }
}
