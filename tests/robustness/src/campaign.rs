//! A whole campaign: phases of kills, each followed by peace in which everything must come together; then the count.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{
    check::{converged, count_transfers, count_writes, present},
    history::History,
    movers::{Lane, Moved, Movers},
    nemesis::{Counts, Nemesis},
    operators::{Operators, Outcome},
    rig::{Mode, Rig},
    watcher::Watcher,
};

/// Every so many phases all of the control plane dies at once.
const BLACKOUT_EVERY: u32 = 4;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of all that is random.
    pub seed: u64,
    /// So many kills, pauses not counted.
    pub kills: u32,
    /// Kills in a phase, at most.
    pub phase: u32,
    /// Bytes of a large file.
    pub large: usize,
    /// What the control plane is made of.
    pub mode: Mode,
    /// Where history and logs are kept when something is wrong.
    pub keep: PathBuf,
}

/// What a campaign came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Of all that was random.
    pub seed: u64,
    /// Victims.
    pub counts: Counts,
    /// Kills among them.
    pub kills: u32,
    /// Acknowledged, failed, unknown.
    pub writes: (usize, usize, usize),
    /// Calls that were repeats of such writes.
    pub repeats: u32,
    /// Transfers.
    pub moved: Vec<Moved>,
    /// Versions of files that were read under their final names.
    pub read: u64,
    /// How long each peace took to come.
    pub converged: Vec<Duration>,
    /// How long all took.
    pub took: Duration,
}

/// Runs a campaign.
///
/// # Errors
/// Something was wrong: the error says what, with the seed and where history and logs are kept.
pub fn run(options: &Options) -> Result<Summary> {
    let mut rig = Rig::start(options.mode).context("the fleet does not start")?;
    let history = Arc::new(History::new(&rig.scratch.path().join("history.jsonl"))?);
    history.note("begin", json!({"seed": options.seed, "mode": format!("{:?}", options.mode)}));
    let result = go(&mut rig, &history, options);
    if let Err(error) = &result {
        history.violation(format!("{error:#}"));
    }
    let violations = history.violations();
    match result {
        Ok(summary) if violations.is_empty() => Ok(summary),
        _wrong => {
            let kept = keep(&rig, &history, options)?;
            let shown: Vec<_> = violations.iter().take(20).map(String::as_str).collect();
            bail!(
                "seed {} in mode {:?} ({} kills): {} violations; history and logs are kept in {}\n{}",
                options.seed,
                options.mode,
                options.kills,
                violations.len(),
                kept.display(),
                shown.join("\n")
            )
        }
    }
}

fn go(rig: &mut Rig, history: &Arc<History>, options: &Options) -> Result<Summary> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let apis = {
        let _inside = runtime.enter();
        rig.apis()?
    };
    let operators = Arc::new(Operators::new(runtime.handle().clone(), apis, Arc::clone(history)));
    let movers = Arc::new(Movers::new(Arc::clone(&operators), options.large));
    let lanes = lanes(rig)?;
    let watcher = Watcher::start(lanes.iter().map(|lane| lane.to.1.clone()).collect(), Arc::clone(history));
    let mut workers = Vec::new();
    for worker in 0..3 {
        let (operators, seed) = (Arc::clone(&operators), options.seed);
        workers.push(thread::spawn(move || operators.write_on(worker, seed)));
    }
    for (number, lane) in (10..).zip(lanes) {
        let (movers, seed) = (Arc::clone(&movers), options.seed);
        workers.push(thread::spawn(move || movers.move_on(number, &lane, seed)));
    }
    let mut nemesis = Nemesis::new(options.seed, Arc::clone(history));
    let mut random = StdRng::seed_from_u64(options.seed.rotate_left(17));
    let phases = campaign(rig, &operators, &mut nemesis, &mut random, options);
    operators.stopped.store(true, SeqCst);
    operators.paused.store(false, SeqCst);
    for worker in workers {
        drop(worker.join());
    }
    let converged = phases?;
    let writes = operators.writes();
    count_writes(history, &writes, &present(&operators)?);
    operators.repeat_all();
    let after = operators.writes();
    count_writes(history, &after, &present(&operators)?);
    count_transfers(rig, &operators, &after)?;
    let count = |wanted: fn(&Outcome) -> bool| writes.iter().filter(|write| wanted(&write.outcome)).count();
    Ok(Summary {
        seed: options.seed,
        counts: nemesis.counts().clone(),
        kills: nemesis.kills(),
        writes: (
            count(|outcome| matches!(outcome, Outcome::Acknowledged(_))),
            count(|outcome| *outcome == Outcome::Failed),
            count(|outcome| *outcome == Outcome::Unknown),
        ),
        repeats: writes.iter().map(|write| write.calls - 1).sum(),
        moved: movers.moved(),
        read: watcher.read(),
        converged,
        took: history.elapsed(),
    })
}

