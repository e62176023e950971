//! What went over the emulated path, and whether the emulator kept up.

use std::fmt;

use serde::Serialize;

use crate::{
    lateness::Lateness,
    link::Direction,
    tally::{Counts, Tally},
};

/// What the emulator promises of 99 packets in a hundred, in microseconds.
const MOST_P99_US: u64 = 500;
/// Below so many packets the maximum alone speaks.
const ENOUGH: u64 = 500;
/// What one packet in a thousand may take longer, in microseconds: less than the jitter of a good path.
const MOST_P999_US: u64 = 5_000;
/// A stall, in microseconds: what a path's own short disturbance takes at most without being one of the things to measure.
const MOST_EVER_US: u64 = 20_000;

/// One direction.
#[derive(Clone, Debug, Serialize)]
pub struct DirectionReport {
    /// Which.
    pub direction: Direction,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
    /// By how much packets were handed out after they were due.
    pub late: Lateness,
    /// Between two packets that came at once: how long the emulator did not look.
    pub pauses: Lateness,
    /// Packets that the receiving interface did not take.
    pub refused: u64,
    /// Packets that the interfaces lost before the emulator saw them.
    pub lost_by_devices: u64,
}

/// Both directions.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// From the first end to the second.
    pub there: DirectionReport,
    /// From the second to the first.
    pub back: DirectionReport,
    /// Since the path was made, in seconds.
    pub seconds: f64,
    /// Whether the emulator's threads have real-time priority.
    pub real_time: bool,
    /// Whether to believe what ran over it.
    pub verdict: Verdict,
}

/// Whether a run counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "run", content = "why")]
pub enum Verdict {
    /// The path was what it was asked to be.
    Good,
    /// It was not, for this reason: the run is to be thrown away.
    ThrownAway(String),
}

impl Report {
    /// What was counted from the first end to the second.
    #[must_use]
    pub fn tally_there(&self) -> &Counts {
        &self.there.tally.counts
    }
}

impl Verdict {
    pub(crate) fn of(directions: [&DirectionReport; 2]) -> Self {
        for report in directions {
            let DirectionReport { late, pauses, refused, lost_by_devices, .. } = report;
            let many = report.tally.counts.packets_out >= ENOUGH;
            let why = if many && late.p99_us > MOST_P99_US {
                format!("one packet in a hundred was more than {} µs late", late.p99_us)
            } else if many && late.p999_us > MOST_P999_US {
                format!("one packet in a thousand was more than {} µs late", late.p999_us)
            } else if late.max_us > MOST_EVER_US {
                format!("a packet was {} µs late", late.max_us)
            } else if pauses.max_us > MOST_EVER_US {
                format!("the emulator did not look for {} µs", pauses.max_us)
            } else if *lost_by_devices > 0 || *refused > 0 {
                format!("the interfaces lost {lost_by_devices} packets and refused {refused}")
            } else {
                continue;
            };
            return Self::ThrownAway(format!(
                "{}: {why}",
                if report.direction == Direction::There { "there" } else { "back" }
            ));
        }
        Self::Good
    }

    /// Whether it does.
    #[must_use]
    pub fn is_good(&self) -> bool {
        *self == Self::Good
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => write!(f, "good"),
            Self::ThrownAway(why) => write!(f, "late, to be thrown away ({why})"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in [&self.there, &self.back] {
            let counts = &report.tally.counts;
            let name = if report.direction == Direction::There { "there" } else { "back " };
            writeln!(
                f,
                "{name}: {} packets in, {} out ({} bytes); {} dropped, {} lost, {} cut, {} too big, {} held back; queue at most {} bytes",
                counts.packets_in,
                counts.packets_out,
                counts.bytes_out,
                counts.dropped,
                counts.lost,
                counts.cut,
                counts.too_big,
                counts.held_back,
                counts.queue_max_bytes
            )?;
            let Lateness { mean_us, p99_us, p999_us, max_us } = report.late;
            writeln!(
                f,
                "       late by {mean_us} µs on average, p99 {p99_us}, p99.9 {p999_us}, at most {max_us}; longest pause {} µs",
                report.pauses.max_us
            )?;
        }
        let priority = if self.real_time { "" } else { ", without real-time priority" };
        write!(f, "run: {}{priority}", self.verdict)
    }
}
