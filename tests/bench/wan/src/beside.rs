//! A contestant beside TCP CUBIC flows: what share each gets over the last 60 % of the time in which all run.

use anyhow::Result;
use serde::Serialize;
use tests_wan::{BIN, Report};

use crate::{
    bed::{Bed, TARGET},
    case::Case,
    contestant::Contestant,
    drive::{Length, drive, listens, prepare},
    figures::{self, median, range},
    print_line,
};

/// Where the others' flows end.
const PORT: u16 = 5202;
/// How long the earlier one is alone.
const HEAD_START: f64 = 5.0;
const TRIES: u64 = 3;

/// When the contestant joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Joins {
    /// Five seconds before the others.
    Before,
    /// At the same time.
    With,
    /// Five seconds after them.
    After,
}

/// What is measured.
pub(crate) struct Plan {
    pub(crate) case: Case,
    pub(crate) queue: String,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) flows: Vec<u32>,
    pub(crate) joins: Vec<Joins>,
    pub(crate) runs: u64,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
}

/// All runs of one contestant in one setting.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    contestant: String,
    flows: u32,
    joins: Joins,
    jain: Vec<f64>,
    /// The contestant's share, where 1 is what is fair.
    share: Vec<f64>,
    thrown_away: Vec<String>,
}

pub(crate) fn measure(bed: &mut Bed, plan: &Plan) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    print_line(&format!("\nbeside TCP CUBIC: {}, queue {}, {} s", plan.case, plan.queue, plan.seconds));
    for flows in &plan.flows {
        for joins in &plan.joins {
            for contestant in &plan.contestants {
                let cell = one_cell(bed, plan, *contestant, *flows, *joins);
                print_cell(&cell);
                cells.push(cell);
            }
        }
    }
    Ok(cells)
}

fn one_cell(bed: &mut Bed, plan: &Plan, contestant: Contestant, flows: u32, joins: Joins) -> Cell {
    let (jain, share, thrown_away) = (Vec::new(), Vec::new(), Vec::new());
    let mut cell = Cell { contestant: contestant.to_string(), flows, joins, jain, share, thrown_away };
    for run in 0..plan.runs {
        for again in 0..TRIES {
            match one_run(bed, plan, contestant, flows, joins, plan.seed + run + again * 1000) {
                Ok(report) if report.verdict.is_good() => {
                    let shares = shares(&report, plan.seconds, flows);
                    cell.jain.push(figures::jain(&shares));
                    cell.share.push(shares.first().copied().unwrap_or_default());
                    break;
                }
                Ok(report) => cell.thrown_away.push(report.verdict.to_string()),
                Err(error) => cell.thrown_away.push(format!("{error:#}")),
            }
        }
    }
    cell
}

fn one_run(bed: &mut Bed, plan: &Plan, contestant: Contestant, flows: u32, joins: Joins, seed: u64) -> Result<Report> {
    let (ours, theirs) = match joins {
        Joins::Before => (0.0, HEAD_START),
        Joins::With => (0.0, 0.0),
        Joins::After => (HEAD_START, 0.0),
    };
    let seconds = plan.seconds + HEAD_START;
    // More than the path carries: the run ends by its time.
    let bytes = plan.case.rate.bytes_in(std::time::Duration::from_secs_f64(seconds));
    prepare(bed, contestant, bytes)?;
    let client = format!("chrt --rr 1 iperf3 -c {TARGET} -p {PORT} -C cubic -P {flows} -t {:.0}", seconds - theirs);
    bed.begin(&plan.case.link(&plan.queue, seed)?)?;
    let hosts = &bed.hosts;
    let _server = hosts.two.start("others", &format!("chrt --rr 1 iperf3 -s -1 -p {PORT}"), &hosts.scratch)?;
    listens(bed, PORT)?;
    let _others = hosts.one.start("others", &format!("bash -c 'sleep {theirs}; exec {client}'"), &hosts.scratch)?;
    // Not a wait for anything: the order in which they join is what is measured.
    std::thread::sleep(std::time::Duration::from_secs_f64(ours));
    drive(bed, contestant, Length { seconds: seconds - ours, limit: seconds - ours })?;
    bed.wan.report()
}

/// The contestant's, then each of the others', over the last 60 % of the common time; 1 is what is fair.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]
fn shares(report: &Report, seconds: f64, others: u32) -> Vec<f64> {
    let bins = |seconds: f64| (seconds * 1000.0 / BIN as f64) as usize;
    let (from, to) = (bins(HEAD_START + seconds * 0.4), bins(HEAD_START + seconds - 0.5));
    let mut ours = 0.0;
    let mut theirs = Vec::new();
    for flow in report.there.tally.flows() {
        let bytes = flow.out.get(from..to.min(flow.out.len())).unwrap_or_default().iter().sum::<u64>() as f64;
        if flow.flow.to_port == PORT { theirs.push(bytes) } else { ours += bytes }
    }
    // iperf3's own control is a flow too, the smallest; one that starved is counted as nothing.
    theirs.sort_by(|one, other| other.total_cmp(one));
    theirs.resize(others as usize, 0.0);
    let fair = (ours + theirs.iter().sum::<f64>()) / f64::from(others + 1);
    std::iter::once(ours).chain(theirs).map(|bytes| bytes / fair.max(1.0)).collect()
}

fn print_cell(cell: &Cell) {
    let name = format!("{} joins {:?} {} flows", cell.contestant, cell.joins, cell.flows);
    if cell.jain.is_empty() {
        print_line(&format!("{name:<40} no good run: {}", cell.thrown_away.last().map_or("", String::as_str)));
        return;
    }
    let ((low, high), (least, most)) = (range(&cell.jain), range(&cell.share));
    print_line(&format!(
        "{name:<40} Jain {:.2} [{low:.2}-{high:.2}]   share of what is fair {:.2} [{least:.2}-{most:.2}]   {} thrown away",
        median(&cell.jain),
        median(&cell.share),
        cell.thrown_away.len()
    ));
}
