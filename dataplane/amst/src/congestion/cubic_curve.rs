//! The window of RFC 9438 over time since it was last reduced.

use std::time::{Duration, Instant};

/// RFC 9438 4.6: what a reduction leaves.
pub(super) const BETA: f64 = 0.7;

/// RFC 9438 4.1, packets per second cubed.
pub(super) const C: f64 = 0.4;

/// RFC 9438 4.3: what makes an additive increase with a reduction to [`BETA`] as fast as Reno's.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The curve of one flow. In bytes; the RFC's packets are of `mtu` bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    w_max: f64,
    /// The window when the epoch began.
    begun: Option<Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    at: Instant,
    /// Seconds until the curve is back at `w_max`.
    k: f64,
    /// What Reno would have.
    w_est: f64,
}

impl Curve {
    /// Notes a reduction from `window` (RFC 9438 4.6, 4.7). What it leaves is for the caller to say; the next epoch begins with the
    /// next growth.
    pub(super) fn reduced(&mut self, window: f64) {
        // 4.7, fast convergence: who has less than before makes room.
        self.w_max = if window < self.w_max { window * (1.0 + BETA) / 2.0 } else { window };
        self.begun = None;
    }

    /// Aims for less than what was reached before.
    pub(super) fn lower(&mut self, factor: f64) {
        self.w_max *= factor;
    }

    /// Forgets what was reached: the curve starts flat from the window there is.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Time that passed without sending does not count (RFC 9438 5.8).
    pub(super) fn skip(&mut self, idle: Duration) {
        if let Some(epoch) = &mut self.begun {
            epoch.at += idle;
        }
    }

    /// The window after `acked` more bytes arrived at `now`.
    pub(super) fn grown(&mut self, window: f64, acked: f64, now: Instant, rtt: Duration, mtu: f64) -> f64 {
        let w_max = self.w_max.max(window);
        let epoch = self.begun.get_or_insert_with(|| {
            // Figure 2 of the RFC: the K that makes the curve begin where the window is, whatever it was reduced by.
            let k = ((w_max - window) / mtu / C).cbrt();
            Epoch { at: now, k, w_est: window }
        });
        if self.w_max < window {
            self.w_max = w_max;
        }
        let t = now.saturating_duration_since(epoch.at).as_secs_f64();
        let offset = t + rtt.as_secs_f64() - epoch.k;
        let w_cubic = |t: f64| (C * t.powi(3)).mul_add(mtu, w_max);
        // 4.3: additive; as fast as Reno itself once beyond where it was reduced.
        let alpha = if epoch.w_est >= w_max { 1.0 } else { ALPHA };
        epoch.w_est += alpha * mtu * (acked / window);
        if w_cubic(t - epoch.k) < epoch.w_est {
            return window.max(epoch.w_est);
        }
        // 4.2: by at most half in a round trip.
        let target = w_cubic(offset).clamp(window, 1.5 * window);
        window + (target - window) / window * acked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::congestion::core::testing::epoch;

    const MTU: f64 = 1000.0;

    /// Grows for so long, a packet acknowledged for each of the window in each round trip.
    fn after(seconds: f64, from: f64, reduced_from: f64, rtt_ms: u64) -> f64 {
        let (start, rtt) = (epoch(), Duration::from_millis(rtt_ms));
        let mut curve = Curve::default();
        curve.reduced(reduced_from);
        let mut window = from;
        let mut t = 0.0;
        while t < seconds {
            t += rtt.as_secs_f64() * MTU / window;
            window = curve.grown(window, MTU, start + Duration::from_secs_f64(t), rtt, MTU);
        }
        window
    }

    #[test]
    fn is_back_at_the_old_window_after_k_and_flat_there() {
        // 1,000 packets, reduced to 700: K = cbrt(300 / 0.4) = 9.086 s.
        let k = (300.0_f64 / C).cbrt();
        let window = after(k, 700.0 * MTU, 1000.0 * MTU, 100);
        assert!((window / (1000.0 * MTU) - 1.0).abs() < 0.01, "{window}");
        let half = after(k / 2.0, 700.0 * MTU, 1000.0 * MTU, 100);
        // Half-way an eighth of what is missing is still missing; the target is a round trip ahead.
        assert!((half / ((1000.0 - 300.0 / 8.0) * MTU) - 1.0).abs() < 0.01, "{half}");
    }

    #[test]
    fn is_not_slower_than_reno_where_that_is_faster() {
        // 20 packets over 10 ms: Reno's share is 0.53 packets in each of 100 round trips.
        let window = after(1.0, 14.0 * MTU, 20.0 * MTU, 10);
        assert!(window > 55.0 * MTU && window < 110.0 * MTU, "{window}");
    }

    #[test]
    fn fast_convergence_makes_room() {
        let mut curve = Curve::default();
        curve.reduced(100.0);
        curve.reduced(80.0);
        assert!((curve.w_max - 68.0).abs() < 1e-9);
    }
}
