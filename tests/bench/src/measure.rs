//! Time, CPU and memory, from the kernel.

use std::{fs, time::Instant};

use anyhow::{Context, Result};

/// What processes used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
}

impl Usage {
    /// Of processes that live.
    pub(crate) fn of(pids: &[u32]) -> Result<Self> {
        let mut ticks = 0_u64;
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // After the name in brackets: state, then utime and stime as the 12th and 13th.
            let (_, rest) = stat.rsplit_once(')').context("a name in brackets")?;
            ticks +=
                rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(Self::from_ticks(ticks))
    }

    /// Of children that were waited for.
    pub(crate) fn of_children() -> Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let (_, rest) = stat.rsplit_once(')').context("a name in brackets")?;
        let ticks = rest.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        Ok(Self::from_ticks(ticks))
    }

    fn from_ticks(ticks: u64) -> Self {
        /// `USER_HZ`, the same on every Linux that we build for.
        const TICKS_A_SECOND: f64 = 100.0;
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let cpu_seconds = ticks as f64 / TICKS_A_SECOND;
        Self { cpu_seconds }
    }
}

/// What `work` gave, and how many seconds it took.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_secs_f64())
}

pub(crate) fn resident_megabytes(pid: u32) -> Result<f64> {
    status_megabytes(pid, "VmRSS:")
}

pub(crate) fn peak_megabytes(pid: u32) -> Result<f64> {
    status_megabytes(pid, "VmHWM:")
}

fn status_megabytes(pid: u32, field: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("a field of /proc/PID/status")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| (low.min(*value), high.max(*value)))
}
