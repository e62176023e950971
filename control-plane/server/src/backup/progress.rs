//! How far it is, on a terminal; nothing elsewhere.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use foundation_runtime::Clock;

/// Often enough to be seen moving.
const INTERVAL: Duration = Duration::from_millis(200);

/// One line that is written over.
pub(super) struct Progress {
    clock: Clock,
    shown: bool,
    next: Instant,
}

impl Progress {
    pub(super) fn new(clock: &Clock) -> Self {
        Self { shown: std::io::stderr().is_terminal(), next: clock.now(), clock: clock.clone() }
    }

    /// Says how far it is, now and then.
    pub(super) fn say(&mut self, what: &str, bytes: u64) {
        if self.shown && self.clock.now() >= self.next {
            self.next = self.clock.now() + INTERVAL;
            eprint!("\r\x1b[K  {what} {}", size(bytes));
            // A terminal that is gone shows nothing.
            drop(std::io::stderr().flush());
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// `1.2 MB`: for people, in steps of 1000.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    let fitting = units.iter().find(|(_, unit)| bytes >= *unit);
    fitting.map_or_else(
        || format!("{bytes} B"),
        |(name, unit)| format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
    )
}
