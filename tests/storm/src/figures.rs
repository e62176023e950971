//! Figures of what was seen.

use std::{fmt, fs, time::Duration};

/// How long many took.
#[derive(Clone, Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// Of these.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// So many of a thousand took no longer.
    #[must_use]
    pub fn at(&self, of_thousand: usize) -> Duration {
        let place = (self.0.len() * of_thousand).div_ceil(1000).saturating_sub(1);
        self.0.get(place).copied().unwrap_or_default()
    }

    /// The longest.
    #[must_use]
    pub fn most(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "median {:.3} s, 99 % {:.3} s, most {:.3} s",
            self.at(500).as_secs_f64(),
            self.at(990).as_secs_f64(),
            self.most().as_secs_f64()
        )
    }
}

/// A size in KiB out of `/proc/PID/status`: `VmRSS`, `VmHWM`.
pub(crate) fn memory_kib(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}
