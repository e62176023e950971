//! Which packets are lost, held back or delayed: the same for the same seed and the same packets.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::link::{Bursts, Link};

/// Dice of one direction. Loss has its own, so that the n-th packet's fate does not depend on the jitter.
#[derive(Debug)]
pub(crate) struct Chance {
    loss: StdRng,
    timing: StdRng,
    in_burst: bool,
    wander: Wander,
}

/// The delay's way between two points that were drawn.
#[derive(Clone, Copy, Debug, Default)]
struct Wander {
    from: (u64, f64),
    to: (u64, f64),
}

/// A point of the wander is drawn at most so often.
const LEAST_STEP: u64 = 10_000_000;

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            loss: StdRng::seed_from_u64(seed),
            timing: StdRng::seed_from_u64(!seed),
            in_burst: false,
            wander: Wander::default(),
        }
    }

    /// Whether the next packet is lost.
    pub(crate) fn loses(&mut self, link: &Link) -> bool {
        if let Some(Bursts { share, length }) = link.bursts {
            // Of the two states' shares: entering = leaving x share / (1 - share).
            let leaves = 1.0 / length;
            let enters = leaves * share / (1.0 - share);
            let die: f64 = self.loss.random();
            self.in_burst = if self.in_burst { die >= leaves } else { die < enters };
        } else {
            self.in_burst = false;
        }
        let die: f64 = self.loss.random();
        self.in_burst || die < link.loss
    }

    pub(crate) fn holds_back(&mut self, share: f64) -> bool {
        self.timing.random::<f64>() < share
    }

    /// How far the delay is off at `at`, in nanoseconds within `jitter` to either side. It moves on straight lines, and so slowly
    /// that no packet overtakes another by it.
    pub(crate) fn wander(&mut self, at: u64, jitter: u64) -> i64 {
        if jitter == 0 {
            return 0;
        }
        let step = jitter.saturating_mul(4).max(LEAST_STEP);
        if at > self.wander.to.0.saturating_add(step) {
            self.wander.to.0 = at;
        }
        while at >= self.wander.to.0 {
            let point = self.timing.random::<f64>().mul_add(2.0, -1.0);
            self.wander = Wander { from: self.wander.to, to: (self.wander.to.0 + step, point) };
        }
        let Wander { from, to } = self.wander;
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "some milliseconds")]
        {
            let way = at.saturating_sub(from.0) as f64 / (to.0 - from.0) as f64;
            let point = from.1 + (to.1 - from.1) * way;
            (point.clamp(-1.0, 1.0) * jitter as f64) as i64
        }
    }
}
