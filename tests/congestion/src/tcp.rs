//! What else is on the path: Linux's TCP CUBIC, and something like TCP BBR.

use crate::link::{MS, Nanos, SECOND};

/// A competitor's congestion control. Windows in segments.
#[derive(Debug)]
pub(crate) enum Tcp {
    /// `tcp_cubic.c`, with HyStart, without pacing.
    Cubic(Box<TcpCubic>),
    /// BBRv1's states and gains.
    Bbr(Box<TcpBbr>),
}

impl Tcp {
    /// CUBIC at its beginning.
    #[must_use]
    pub(crate) fn cubic() -> Self {
        Self::Cubic(Box::default())
    }

    /// BBR at its beginning.
    #[must_use]
    pub(crate) fn bbr() -> Self {
        Self::Bbr(Box::default())
    }

    /// Segments that may be under way.
    #[must_use]
    pub(crate) fn window(&self) -> f64 {
        match self {
            Self::Cubic(cubic) => cubic.window,
            Self::Bbr(bbr) => bbr.window(),
        }
    }

    /// Segments a second that may be sent, if it paces.
    #[must_use]
    pub(crate) fn pace(&self) -> Option<f64> {
        match self {
            Self::Cubic(_) => None,
            Self::Bbr(bbr) => bbr.pace(),
        }
    }

    /// Segments arrived; `sent` is when the newest left.
    pub(crate) fn acked(&mut self, now: Nanos, sent: Nanos, segments: f64, under_way: f64) {
        match self {
            Self::Cubic(cubic) => cubic.acked(now, sent, segments),
            Self::Bbr(bbr) => bbr.acked(now, sent, segments, under_way),
        }
    }

    /// Segments were lost, the newest of which left at `sent`.
    pub(crate) fn lost(&mut self, now: Nanos, sent: Nanos, timeout: bool) {
        match self {
            Self::Cubic(cubic) => cubic.lost(now, sent, timeout),
            Self::Bbr(_) => {}
        }
    }
}

/// `tcp_cubic.c`.
#[derive(Debug)]
pub(crate) struct TcpCubic {
    window: f64,
    threshold: f64,
    last_max: f64,
    epoch: Option<(Nanos, f64, f64)>,
    friendly: f64,
    least: Nanos,
    recovery: Option<Nanos>,
    round: (Nanos, Nanos, Nanos, u32),
}

impl Default for TcpCubic {
    fn default() -> Self {
        Self {
            window: 10.0,
            threshold: f64::INFINITY,
            last_max: 0.0,
            epoch: None,
            friendly: 0.0,
            least: Nanos::MAX,
            recovery: None,
            round: (0, 0, Nanos::MAX, 0),
        }
    }
}

impl TcpCubic {
    fn acked(&mut self, now: Nanos, sent: Nanos, segments: f64) {
        let rtt = now.saturating_sub(sent);
        self.least = self.least.min(rtt);
        if self.recovery.is_some_and(|began| sent <= began) {
            return;
        }
        if self.window < self.threshold {
            self.hystart(now, sent, rtt);
            self.window += segments;
        } else {
            self.avoid(now, segments);
        }
    }

    /// `hystart_update`: an acknowledgment train of half the least round trip, or eight samples that took an eighth longer.
    fn hystart(&mut self, now: Nanos, sent: Nanos, rtt: Nanos) {
        let (began, last, least, samples) = self.round;
        if sent >= began {
            self.round = (now, now, rtt, 1);
            return;
        }
        let in_train = now.saturating_sub(last) <= 2 * MS;
        self.round = (began, if in_train { now } else { last }, least.min(rtt), samples + 1);
        if self.window < 16.0 {
            return;
        }
        let train = in_train && now - began > self.least / 2;
        let slow = self.round.3 >= 8 && self.round.2 >= self.least + (self.least / 8).clamp(4 * MS, 16 * MS);
        if train || slow {
            self.threshold = self.window;
        }
    }

    /// `bictcp_update`, `tcp_cong_avoid_ai`.
    fn avoid(&mut self, now: Nanos, segments: f64) {
        let (window, last_max) = (self.window, self.last_max);
        let (began, k, origin) = *self.epoch.get_or_insert_with(|| {
            self.friendly = window;
            if window < last_max { (now, ((last_max - window) / 0.4).cbrt(), last_max) } else { (now, 0.0, window) }
        });
        let t = seconds(now - began + self.least) - k;
        let target = origin + 0.4 * t.powi(3);
        let mut count = if target > window { window / (target - window) } else { 100.0 * window };
        if last_max == 0.0 {
            count = count.min(20.0);
        }
        self.friendly += segments / (window * 15.0 / 8.0);
        if self.friendly > window {
            count = count.min(window / (self.friendly - window));
        }
        self.window += segments / count.max(2.0);
    }

