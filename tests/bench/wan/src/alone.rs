//! Each contestant alone on the path, interleaved, and what is made of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    bed::Bed,
    case::Case,
    contestant::Contestant,
    drive::{Length, drive, prepare},
    figures::{Figures, figures, median, range},
    print_line,
};

/// How often a run in which the emulator was late is made again.
const TRIES: u32 = 3;

/// What is measured.
pub(crate) struct Plan {
    pub(crate) cases: Vec<Case>,
    pub(crate) queues: Vec<String>,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) runs: u64,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
}

/// One contestant in one case.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    case: String,
    queue: String,
    contestant: String,
    /// Of good runs.
    runs: Vec<Figures>,
    /// What came of the others.
    thrown_away: Vec<String>,
}

pub(crate) fn measure(bed: &mut Bed, plan: &Plan) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for case in &plan.cases {
        for queue in &plan.queues {
            let mut measured = one_case(bed, plan, case, queue)?;
            print_case(case, queue, &measured);
            cells.append(&mut measured);
        }
    }
    Ok(cells)
}

fn one_case(bed: &mut Bed, plan: &Plan, case: &Case, queue: &str) -> Result<Vec<Cell>> {
    let cell = |contestant: &Contestant| Cell {
        case: case.to_string(),
        queue: queue.to_owned(),
        contestant: contestant.to_string(),
        runs: Vec::new(),
        thrown_away: Vec::new(),
    };
    let mut cells: Vec<_> = plan.contestants.iter().map(cell).collect();
    for run in 0..plan.runs {
        for (contestant, cell) in plan.contestants.iter().zip(&mut cells) {
            for again in 0..TRIES {
                // A run that is made again meets other losses.
                let seed = plan.seed + run + u64::from(again) * 1000;
                match one_run(bed, plan, case, queue, *contestant, seed) {
                    Ok((figures, None)) => {
                        cell.runs.push(figures);
                        break;
                    }
                    Ok((_, Some(why))) => cell.thrown_away.push(why),
                    Err(error) => {
                        cell.thrown_away.push(format!("{error:#}"));
                        break;
                    }
                }
            }
        }
    }
    Ok(cells)
}

/// One run, and why it is to be thrown away where it is.
fn one_run(
    bed: &mut Bed,
    plan: &Plan,
    case: &Case,
    queue: &str,
    contestant: Contestant,
    seed: u64,
) -> Result<(Figures, Option<String>)> {
    let link = case.link(queue, seed)?;
    let bytes = case.rate.bytes_in(std::time::Duration::from_secs_f64(plan.seconds * 0.95));
    prepare(bed, contestant, bytes)?;
    bed.begin(&link)?;
    let outcome = drive(bed, contestant, Length { seconds: plan.seconds, limit: plan.seconds * 1.5 })?;
    let report = bed.wan.report()?;
    if contestant == Contestant::Dwcp {
        bed.keep_log(&format!("{case}-{contestant}-{seed}.log"))?;
    }
    let figures = figures(&report, &link, outcome).context("no data on the path")?;
    let verdict = report.verdict.to_string();
    eprintln!(
        "{case} {queue} {contestant} seed {seed}: {:.1} % ({:.1} % steady), {verdict}",
        figures.whole * 100.0,
        figures.steady * 100.0
    );
    Ok((figures, (!report.verdict.is_good()).then_some(verdict)))
}

fn print_case(case: &Case, queue: &str, cells: &[Cell]) {
    print_line(&format!("\n{case}, queue {queue}"));
    print_line(
        "                 goodput % of link [range]   steady % [range]     to 90 % s   beyond %   lost %   queue BDP   late µs (mean p99 max)",
    );
    let mut medians = BTreeMap::new();
    for cell in cells {
        print_cell(cell);
        if !cell.runs.is_empty() {
            medians.insert(cell.contestant.as_str(), median(&each(cell, |run| run.whole)));
        }
    }
    let best = medians.iter().filter(|(name, _)| **name != "dwcp").max_by(|one, other| one.1.total_cmp(other.1));
    if let (Some(ours), Some((name, best))) = (medians.get("dwcp"), best) {
        print_line(&format!("dwcp: {:.2} x the best rival ({name})", ours / best));
    }
}

fn each(cell: &Cell, of: impl Fn(&Figures) -> f64) -> Vec<f64> {
    cell.runs.iter().map(of).collect()
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn print_cell(cell: &Cell) {
    if cell.runs.is_empty() {
        let why = cell.thrown_away.last().map_or("not run", String::as_str);
        print_line(&format!("{:<16} no good run: {}", cell.contestant, why.lines().next().unwrap_or_default()));
        return;
    }
    let percent = |of: fn(&Figures) -> f64| {
        let values = each(cell, of);
        let (low, high) = range(&values);
        format!("{:5.1} [{:.1}-{:.1}]", median(&values) * 100.0, low * 100.0, high * 100.0)
    };
    let reached: Vec<f64> = cell.runs.iter().map(|run| run.to_90.unwrap_or(f64::INFINITY)).collect();
    let reached = Some(median(&reached)).filter(|time| time.is_finite());
    let late = |of: fn(&Figures) -> u64| median(&each(cell, |run| of(run) as f64));
    print_line(&format!(
        "{:<16} {:<27} {:<20} {:>9} {:10.1} {:8.2} {:11.2}   {:.0} {:.0} {:.0}{}{}",
        cell.contestant,
        percent(|run| run.whole),
        percent(|run| run.steady),
        reached.map_or("never".to_owned(), |time| format!("{time:.2}")),
        median(&each(cell, |run| run.beyond)) * 100.0,
        median(&each(cell, |run| run.lost)) * 100.0,
        median(&each(cell, |run| run.queue_bdp)),
        late(|run| run.late_mean_us),
        late(|run| run.late_p99_us),
        late(|run| run.late_max_us),
        if cell.runs.iter().all(|run| run.complete) { "" } else { "   cut off" },
        if cell.thrown_away.is_empty() {
            String::new()
        } else {
            format!("   {} runs thrown away", cell.thrown_away.len())
        },
    ));
}
