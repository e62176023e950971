//! What the path loses whatever is sent: the least of three rounds together, over ten seconds.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::congestion::core::{Path, Round};

/// How long a measurement counts.
const WINDOW: Duration = Duration::from_secs(10);

/// Packets that are a measurement: of fewer, none lost says nothing about a loss of one in a hundred.
const MIN_PACKETS: f64 = 500.0;

/// Measurements kept; of more the oldest goes.
const MAX: usize = 64;

/// Share of bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct LossFloor {
    /// Of the rounds that are being put together: lost, all, how many.
    current: (f64, f64, u32),
    /// Ascending in time and value.
    least: VecDeque<(Instant, f64)>,
}

impl LossFloor {
    pub(super) fn round(&mut self, path: &Path, round: &Round) {
        let (lost, all, rounds) = &mut self.current;
        *lost += round.lost;
        *all += round.lost + round.delivered;
        *rounds += 1;
        if *rounds < 3 || *all < MIN_PACKETS * path.mtu {
            return;
        }
        let loss = *lost / *all;
        self.current = (0.0, 0.0, 0);
        while self.least.back().is_some_and(|(_, other)| *other >= loss) {
            self.least.pop_back();
        }
        self.least.push_back((round.now, loss));
        while self.least.len() > MAX
            || self.least.front().is_some_and(|(at, _)| round.now.saturating_duration_since(*at) > WINDOW)
        {
            self.least.pop_front();
        }
    }

    /// Zero until it was measured.
    pub(super) fn get(&self) -> f64 {
        self.least.front().map_or(0.0, |(_, loss)| *loss)
    }
}