    fn lost(&mut self, now: Nanos, sent: Nanos, timeout: bool) {
        if self.recovery.is_some_and(|began| sent <= began) && !timeout {
            return;
        }
        self.recovery = Some(now);
        self.epoch = None;
        self.last_max = if self.window < self.last_max { self.window * 0.85 } else { self.window };
        self.window = (self.window * 0.7).max(2.0);
        self.threshold = self.window;
        if timeout {
            self.window = 1.0;
            self.recovery = None;
        }
    }
}

/// BBRv1 (draft-cardwell-iccrg-bbr-congestion-control-00): enough of it to see who yields.
#[derive(Debug)]
pub(crate) struct TcpBbr {
    /// Segments a second, by round.
    rates: [f64; 10],
    round: (u64, Nanos, f64),
    delivered: f64,
    least: (Nanos, Nanos),
    full: (f64, u32),
    state: BbrState,
    cycle: (usize, Nanos),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum BbrState {
    Startup,
    Drain,
    ProbeBandwidth,
    ProbeRtt(Nanos),
}

impl Default for TcpBbr {
    fn default() -> Self {
        Self {
            rates: [0.0; 10],
            round: (0, 0, 0.0),
            delivered: 0.0,
            least: (Nanos::MAX, 0),
            full: (0.0, 0),
            state: BbrState::Startup,
            cycle: (2, 0),
        }
    }
}

impl TcpBbr {
    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn bdp(&self) -> f64 {
        if self.least.0 == Nanos::MAX { 5.0 } else { self.rate() * seconds(self.least.0) }
    }

    fn window(&self) -> f64 {
        match self.state {
            BbrState::ProbeRtt(_) => 4.0,
            BbrState::Startup => (2.89 * self.bdp()).max(10.0),
            BbrState::Drain | BbrState::ProbeBandwidth => (2.0 * self.bdp() + 3.0).max(4.0),
        }
    }

    fn pace(&self) -> Option<f64> {
        let gain = match self.state {
            BbrState::Startup => 2.89,
            BbrState::Drain => 1.0 / 2.89,
            BbrState::ProbeRtt(_) => 1.0,
            BbrState::ProbeBandwidth => [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0][self.cycle.0],
        };
        (self.rate() > 0.0).then(|| gain * self.rate())
    }

    fn acked(&mut self, now: Nanos, sent: Nanos, segments: f64, under_way: f64) {
        let rtt = now.saturating_sub(sent);
        self.delivered += segments;
        if rtt <= self.least.0 {
            self.least = (rtt, now);
        }
        if sent >= self.round.1 {
            let took = seconds(now - self.round.1).max(1e-6);
            if self.round.0 > 0 {
                let index = usize::try_from(self.round.0 % 10).unwrap_or(0);
                self.rates[index] = (self.delivered - self.round.2) / took;
            }
            self.round = (self.round.0 + 1, now, self.delivered);
            if self.state == BbrState::Startup {
                self.full =
                    if self.rate() >= 1.25 * self.full.0 { (self.rate(), 0) } else { (self.full.0, self.full.1 + 1) };
                if self.full.1 >= 3 {
                    self.state = BbrState::Drain;
                }
            }
        }
        if self.state == BbrState::Drain && under_way <= self.bdp() {
            (self.state, self.cycle) = (BbrState::ProbeBandwidth, (2, now));
        }
        if self.state == BbrState::ProbeBandwidth && now > self.cycle.1 + self.least.0 {
            self.cycle = ((self.cycle.0 + 1) % 8, now);
        }
        match self.state {
            BbrState::ProbeRtt(until) if now > until => {
                (self.state, self.cycle) = (BbrState::ProbeBandwidth, (2, now));
                self.least.1 = now;
            }
            BbrState::ProbeBandwidth if now > self.least.1 + 10 * SECOND => {
                self.least = (rtt, now);
                self.state = BbrState::ProbeRtt(now + 200 * MS + rtt);
            }
            _ => {}
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a simulation is minutes long")]
fn seconds(time: Nanos) -> f64 {
    time as f64 / SECOND as f64
}
