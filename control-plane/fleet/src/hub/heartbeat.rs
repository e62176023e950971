//! The heartbeat of this server and its sessions, and what is measured with it.

use std::{
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::DateTime;
use control_plane_store::{
    Error, backup,
    rollouts::{self, Answer},
    servers::{self, Tidy},
    sessions, syncs, transfers,
};
use proto_model::{SyncState, TransferState};

use super::Hub;
use crate::message::SessionEnd;

/// A heartbeat that comes later after the one before than this is no longer in time: two of them, and a little.
const LATE_BEAT: Duration = Duration::from_secs(11);

/// Heartbeats must have been in time for so long before others are taken for gone: three of theirs then had their chance.
const STEADY_FOR: Duration = Duration::from_secs(15);

/// Heartbeats without a gap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    since: Instant,
    last: Instant,
}

impl Hub {
    /// Says that this server and its sessions live; ends the sessions that have lost their place.
    pub(crate) async fn beat(&self) -> Result<(), Error> {
        let server = servers::Server {
            id: self.0.server,
            version: self.0.options.version.clone(),
            ring_address: self.0.options.ring_address.clone(),
        };
        let held: Vec<_> = self.sessions().values().cloned().collect();
        let rows = held.iter().map(|session| servers::Held {
            node: session.node,
            session: session.id,
            remote_address: session.remote.clone(),
            heard: DateTime::from_timestamp_millis(session.heard_ms()).unwrap_or_default(),
        });
        let begun = self.0.clock.now();
        let beat = servers::beat(&self.0.db, server, rows.collect(), self.may_tidy(begun)).await?;
        self.beaten(begun);
        self.0.registered.store(true, Ordering::Relaxed);
        for session in held.iter().filter(|session| beat.taken.contains(&session.id)) {
            session.finish(SessionEnd::Replaced);
        }
        for (node, session) in beat.entered_again {
            // One that ended while its place was entered again has none.
            if self.sessions().get(&node).is_none_or(|held| held.id != session) {
                sessions::close(&self.0.db, node, session).await?;
            }
        }
        self.measure().await
    }

    /// Others are judged only by a server whose own heartbeats were stored in time for as long as theirs were not.
    fn may_tidy(&self, now: Instant) -> Tidy {
        let steady = self.steady().is_some_and(|steady| {
            now.saturating_duration_since(steady.last) <= LATE_BEAT
                && now.saturating_duration_since(steady.since) >= STEADY_FOR
        });
        if steady { Tidy::Yes } else { Tidy::NotYet }
    }

    fn beaten(&self, begun: Instant) {
        let now = self.0.clock.now();
        let mut steady = self.steady();
        // One that took long was late, too.
        let in_time = steady.filter(|steady| now.saturating_duration_since(steady.last) <= LATE_BEAT);
        *steady = Some(Steady { since: in_time.map_or(begun, |steady| steady.since), last: now });
    }

    fn steady(&self) -> MutexGuard<'_, Option<Steady>> {
        self.0.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in the tables, as gauges: every server shows the same.
    async fn measure(&self) -> Result<(), Error> {
        self.count();
        if let Some(time) = backup::last_success(&self.0.db).await? {
            #[allow(clippy::cast_precision_loss, reason = "a metric; exact for every time of these millions of years")]
            metrics::gauge!("dwcp_backup_last_success_timestamp_seconds").set(time.timestamp() as f64);
        }
        let zero = [TransferState::Pending, TransferState::Running, TransferState::Waiting, TransferState::Paused]
            .map(transfers::state_word);
        let active = transfers::active(&self.0.db).await?;
        for state in zero {
            let count = active.iter().find(|(word, _)| word == state).map_or(0, |(_, count)| *count);
            metrics::gauge!("dwcp_transfers_active", "state" => state).set(gauge(count));
        }
        let syncs = syncs::states(&self.0.db).await?;
        for state in SyncState::ALL {
            let count = syncs.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
            metrics::gauge!("dwcp_syncs", "state" => state.as_str().to_ascii_lowercase()).set(gauge(count));
        }
        let targets = rollouts::target_counts(&self.0.db).await?;
        for answer in [Answer::Offline, Answer::Pending, Answer::Applied, Answer::Rejected].map(Answer::as_str) {
            let count = targets.iter().find(|(word, _)| word == answer).map_or(0, |(_, count)| *count);
            metrics::gauge!("dwcp_rollout_targets", "state" => answer).set(gauge(count));
        }
        Ok(())
    }
}

fn gauge(count: i64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}
