//! `reno`: RFC 9002 7.3, which is the NewReno of RFC 6582 with QUIC's losses.

use std::time::{Duration, Instant};

use super::core::{Acks, Algorithm, Lost, Mode, Path, Round};
use super::rate_sample::to_f64;

/// RFC 9002 B.1: kLossReductionFactor.
const LOSS_REDUCTION: f64 = 0.5;

/// NewReno.
#[derive(Clone, Debug)]
pub(super) struct Reno {
    window: f64,
    /// `ssthresh`; infinite until something was lost.
    threshold: f64,
    recovery: Option<Instant>,
}

impl Reno {
    pub(super) fn new(path: &Path) -> Self {
        Self { window: path.initial_window(), threshold: f64::INFINITY, recovery: None }
    }
}

/// Whether a packet left before the recovery period began: what happens to it says nothing new (RFC 9002 7.3.2).
pub(super) fn in_recovery(recovery: Option<Instant>, sent: Instant) -> bool {
    recovery.is_some_and(|began| sent <= began)
}

impl Algorithm for Reno {
    fn acked(&mut self, path: &Path, acks: &Acks<'_>) {
        if acks.app_limited {
            return;
        }
        for packet in acks.packets.iter().filter(|packet| !in_recovery(self.recovery, packet.sent)) {
            let bytes = to_f64(packet.bytes);
            self.window = path.clamp(if self.window < self.threshold {
                // RFC 9002 7.3.1: by what was acknowledged.
                self.window + bytes
            } else {
                // RFC 9002 7.3.3: by one packet for each window that was acknowledged.
                self.window + path.mtu * bytes / self.window
            });
        }
    }

    fn lost(&mut self, path: &Path, now: Instant, lost: &Lost) {
        if !in_recovery(self.recovery, lost.sent) {
            self.recovery = Some(now);
            self.window = path.clamp(self.window * LOSS_REDUCTION);
            self.threshold = self.window;
        }
        if lost.persistent {
            // RFC 9002 7.6.2.
            self.window = path.minimum_window();
            self.recovery = None;
        }
    }

    fn round(&mut self, _path: &Path, _round: &Round) {}

    fn idle(&mut self, path: &Path, _now: Instant, _idle: Duration, _timeouts: u32) {
        // RFC 5681 4.1: the restart window; what was reached before is reached again by slow start.
        self.threshold = self.threshold.max(0.75 * self.window);
        self.window = self.window.min(path.initial_window());
    }

    fn window(&self) -> f64 {
        self.window
    }

    fn mode(&self) -> Mode {
        if self.window < self.threshold { Mode::Start } else { Mode::Avoidance }
    }
}
