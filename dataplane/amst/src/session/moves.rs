//! What the scaler did: remembered, counted, logged, and said in the span of each transfer that uses the session.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use proto_model::PublicKey;

use super::{ChannelState, Session};
use crate::{Move, Scaled, telemetry};

/// Moves that an endpoint remembers: those of the last minutes of some sessions that move often.
pub const MOVES: usize = 256;

/// A change of a session, and when it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PastMove {
    /// With whom.
    pub peer: PublicKey,
    /// What changed.
    pub what: Move,
    /// When.
    pub at: DateTime<Utc>,
    /// How long the session was open then.
    pub open_for: Duration,
}

/// The moves of all sessions of an endpoint, the last first.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<VecDeque<PastMove>>);

impl Moves {
    pub(crate) fn past(&self) -> Vec<PastMove> {
        self.list().iter().copied().collect()
    }

    fn add(&self, past: PastMove) {
        let mut list = self.list();
        list.truncate(MOVES - 1);
        list.push_front(past);
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<PastMove>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Has a span hear of the channel's session from now on.
    pub(crate) fn tell(&self, channel: &ChannelState, span: &tracing::Span) {
        let Some(id) = span.id() else { return };
        // One span is enough for a channel; another one comes too late.
        drop(channel.follower.set(id.clone()));
        let (peer, info) = (self.peer().node_id(), self.info());
        tracing::info!(parent: id, %peer, streams = info.streams, lanes = info.lanes, "Session used");
    }

    /// Says what changed to everybody who listens.
    pub(super) fn say_moved(&self, what: Move) {
        let shared = &self.0.shared;
        let open_for = shared.clock.now().saturating_duration_since(self.opened());
        shared.moves().add(PastMove { peer: self.peer(), what, at: shared.clock.utc(), open_for });
        telemetry::scaled(&what);
        let (peer, reason) = (self.peer().node_id(), what.reason.as_str());
        let Move { from, to, goodput, .. } = what;
        let followers = self.followers();
        if followers.is_empty() {
            match what.of {
                Scaled::Streams => tracing::info!(%peer, from, to, reason, goodput, "Streams scaled"),
                Scaled::Lanes => tracing::info!(%peer, from, to, reason, goodput, "Lanes scaled"),
            }
        }
        for span in followers {
            // By its id, so that nothing holds a span that is to end; one that has ended is not found.
            match what.of {
                Scaled::Streams => tracing::info!(parent: span, %peer, from, to, reason, goodput, "Streams scaled"),
                Scaled::Lanes => tracing::info!(parent: span, %peer, from, to, reason, goodput, "Lanes scaled"),
            }
        }
    }

    fn followers(&self) -> Vec<tracing::Id> {
        let channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.values().filter_map(|channel| channel.follower.get().cloned()).collect()
    }
}
