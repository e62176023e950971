//! Which sessions there are. Pure but for the sessions it holds.
//!
//! Either end may dial, and both may at once. Both sessions then live, nobody waits for the other: each end prefers the one
//! that the smaller key dialled, and of several of one dialler the newest, so that both prefer the same; the other is closed once
//! it is unused.

use std::collections::{HashMap, HashSet};

use foundation_listener::limit_hits;
use proto_model::PublicKey;

use crate::{Session, profiles::Profiles};

/// Peers of which it is remembered that they were reached, at most.
const MAX_REMEMBERED: usize = 10_000;

/// There is no room for a further session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for a further session")]
pub(crate) struct Full;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// By peer; the preferred one first.
    sessions: HashMap<PublicKey, Vec<Session>>,
    /// Peers that were reached the last time.
    reached: HashSet<PublicKey>,
    /// What was of use with a peer the last time.
    pub(crate) profiles: Profiles,
}

impl Registry {
    /// Takes up a session, of at most so many with one peer. Those of an earlier run of the peer are for the caller to close.
    pub(super) fn add(&mut self, session: &Session, own: PublicKey, most: usize) -> Result<Vec<Session>, Full> {
        let peer = session.peer();
        let present = self.sessions.entry(peer).or_default();
        let same_run = |other: &Session| other.instance() == session.instance();
        if present.iter().filter(|other| same_run(other)).count() >= most {
            limit_hits::hit("limits.sessions_per_peer");
            return Err(Full);
        }
        let (mut kept, outdated): (Vec<_>, Vec<_>) = present.drain(..).partition(same_run);
        kept.push(session.clone());
        kept.sort_by_key(|session| {
            let dialler_is_smaller = session.dialled() == (own < peer);
            (std::cmp::Reverse(dialler_is_smaller), std::cmp::Reverse(session.opened()))
        });
        *present = kept;
        if self.reached.len() < MAX_REMEMBERED {
            self.reached.insert(peer);
        }
        Ok(outdated)
    }

    pub(super) fn remove(&mut self, session: &Session) {
        let peer = session.peer();
        if let Some(sessions) = self.sessions.get_mut(&peer) {
            sessions.retain(|other| !other.is_same(session));
            if sessions.is_empty() {
                self.sessions.remove(&peer);
            }
        }
    }

    pub(super) fn preferred(&self, peer: &PublicKey) -> Option<Session> {
        self.sessions.get(peer)?.iter().find(|session| session.closed().is_none()).cloned()
    }

    pub(super) fn is_preferred(&self, session: &Session) -> bool {
        self.preferred(&session.peer()).is_none_or(|preferred| preferred.is_same(session))
    }

    /// The session that a further lane belongs to.
    pub(super) fn by_id(&self, peer: &PublicKey, id: &[u8; 16]) -> Option<Session> {
        self.sessions.get(peer)?.iter().find(|session| session.id() == *id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Session> {
        self.sessions.values().flatten().cloned().collect()
    }

    /// How many sessions peers dialled.
    pub(super) fn incoming(&self) -> usize {
        self.sessions.values().flatten().filter(|session| !session.dialled()).count()
    }

    pub(super) fn unreachable(&mut self, peer: &PublicKey) {
        self.reached.remove(peer);
    }

    pub(super) fn reaches_somebody(&self) -> bool {
        !self.sessions.is_empty() || !self.reached.is_empty()
    }

    /// Forgets that peers were reached that are no members any more.
    pub(super) fn keep_reached(&mut self, is_member: impl Fn(&PublicKey) -> bool) {
        self.reached.retain(&is_member);
        self.profiles.keep(is_member);
    }
}
