//! A new version over a path to a receiver that holds the old one, by dwcp and by `rsync -z`: how soon it is published.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
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

/// Versions that were sent are kept at once, as a standing sync keeps them, also on a file system that shares no blocks.
const KEPT: &str = "content:\n  copy_baselines: always\ncompression:\n  baseline_interval: 1s\n";
/// None is kept: the receiver describes what it holds.
const NONE_KEPT: &str = "content:\n  copy_baselines: never\n";
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
        default_value = "small,gitpack,gobinary,typescript,sqlite,rustbinary,densebf16,maildir,botocore,ckptf32,scipy,media,\
                         sitepackages,kernel,rootfs,pgdata,linuxsrc"
    )]
    sets: Vec<String>,
    /// By whom, with commas
    #[arg(long, value_delimiter = ',', default_values_t = [Way::Kept, Way::NoneKept, Way::Rsync])]
    ways: Vec<Way>,
    /// RTT,RATE,LOSS
    #[arg(long, default_value = "20ms,200mbit,0")]
    case: Case,
    /// The bottleneck's queue
    #[arg(long, default_value = "1bdp")]
    queue: String,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// `dwcp send`, whose sender kept the version before.
    Kept,
    /// `dwcp send`, whose sender kept nothing.
    NoneKept,
    /// `rsync -z`.
    Rsync,
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Kept => "kept",
            Self::NoneKept => "none-kept",
            Self::Rsync => "rsync",
        })
    }
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
    /// Of the new version.
    bytes: u64,
    runs: Vec<Run>,
    /// Of the machine, after the runs.
    load: String,
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

    /// How much sooner than by rsync.
    fn ratio(&self, way: Way) -> Option<f64> {
        let (mine, other) = (self.seconds(way), self.seconds(Way::Rsync));
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
            format!("{:.2} s [{low:.2}-{high:.2}], {:.2} MB", median(&seconds), megabytes(bytes))
        };
        let ratio = |way| self.ratio(way).map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let late = match self.runs.iter().filter(|run| run.late.is_some()).count() {
            0 => String::new(),
            late => format!(", {late} late"),
        };
        let (kept, none, rsync) = (side(Way::Kept), side(Way::NoneKept), side(Way::Rsync));
        let (set, load, size) = (&self.set, &self.load, megabytes(self.bytes));
        let ratios = [ratio(Way::Kept), ratio(Way::NoneKept)].join(" | ");
        print_line(&format!("| {set} | {size:.1} | {kept} | {none} | {rsync} | {ratios} | {load}{late} |"));
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Updates {
    pub(crate) fn measure(&self, bed: &mut Bed) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        print_line(&format!("{}, queue {}\n", self.case, self.queue));
        print_line(
            "| set | new MB | dwcp send, versions kept | dwcp send, none kept | rsync -z | rsync / kept | rsync / none kept | load |",
        );
        print_line("| --- | --- | --- | --- | --- | --- | --- | --- |");
        for set in &self.sets {
            let mut cell = Cell { set: set.clone(), bytes: 0, runs: Vec::new(), load: String::new() };
            for run in 0..self.common.runs {
                for way in &self.ways {
                    for again in 0..TRIES {
                        let run = self.one_run(bed, *way, set, self.common.seed + run + again * 1000);
                        let run = run.with_context(|| format!("{set} by {way}"))?;
                        let good = run.late.is_none();
                        cell.runs.push(run);
                        if good {
                            break;
                        }
                    }
                }
            }
            cell.bytes = bytes_of(&PathBuf::from(self.version(set, "v1")))?;
            let load = fs::read_to_string("/proc/loadavg")?;
            load.split(' ').next().unwrap_or_default().clone_into(&mut cell.load);
            cell.print();
            cells.push(cell);
        }
        for (way, words) in [(Way::Kept, "with versions kept"), (Way::NoneKept, "with none kept")] {
            let ratios: Vec<f64> = cells.iter().filter_map(|cell| cell.ratio(way)).collect();
            if let Some(least) = ratios.iter().copied().reduce(f64::min) {
                #[allow(clippy::cast_precision_loss, reason = "a small count")]
                let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
                print_line(&format!(
                    "\n{words}, updates arrive {mean:.2} times as soon as by rsync -z (geometric mean of {} sets), {least:.2} in the worst; wanted: 3, none below 1",
                    ratios.len()
                ));
            }
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
        // A path that no run had: what was noted of it would count.
        let name = format!("{set}-{way}-{seed}");
        let source = format!("/srv/dwcp/data/{name}");
        bed.hosts.one.ok("rm -rf /srv/dwcp/data/* /var/lib/dwcp-agent/content")?;
        bed.hosts.two.ok("rm -rf /srv/dwcp/data/in /srv/rsync; mkdir -p /srv/rsync/update")?;
        self.put(bed, set, "v0", &source)?;
        let dwcp = format!("{REAL_TIME} dwcp -o json send --from site-a data:/{name} site-b:data:/in/");
        let (line, target) = match way {
            Way::Kept | Way::NoneKept => {
                if self.common.config.is_none() {
                    bed.configure(if way == Way::Kept { KEPT } else { NONE_KEPT })?;
                }
                bed.hosts.one.ok("sleep 1")?;
                bed.hosts.one.ok(&dwcp)?;
                // Who changes a file takes a while; until then what was sent is kept.
                bed.hosts.one.ok("sleep 4")?;
                (dwcp, format!("/srv/dwcp/data/in/{name}"))
            }
            Way::Rsync => {
                let old = self.version(set, "v0");
                bed.hosts.two.ok(&format!("cp -r {old} /srv/rsync/update/it"))?;
                let line = format!(
                    "{REAL_TIME} rsync -rtzI --no-whole-file --port 8730 {source}/it rsync://{TARGET}/in/update/"
                );
                (line, "/srv/rsync/update".to_owned())
            }
        };
        self.put(bed, set, "v1", &source)?;
        let _daemon = if way == Way::Rsync { Some(daemon(bed)?) } else { None };
        if way != Way::Rsync {
            bed.fresh_agents()?;
        }
        let link = self.case.link(&self.queue, seed)?;
        bed.begin(&link)?;
        let ran = bed.hosts.one.run(&line)?;
        let seconds = bed.passed().as_secs_f64();
        ensure!(ran.code == 0, "{ran:?}");
        let report = bed.wan.report()?;
        if way != Way::Rsync {
            bed.keep_logs(&name)?;
        }
        bed.hosts.two.ok(&format!("diff -r {} {target}/it", self.version(set, "v1")))?;
        let bytes = [&report.there, &report.back].iter().flat_map(|side| &side.tally.bytes_in).sum();
        let late = (!report.verdict.is_good()).then(|| report.verdict.to_string());
        eprintln!("{set} {way}: {seconds:.2} s, {bytes} bytes, {}", late.as_deref().unwrap_or("good"));
        Ok(Run { way, seconds, bytes, late })
    }

    fn version(&self, set: &str, version: &str) -> String {
        self.data.join("pairs").join(format!("{set}.{version}")).display().to_string()
    }

    /// Puts a version where it is sent from, as an editor would: a new file under the old name.
    fn put(&self, bed: &Bed, set: &str, version: &str, source: &str) -> Result<()> {
        let from = self.version(set, version);
        let line = format!(
            "mkdir -p {source} && rm -rf {source}/.new && cp -r {from} {source}/.new && rm -rf {source}/it && \
             mv {source}/.new {source}/it && chown -R dwcp-agent: {source}"
        );
        bed.hosts.one.ok(&line).map(drop)
    }
}

/// Of all files.
fn bytes_of(path: &Path) -> Result<u64> {
    let data = fs::metadata(path).with_context(|| path.display().to_string())?;
    if !data.is_dir() {
        return Ok(data.len());
    }
    fs::read_dir(path)?.map(|entry| bytes_of(&entry?.path())).sum()
}
