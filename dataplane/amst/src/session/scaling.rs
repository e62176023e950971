//! Scales the streams of a session: samples what they move, and does what the scaler says.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Session;
use crate::{
    TransportSettings,
    profiles::PeerProfile,
    scaler::{Best, Bounds, Move, Sample, Scaler, interval},
};

/// How often a session is looked at in which nothing is open.
const IDLE: Duration = Duration::from_secs(1);

/// The scaler of a session.
#[derive(Debug)]
pub(super) struct Scaling(Mutex<State>);

#[derive(Debug)]
struct State {
    scaler: Scaler,
    /// `initial_streams`, as it was last set.
    initial: u32,
}

/// What was sent and lost by the last sample.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    sent: u64,
    lost: u64,
}

impl Scaling {
    pub(super) fn new(settings: &TransportSettings, streams: u32) -> Self {
        let scaler = Scaler::new(bounds(settings), streams);
        Self(Mutex::new(State { scaler, initial: settings.initial_streams }))
    }

    pub(super) fn streams(&self) -> u32 {
        self.state().scaler.streams()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bounds(settings: &TransportSettings) -> Bounds {
    Bounds { min: settings.min_streams, max: settings.max_streams, factor: settings.stream_scaling_factor }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what a u64 holds")]
fn to_bytes(rate: f64) -> u64 {
    rate.clamp(0.0, 9.0e15) as u64
}

/// Scales until the session ends.
pub(super) async fn run(session: Session) {
    let mut mark = session.mark();
    loop {
        let pause = if session.channel_count() == 0 { IDLE } else { interval(session.round_trip()) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _closed = session.wait_closed() => return,
        }
        mark = session.scale(mark);
    }
}

impl Session {
    fn mark(&self) -> Mark {
        let info = self.info();
        Mark { at: self.0.shared.clock.now(), sent: info.bytes_sent, lost: info.bytes_lost }
    }

    fn scale(&self, before: Mark) -> Mark {
        let now = self.mark();
        let (most_used, waited) = self.slots().use_since();
        let elapsed = now.at.saturating_duration_since(before.at);
        let lost = now.lost.saturating_sub(before.lost);
        let sample = Sample {
            elapsed,
            delivered: now.sent.saturating_sub(before.sent).saturating_sub(lost),
            lost,
            most_used: u32::try_from(most_used).unwrap_or(u32::MAX),
            waiting: (waited.as_secs_f64() / elapsed.as_secs_f64().max(1e-6)).min(1.0),
        };
        self.measure_use(&sample);
        self.consider_tcp(&sample);
        let moved = self.0.scaling.state().scaler.sample(&sample);
        self.moved(moved);
        self.remember();
        now
    }

    /// How much of the windows is in use: what was delivered in a round trip, of what might be under way.
    #[allow(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    fn measure_use(&self, sample: &Sample) {
        let lanes = self.lanes();
        let windows: u64 = lanes.iter().map(|lane| lane.connection.stats().path.cwnd).sum();
        let sent = (sample.delivered + sample.lost) as f64;
        let rounds = sample.elapsed.as_secs_f64() / self.round_trip().as_secs_f64().max(1e-6);
        self.0.window_used.set(sent / rounds.max(1e-6) / (windows.max(1) as f64));
        self.0.lost.set(sample.lost as f64 / sent.max(1.0));
    }

    /// Takes changed settings; another number to begin with holds at once.
    pub(crate) fn rebound(&self, settings: &TransportSettings) {
        let moved = {
            let mut state = self.0.scaling.state();
            let before = std::mem::replace(&mut state.initial, settings.initial_streams);
            let begin = (before != settings.initial_streams).then_some(settings.initial_streams);
            state.scaler.rebound(bounds(settings), begin)
        };
        self.moved(moved);
    }

    fn moved(&self, moved: Option<Move>) {
        let Some(what) = moved else { return };
        self.slots().resize(usize::try_from(what.to).unwrap_or(usize::MAX));
        for lane in self.lanes() {
            lane.connection.set_send_window(crate::transport::send_window(what.to));
        }
        self.say_moved(what);
    }

    /// So that the next session with the peer begins where this one came to.
    pub(super) fn remember(&self) {
        let best = self.0.scaling.state().scaler.best();
        let Some(Best { streams, goodput }) = best else { return };
        let profile = PeerProfile { peer: self.peer(), streams, rate: to_bytes(goodput) };
        self.0.shared.remember(profile);
    }
}
