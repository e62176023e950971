//! Eight operators write at two servers while servers, PostgreSQL and its connections fail, one a round (R3).

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use foundation_runtime::TaskGroup;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom as _};
use serde_json::json;
use tests_harness::{Scratch, eventually};

use crate::{
    check::{converged, present},
    gate::Gate,
    history::History,
    operators::{Operators, Outcome, Write},
    postgres::Postgres,
    rig::Rig,
};

const WRITERS: u64 = 8;
/// A write is acknowledged by then, or something is wrong.
const LIMIT: Duration = Duration::from_secs(60);
/// How long PostgreSQL stands still.
const STANDS: Duration = Duration::from_secs(5);
/// How long what was killed is away, at most.
const AWAY_MS: u64 = 2000;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// `kill -9` of one server.
    Server,
    /// PostgreSQL stops at once, without a checkpoint.
    Stop,
    /// All of PostgreSQL stands still for five seconds.
    Pause,
    /// All connections to PostgreSQL are reset.
    Reset,
}

const FAILURES: [Failure; 4] = [Failure::Server, Failure::Stop, Failure::Pause, Failure::Reset];

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Of all that is random.
    pub seed: u64,
    /// How often what failed.
    pub rounds: BTreeMap<Failure, u32>,
    /// Writes that were said to be done.
    pub acknowledged: usize,
    /// That were said not to be done.
    pub failed: usize,
    /// Of which nobody knows, and nobody asked again until the end.
    pub unknown: usize,
    /// Of the acknowledged ones, those that are there.
    pub present: usize,
    /// Of the unknown ones, those that are there.
    pub unknown_present: usize,
    /// Acknowledged ones that are not there.
    pub lost: usize,
    /// Those that are there more than once; also after all were asked for again with the same request.
    pub doubled: usize,
    /// Those that were said not to be done, and are there.
    pub denied: usize,
    /// From when PostgreSQL was back until the next write was acknowledged.
    pub gaps: Vec<Duration>,
}

/// Fails so many times, each kind as often.
///
/// # Errors
/// The fleet does not come together again.
pub fn fail_while_writing(rounds: u32, seed: u64) -> Result<Written> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (tasks, entered) = (TaskGroup::new("gate"), runtime.enter());
    let scratch = Scratch::new()?;
    let postgres = Postgres::start(&scratch.path().join("pg"))?;
    let gate = runtime.block_on(Gate::start(postgres.socket().to_path_buf(), &tasks))?;
    let mut rig = Rig::start_over(scratch, postgres, &gate.url()).context("the fleet does not start")?;
    let history = Arc::new(History::new(&rig.scratch.path().join("history.jsonl"))?);
    let operators = Arc::new(Operators::new(runtime.handle().clone(), rig.apis()?, Arc::clone(&history)));
    drop(entered);
    let workers = (0..WRITERS).map(|worker| {
        let operators = Arc::clone(&operators);
        thread::spawn(move || operators.write_on(worker, seed))
    });
    let workers: Vec<_> = workers.collect();
    let mut random = StdRng::seed_from_u64(seed);
    let mut found = Written { seed, ..Written::default() };
    let mut turns = Vec::new();
    let failed = (0..rounds).try_for_each(|round| {
        if turns.is_empty() {
            turns = FAILURES.to_vec();
            turns.shuffle(&mut random);
        }
        let failure = turns.pop().unwrap_or(Failure::Server);
        thread::sleep(Duration::from_millis(random.random_range(200..1500)));
        history.note("failure", json!(format!("{failure:?}")));
        *found.rounds.entry(failure).or_default() += 1;
        let back = fail(&mut rig, &gate, failure, &history, &mut random)?;
        let next = eventually("a write to be acknowledged", LIMIT, || Ok(operators.acknowledged_after(back)))
            .with_context(|| format!("round {round}, {failure:?}, seed {seed}"))?;
        if failure != Failure::Server {
            found.gaps.push(next.saturating_sub(back));
        }
        Ok(())
    });
    operators.stopped.store(true, SeqCst);
    for worker in workers {
        drop(worker.join());
    }
    failed.and_then(|()| converged(&mut rig, &operators).map(drop))?;
    found.count(&operators.writes(), &present(&operators)?);
    operators.repeat_all();
    let (again, mut after) = (present(&operators)?, Written::default());
    after.count(&operators.writes(), &again);
    (found.lost, found.doubled) = (found.lost + after.lost, found.doubled + after.doubled);
    let violations = history.violations();
    ensure!(violations.is_empty(), "seed {seed}: {found}\n{}", violations.join("\n"));
    Ok(found)
}

/// Fails, and puts it right; when the database was back.
fn fail(rig: &mut Rig, gate: &Gate, failure: Failure, history: &History, random: &mut StdRng) -> Result<Duration> {
    let away = Duration::from_millis(random.random_range(0..AWAY_MS));
    let postgres = rig.postgres.as_mut().context("an outside PostgreSQL")?;
    match failure {
        Failure::Server => {
            let server = random.random_range(0..rig.servers.len());
            rig.servers[server].kill()?;
            thread::sleep(away);
            rig.servers[server].restart()?;
        }
        Failure::Stop => {
            postgres.stop_immediately()?;
            thread::sleep(away);
            postgres.restart()?;
        }
        Failure::Pause => {
            postgres.pause()?;
            thread::sleep(STANDS);
            postgres.wake();
        }
        Failure::Reset => gate.reset(),
    }
    Ok(history.elapsed())
}

impl Written {
    fn count(&mut self, writes: &[Write], present: &BTreeMap<String, u32>) {
        for write in writes {
            let times = present.get(&write.request.simple().to_string()).copied().unwrap_or_default();
            self.doubled += usize::from(times > 1);
            match write.outcome {
                Outcome::Acknowledged(_) => {
                    self.acknowledged += 1;
                    self.present += usize::from(times > 0);
                    self.lost += usize::from(times == 0);
                }
                Outcome::Failed => {
                    self.failed += 1;
                    self.denied += usize::from(times > 0);
                }
                Outcome::Unknown => {
                    self.unknown += 1;
                    self.unknown_present += usize::from(times > 0);
                }
            }
        }
    }

    /// What must hold.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.lost == 0 && self.doubled == 0 && self.denied == 0, "{self}");
        Ok(())
    }
}

impl fmt::Display for Written {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        let at = |of_hundred: usize| {
            let place = (gaps.len() * of_hundred).div_ceil(100).saturating_sub(1);
            gaps.get(place).copied().unwrap_or_default().as_secs_f64()
        };
        write!(
            out,
            "seed {}, {:?}: {} acknowledged, of these {} present, {} lost; {} doubled; {} refused, of these {} present; {} unknown, of these {} \
             present | a write is acknowledged again {:.1} s (median), {:.1} s (99 %) after PostgreSQL is back",
            self.seed,
            self.rounds,
            self.acknowledged,
            self.present,
            self.lost,
            self.doubled,
            self.failed,
            self.denied,
            self.unknown,
            self.unknown_present,
            at(50),
            at(99)
        )
    }
}
