//! What an endpoint does by itself: measures, widens windows, closes what is unused or revoked, and ends.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{CloseReason, Session, rate::SETTLE_EVERY, telemetry};

/// How often.
const TICK: Duration = SETTLE_EVERY;

/// After what time without a channel a session is closed.
const UNUSED: Duration = Duration::from_secs(300);

/// The same for one that is not preferred, after crossed dials, and for all where memory for further connections is short.
const UNUSED_SECOND: Duration = Duration::from_secs(10);

/// How long the last words to peers may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Looks after the sessions until the endpoint ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.tasks.cancelled() => return,
        }
        let mut busy = false;
        let unused = if shared.budget.is_short() { UNUSED_SECOND } else { UNUSED };
        let mut congestion = Vec::new();
        for session in shared.all_sessions() {
            busy |= session.tend();
            congestion.extend(session.congestion());
            let preferred = shared.registry().is_preferred(&session);
            if session.unused_for() >= if preferred { unused } else { UNUSED_SECOND } {
                session.close(CloseReason::Unused);
            }
        }
        if !busy {
            shared.pool.shrink();
        }
        telemetry::gauges(&shared);
        telemetry::congestion_gauges(&congestion);
    }
}

/// Cuts sessions with whom the roster has no more, at once.
pub(super) async fn watch_roster(shared: Arc<Shared>) {
    let mut changes = shared.identity.membership().changes();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shared.tasks.cancelled() => return,
        }
        for session in shared.all_sessions() {
            if !shared.is_member(&session.peer()) {
                session.close(CloseReason::Revoked);
            }
        }
        shared.registry().keep_reached(|peer| shared.is_member(peer));
    }
}

/// Waits for the end, tells the peers, and lets the threads go.
pub(super) async fn end(shared: Arc<Shared>, threads: CancellationToken) {
    shared.tasks.cancelled().await;
    for session in shared.all_sessions() {
        session.close(CloseReason::LocalShutdown);
    }
    for socket in &shared.sockets {
        socket.endpoint.close(crate::close::Code::Shutdown.into(), crate::close::Code::Shutdown.words());
    }
    let idle = futures::future::join_all(shared.sockets.iter().map(|socket| socket.endpoint.wait_idle()));
    // A peer that does not hear it finds out by itself.
    drop(tokio::time::timeout(LAST_WORDS, idle).await);
    threads.cancel();
}

impl Session {
    /// Counts, and widens windows to what the path carries. Whether anything was moved.
    fn tend(&self) -> bool {
        let (mut busy, mut sent) = (false, 0);
        self.share_window();
        for lane in self.lanes() {
            let moved = self.count(&lane);
            sent += moved.sent;
            let rtt = lane.connection.rtt();
            // Twice what arrives in a round trip, doubled again so that growth is not held back for a second.
            let per_round_trip =
                moved.received.saturating_mul(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)) / 1_000_000;
            if self.channel_count() > 0 {
                let wanted = per_round_trip.saturating_mul(4);
                lane.resize(wanted.clamp(self.least_window(), crate::transport::MAX_WINDOW));
            }
            if moved.received > 64 * 1024 {
                busy = true;
                telemetry::rtt(rtt);
            }
        }
        self.tend_tcp();
        if let Some(snapshot) = self.congestion().filter(|_| sent > 64 * 1024) {
            telemetry::congestion(&snapshot);
        }
        busy
    }

    /// Takes changed settings.
    pub(super) fn retune(&self) {
        let settings = self.shared().settings();
        self.limiters()[0].set(settings.pacing_rate);
        for lane in self.lanes() {
            lane.connection.set_max_concurrent_uni_streams(quinn::VarInt::from_u32(settings.max_streams));
        }
        self.rebound(&settings);
    }
}