fn campaign(
    rig: &mut Rig,
    operators: &Operators,
    nemesis: &mut Nemesis,
    random: &mut StdRng,
    options: &Options,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for phase in 1.. {
        let left = options.kills.saturating_sub(nemesis.kills());
        if left == 0 {
            break;
        }
        if phase % BLACKOUT_EVERY == 0 {
            thread::sleep(Duration::from_millis(random.random_range(0..1000)));
            nemesis.blackout(rig)?;
        } else {
            nemesis.phase(rig, random.random_range(2..=options.phase).min(left))?;
        }
        operators.paused.store(true, SeqCst);
        let took = converged(rig, operators)?;
        operators.history().note("peace", json!({"phase": phase, "kills": nemesis.kills(), "ms": took.as_millis()}));
        eprintln!(
            "phase {phase}: {} of {} kills, together again after {:.1} s",
            nemesis.kills(),
            options.kills,
            took.as_secs_f64()
        );
        times.push(took);
        operators.paused.store(false, SeqCst);
    }
    Ok(times)
}

/// Both directions between two, and a third that sends to one and receives from the other.
fn lanes(rig: &Rig) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for (from, to) in [(0, 1), (1, 0), (2, 1), (0, 2)] {
        let folder = format!("{}-{}", rig.agents[from].name(), rig.agents[to].name());
        let end = |agent: usize| (rig.agents[agent].name().to_owned(), rig.root(agent).join(&folder));
        let lane = Lane { from: end(from), to: end(to), folder: folder.clone() };
        fs::create_dir_all(&lane.from.1)?;
        lanes.push(lane);
    }
    Ok(lanes)
}

fn keep(rig: &Rig, history: &History, options: &Options) -> Result<PathBuf> {
    let folder = options.keep.join(format!("seed-{}-{:?}", options.seed, options.mode));
    fs::create_dir_all(&folder)?;
    fs::copy(history.path(), folder.join("history.jsonl"))?;
    for (name, log) in rig.logs() {
        let name = Path::new(&name).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        fs::write(folder.join(format!("{name}.log")), log)?;
    }
    Ok(folder)
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "seed                  {}", self.seed)?;
        writeln!(out, "kills                 {}", self.kills)?;
        for (victim, count) in &self.counts {
            writeln!(out, "  {victim:<30} {count}")?;
        }
        let (acknowledged, failed, unknown) = self.writes;
        writeln!(
            out,
            "writes                {acknowledged} acknowledged, {failed} refused, {unknown} unknown, {} repeats",
            self.repeats
        )?;
        writeln!(out, "transfers             {} SUCCEEDED, their trees equal", self.moved.len())?;
        let hit = self.moved.iter().filter(|moved| moved.kills > 0);
        let mut again: Vec<u64> = hit.map(|moved| moved.again() / u64::from(moved.kills) / 1000).collect();
        again.sort_unstable();
        let at = |share: usize| again.get((again.len().saturating_sub(1)) * share / 100).copied().unwrap_or_default();
        writeln!(
            out,
            "bytes sent again      median {} kB, 90 % {} kB, most {} kB a kill, over {} transfers that lost an end",
            at(50),
            at(90),
            at(100),
            again.len()
        )?;
        writeln!(out, "final files read      {} versions, all whole", self.read)?;
        let mut times = self.converged.clone();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let most = times.last().copied().unwrap_or_default();
        writeln!(out, "together again after  median {:.1} s, most {:.1} s", median.as_secs_f64(), most.as_secs_f64())?;
        write!(out, "took                  {:.0} s; nothing lost, nothing done twice", self.took.as_secs_f64())
    }
}
