//! A tree of many small files over a path, beside one file of as many bytes, and both by rsync too: what of the one file's goodput
//! is left.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::{
    Common,
    bed::{Bed, FILE, TARGET},
    case::Case,
    drive::{REAL_TIME, daemon},
    figures::{Figures, Outcome, figures, median, range},
    print_line,
};

/// Files of a folder.
const FOLDER: u64 = 1000;
const TREE: &str = "/srv/dwcp/data/tree";
/// How often a run in which the emulator was late is made again.
const TRIES: u64 = 3;

#[derive(Debug, Args)]
pub(crate) struct SmallFiles {
    /// RTT,RATE,LOSS
    #[arg(long, default_value = "80ms,200mbit,0")]
    case: Case,
    /// The bottleneck's queue
    #[arg(long, default_value = "1bdp")]
    queue: String,
    /// How many, in folders of 1000
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// How large each is
    #[arg(long, default_value_t = 10_000)]
    bytes: u64,
    /// Without rsync
    #[arg(long)]
    without_rsync: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Who moves what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    DwcpOne,
    DwcpMany,
    RsyncOne,
    RsyncMany,
}

impl Way {
    const ALL: [Self; 4] = [Self::DwcpOne, Self::DwcpMany, Self::RsyncOne, Self::RsyncMany];

    fn name(self) -> &'static str {
        match self {
            Self::DwcpOne => "dwcp, one file",
            Self::DwcpMany => "dwcp, small files",
            Self::RsyncOne => "rsync, one file",
            Self::RsyncMany => "rsync, small files",
        }
    }

    fn is_rsync(self) -> bool {
        matches!(self, Self::RsyncOne | Self::RsyncMany)
    }
}

/// One way over all runs.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    way: &'static str,
    /// From the order to the end, in seconds.
    seconds: Vec<f64>,
    runs: Vec<Figures>,
    thrown_away: Vec<String>,
}

impl SmallFiles {
    fn all_bytes(&self) -> u64 {
        self.files * self.bytes
    }

    pub(crate) fn measure(&self, bed: &mut Bed) -> Result<Vec<Cell>> {
        self.make(bed)?;
        let ways: Vec<_> = Way::ALL.into_iter().filter(|way| !(self.without_rsync && way.is_rsync())).collect();
        let cell = |way: &Way| Cell { way: way.name(), seconds: Vec::new(), runs: Vec::new(), thrown_away: Vec::new() };
        let mut cells: Vec<_> = ways.iter().map(cell).collect();
        for run in 0..self.common.runs {
            for (way, cell) in ways.iter().zip(&mut cells) {
                for again in 0..TRIES {
                    let seed = self.common.seed + run + again * 1000;
                    let (seconds, figures, bad) = self.one_run(bed, *way, seed)?;
                    eprintln!("{} seed {seed}: {seconds:.1} s, {}", way.name(), bad.as_deref().unwrap_or("good"));
                    let Some(why) = bad else {
                        cell.seconds.push(seconds);
                        cell.runs.extend(figures);
                        break;
                    };
                    cell.thrown_away.push(why);
                }
            }
        }
        self.print(&cells);
        Ok(cells)
    }

    pub(crate) fn to_json(&self, cells: &[Cell]) -> serde_json::Value {
        json!({ "case": self.case.to_string(), "files": self.files, "bytes": self.bytes, "small_files": cells })
    }

    fn make(&self, bed: &mut Bed) -> Result<()> {
        bed.file_of(self.all_bytes())?;
        let (all, size) = (self.bytes * FOLDER, self.bytes);
        let make = format!(
            "for folder in $(seq {}); do mkdir -p {TREE}/$folder; \
             head -c {all} /dev/urandom | split -b {size} -a 3 -d - {TREE}/$folder/; done",
            self.files / FOLDER
        );
        ensure!(self.files.is_multiple_of(FOLDER), "files in folders of {FOLDER}");
        bed.hosts.one.ok(&format!("runuser -u dwcp-agent -- bash -c '{make}'")).map(drop)
    }

    /// Seconds, figures, and why the run is to be thrown away where it is.
    fn one_run(&self, bed: &mut Bed, way: Way, seed: u64) -> Result<(f64, Option<Figures>, Option<String>)> {
        bed.clear()?;
        bed.file_of(self.all_bytes())?;
        // What others wrote is not to be waited for by a sync of ours.
        bed.hosts.two.ok("sync")?;
        let _daemon = if way.is_rsync() { Some(daemon(bed)?) } else { None };
        if !way.is_rsync() {
            bed.fresh_agents()?;
        }
        let link = self.case.link(&self.queue, seed)?;
        bed.begin(&link)?;
        let line = match way {
            Way::DwcpOne => "dwcp -o json send --from site-a data:/file site-b:data:/in/".to_owned(),
            Way::DwcpMany => "dwcp -o json send --from site-a data:/tree site-b:data:/in/".to_owned(),
            Way::RsyncOne => rsync(FILE),
            Way::RsyncMany => rsync(TREE),
        };
        let ran = bed.hosts.one.run(&line)?;
        let ended = bed.passed().as_secs_f64();
        ensure!(ran.code == 0, "{ran:?}");
        let report = bed.wan.report()?;
        let outcome = Outcome { useful: Some(self.all_bytes()), complete: true, ended, window: None };
        let verdict = (!report.verdict.is_good()).then(|| report.verdict.to_string());
        Ok((ended, figures(&report, &link, outcome), verdict))
    }

    fn print(&self, cells: &[Cell]) {
        print_line(&format!(
            "\n{} files of {} bytes, {}, queue {}: seconds [range], goodput % of link [range], steady %",
            self.files, self.bytes, self.case, self.queue
        ));
        for cell in cells.iter().filter(|cell| !cell.seconds.is_empty()) {
            let of = |of: fn(&Figures) -> f64| cell.runs.iter().map(of).collect::<Vec<_>>();
            let (whole, steady) = (of(|run| run.whole * 100.0), of(|run| run.steady * 100.0));
            let ((least, most), (low, high)) = (range(&cell.seconds), range(&whole));
            print_line(&format!(
                "{:<20} {:6.1} [{least:.1}-{most:.1}]   {:5.1} [{low:.1}-{high:.1}]   {:5.1}   {} runs thrown away",
                cell.way,
                median(&cell.seconds),
                median(&whole),
                median(&steady),
                cell.thrown_away.len()
            ));
        }
        for pair in cells.chunks(2).filter(|pair| pair.iter().all(|cell| !cell.seconds.is_empty())) {
            if let [one, many] = pair {
                let share = median(&one.seconds) / median(&many.seconds);
                print_line(&format!("{}: {share:.2} of the goodput of one file", many.way));
            }
        }
    }
}

fn rsync(what: &str) -> String {
    format!("{REAL_TIME} rsync -rt --whole-file --port 8730 {what} rsync://{TARGET}/in/")
}
