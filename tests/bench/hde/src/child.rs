//! Runs a program to its end and says what it took.

use std::{
    fs,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde::{Deserialize, Serialize};

/// How often a program's memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What one run of a program took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// User and system, with all children that were waited for.
    pub(crate) cpu_seconds: f64,
    pub(crate) wall_seconds: f64,
    /// Most that was resident, as the kernel counts it (`VmHWM`), in bytes; of the program itself, not of its children.
    pub(crate) resident: u64,
    /// Most anonymous memory that was seen (`RssAnon`, every 2 ms): heap, stacks, and no mapped file.
    pub(crate) heap: u64,
    /// Processor time for reading its inputs, which is not in `cpu_seconds`.
    #[serde(default)]
    pub(crate) reading_cpu_seconds: f64,
}

impl Cost {
    /// Without what a program says that it spent on reading its inputs: `CPU TIME`, in seconds.
    pub(crate) fn without_reading(mut self, said: &str) -> Result<Self> {
        let (cpu, wall) = said.trim().split_once(' ').context("what reading took")?;
        self.reading_cpu_seconds = cpu.parse()?;
        self.cpu_seconds -= self.reading_cpu_seconds;
        self.wall_seconds -= wall.parse::<f64>()?;
        Ok(self)
    }

    /// The least of several runs, each value for itself; the most memory.
    pub(crate) fn best(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds.min(other.cpu_seconds),
            wall_seconds: self.wall_seconds.min(other.wall_seconds),
            resident: self.resident.max(other.resident),
            heap: self.heap.max(other.heap),
            reading_cpu_seconds: self.reading_cpu_seconds.min(other.reading_cpu_seconds),
        }
    }
}

/// Runs it; what it says on its standard output comes back.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<(Cost, String)> {
    let name = format!("{command:?}");
    let said = tempfile::tempfile()?;
    let errors = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(errors.try_clone()?);
    let before = Used::now(UsageWho::RUSAGE_CHILDREN)?;
    let mut child = command.spawn().with_context(|| name.clone())?;
    let pid = child.id();
    let (over, is_over) = sync_channel::<()>(0);
    let watcher = thread::spawn(move || {
        let mut most = (0, 0);
        loop {
            if let Some((resident, heap)) = memory(pid) {
                most = (most.0.max(resident), most.1.max(heap));
            }
            if is_over.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected) {
                return most;
            }
        }
    });
    let status = child.wait()?;
    let (cpu_seconds, wall_seconds) = Used::now(UsageWho::RUSAGE_CHILDREN)?.since(before);
    drop(over);
    let (resident, heap) = watcher.join().ok().context("the watcher of memory")?;
    let (said, errors) = (text(said)?, text(errors)?);
    ensure!(status.success(), "{name}: {status}: {said}{errors}");
    Ok((Cost { cpu_seconds, wall_seconds, resident, heap, reading_cpu_seconds: 0.0 }, said))
}

fn text(mut file: fs::File) -> Result<String> {
    use std::io::{Read as _, Seek as _};
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Time, and processor time that was used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    cpu_seconds: f64,
    at: Instant,
}

impl Used {
    /// By this process, or by all its children that were waited for.
    #[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    pub(crate) fn now(who: UsageWho) -> Result<Self> {
        let usage = getrusage(who)?;
        Ok(Self { cpu_seconds: seconds(usage.user_time()) + seconds(usage.system_time()), at: Instant::now() })
    }

    /// Processor time and time in between, in seconds.
    pub(crate) fn since(self, earlier: Self) -> (f64, f64) {
        (self.cpu_seconds - earlier.cpu_seconds, self.at.duration_since(earlier.at).as_secs_f64())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// Most resident and present anonymous bytes, while it lives.
fn memory(pid: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
    };
    Some((field("VmHWM:")?, field("RssAnon:")?))
}
