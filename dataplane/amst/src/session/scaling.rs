//! Scales the streams of a session: samples what they move, and does what the scaler says.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Origin, Session, lane_count};
use crate::{
    TransportSettings,
    endpoint::Shared,
    lane_thread::LaneThread,
    profiles::PeerProfile,
    scaler::{self, Best, Bounds, LaneSample, LaneScaler, Move, Sample, Scaled, Scaler, interval},
};

/// How often a session is looked at in which nothing is open.
const IDLE: Duration = Duration::from_secs(1);

/// The scaler of a session.
#[derive(Debug)]
pub(super) struct Scaling(Mutex<State>);

#[derive(Debug)]
struct State {
    scaler: Scaler,
    lanes: LaneScaler,
    /// `initial_streams`, as it was last set.
    initial: u32,
}

/// What was sent and lost by the last sample.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    sent: u64,
    received: u64,
    lost: u64,
}

impl Scaling {
    pub(super) fn new(
        shared: &Shared,
        settings: &TransportSettings,
        origin: &Origin,
        remembered: Option<PeerProfile>,
    ) -> Self {
        let (streams, lanes) =
            remembered.map_or((settings.initial_streams, 1), |profile| (profile.streams, profile.lanes));
        let scaler = Scaler::new(bounds(settings), streams);
        let lane_bounds = lane_count::bounds(settings, shared.sockets.len(), origin.dialled);
        let lanes = LaneScaler::new(lane_bounds, if origin.dialled { lanes } else { 1 });
        Self(Mutex::new(State { scaler, lanes, initial: settings.initial_streams }))
    }

    pub(super) fn streams(&self) -> u32 {
        self.state().scaler.streams()
    }

    /// How many lanes there should be, and may be at most.
    pub(super) fn lanes(&self) -> (u32, u32) {
        let state = self.state();
        (state.lanes.wanted(), state.lanes.most())
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
        let moved = self.moved_bytes();
        Mark { at: self.0.shared.clock.now(), sent: moved.sent, received: moved.received, lost: moved.lost }
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
        self.scale_lanes(&sample, now.received.saturating_sub(before.received));
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

    /// Asks both scalers. One thing is tried at a time, so that it is known what paid: streams, a lane, or TCP in place of all lanes.
    fn scale_lanes(&self, sample: &Sample, received: u64) {
        if !self.0.scaling.state().lanes.is_trying() {
            self.consider_tcp(sample);
        }
        let by_tcp = self.tcp_lane_for_pieces().is_some();
        let of_lanes = self.lane_sample(sample, received);
        let moves = {
            let mut state = self.0.scaling.state();
            let State { scaler, lanes, .. } = &mut *state;
            if by_tcp {
                scaler.sample(sample).into_iter().collect()
            } else {
                scaler::sample(scaler, lanes, sample, &of_lanes)
            }
        };
        moves.into_iter().for_each(|what| self.moved(what));
        // Also for lanes that came later than they were wanted.
        self.adjust_lanes();
    }

    fn lane_sample(&self, sample: &Sample, received: u64) -> LaneSample {
        let mut threads: Vec<_> = self.lanes().iter().map(|lane| lane.thread.clone()).collect();
        threads.sort_by_key(LaneThread::id);
        threads.dedup_by_key(|thread| thread.id());
        LaneSample {
            elapsed: sample.elapsed,
            moved: sample.delivered.saturating_add(received),
            lanes: u32::try_from(self.lane_count()).unwrap_or(u32::MAX),
            busy: threads.iter().map(LaneThread::busy).fold(0.0, f64::max),
            work: threads.iter().map(LaneThread::busy).sum(),
            window_used: self.0.window_used.get(),
        }
    }

    /// Takes changed settings; another number to begin with holds at once.
    pub(crate) fn rebound(&self, settings: &TransportSettings) {
        let lane_bounds = lane_count::bounds(settings, self.0.shared.sockets.len(), self.dialled());
        let moves = {
            let mut state = self.0.scaling.state();
            let before = std::mem::replace(&mut state.initial, settings.initial_streams);
            let begin = (before != settings.initial_streams).then_some(settings.initial_streams);
            [state.scaler.rebound(bounds(settings), begin), state.lanes.rebound(lane_bounds)]
        };
        moves.into_iter().flatten().for_each(|what| self.moved(what));
    }

    fn moved(&self, what: Move) {
        self.say_moved(what);
        match what.of {
            Scaled::Streams => self.resize(what),
            Scaled::Lanes => self.adjust_lanes(),
        }
    }

    fn resize(&self, what: Move) {
        self.slots().resize(usize::try_from(what.to).unwrap_or(usize::MAX));
        for lane in self.lanes() {
            lane.connection.set_send_window(crate::transport::send_window(what.to));
        }
    }

    /// So that the next session with the peer begins where this one came to.
    pub(super) fn remember(&self) {
        let (best, lanes) = {
            let state = self.0.scaling.state();
            (state.scaler.best(), if state.lanes.is_trying() { None } else { Some(state.lanes.wanted()) })
        };
        let (Some(Best { streams, goodput }), Some(lanes)) = (best, lanes) else { return };
        let profile = PeerProfile { peer: self.peer(), streams, lanes, rate: to_bytes(goodput) };
        self.0.shared.remember(profile);
    }
}
