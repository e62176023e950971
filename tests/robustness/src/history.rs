//! What happened, a line of JSON each: kept where something was wrong, so that it can be read again.

use std::{
    fs::File,
    io::{LineWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use foundation_runtime::Clock;
use serde_json::{Value, json};

/// The history of one campaign.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    clock: Clock,
    start: Instant,
    out: Mutex<LineWriter<File>>,
    violations: Mutex<Vec<String>>,
    /// Agents that were killed, and when.
    killed: Mutex<Vec<(Duration, String)>>,
}

impl History {
    /// An empty one, in this file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(path: &Path) -> Result<Self> {
        let clock = Clock::system();
        let start = clock.now();
        let out = Mutex::new(LineWriter::new(File::create(path)?));
        Ok(Self { path: path.to_path_buf(), clock, start, out, violations: Mutex::default(), killed: Mutex::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long it goes on.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.now().duration_since(self.start)
    }

    /// Writes an event down.
    #[allow(clippy::needless_pass_by_value, reason = "made for it, by a macro")]
    pub fn note(&self, what: &str, detail: Value) {
        let line = json!({"at_ms": self.elapsed().as_millis(), "what": what, "detail": detail});
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A history that cannot be written shows itself by its missing lines.
        drop(writeln!(out, "{line}"));
    }

    /// An agent is killed now.
    pub fn killed(&self, agent: &str) {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).push((self.elapsed(), agent.to_owned()));
    }

    /// How often one of these agents was killed since then.
    #[must_use]
    pub fn killed_since(&self, since: Duration, agents: &[&str]) -> u32 {
        let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = killed.iter().filter(|(at, agent)| *at >= since && agents.contains(&agent.as_str())).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Something that must never be.
    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        self.note("violation", json!(what));
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// All that must never have been.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
