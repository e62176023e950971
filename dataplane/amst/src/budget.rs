//! Memory for what arrives, promised before it is used.
//!
//! A receiver grants each of its channels credit, in bytes, and a sender sends only what it has credit for. So what is
//! promised, arriving or in the hands of a reader is known, and never over the budget of the process. A part of the budget is
//! for guarantees: one largest piece and one largest control frame for every channel, so that none can be starved by others;
//! a part is shared by the peers, and what a peer has of it by its channels. Of its share a channel grants what its reader keeps
//! up with. What QUIC itself may hold of a connection that nobody reads comes out of the rest. Of no part does one peer get so
//! much that nothing is left for others.

mod purse;
mod room;
mod sending;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use proto_model::PublicKey;

use crate::{MAX_CONTROL_FRAME, MAX_PIECE, pace::Pace};

use purse::Purse;
pub(crate) use room::{ControlRoom, LaneRoom};
pub(crate) use sending::{SendBudget, SendRoom};

/// What a piece costs beyond its bytes: bookkeeping at both ends, and so a bound on how many tiny ones may be under way.
const PIECE_OVERHEAD: u64 = 4 * 1024;

/// What the largest piece costs: the guarantee of a channel.
pub(crate) const GUARANTEE: u64 = MAX_PIECE as u64 + PIECE_OVERHEAD;

/// What a control frame that is not whole costs, with what was read along with it.
const CONTROL: u64 = MAX_CONTROL_FRAME as u64 + 8 * 1024;

/// What QUIC may hold of any connection: greetings, openings and pings fit it many times.
pub(crate) const LANE: u64 = 16 * 1024;

/// The least that is of use.
const LEAST: u64 = 16 * 1024 * 1024;

/// What a piece costs.
pub(crate) fn cost(payload_bytes: u32) -> u64 {
    u64::from(payload_bytes) + PIECE_OVERHEAD
}

/// The budget of a process. Clones are the same budget.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes: u64,
    /// What connections may have together of [`LANE`].
    lanes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Channels that take pieces, of each peer; no entry is zero.
    channels: HashMap<PublicKey, u64>,
    /// Guarantees given out, also of channels that are closed while somebody still holds a piece of theirs.
    guarantees: Purse,
    /// Credit beyond the guarantees.
    shared: Purse,
    /// Windows of connections beyond [`LANE`].
    windows: Purse,
    /// Of all connections.
    lanes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = bytes.max(LEAST);
        let part = bytes / 16;
        // Where there is little, first of all some channels.
        let guarantees = (5 * part).max(4 * (GUARANTEE + CONTROL)).min(8 * part);
        let half = (15 * part - guarantees) / 2;
        let state = State {
            channels: HashMap::new(),
            guarantees: Purse::new(guarantees),
            shared: Purse::new(half),
            windows: Purse::new(half),
            lanes: 0,
        };
        Self(Arc::new(Shared { bytes, lanes: part, state: Mutex::new(state) }))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// All that is promised.
    pub(crate) fn promised(&self) -> u64 {
        let state = self.lock();
        state.guarantees.used() + state.shared.used() + state.windows.used() + state.lanes
    }

    /// Whether connections that nobody uses are to give back what they have.
    pub(crate) fn is_short(&self) -> bool {
        let state = self.lock();
        state.windows.free() < state.windows.size() / 4 || state.lanes > self.0.lanes / 4 * 3
    }

    /// A window for a new channel, and room for its control frames; none where the guarantees that this peer may have are given
    /// out.
    pub(crate) fn open_window(&self, peer: PublicKey) -> Option<(Window, ControlRoom)> {
        let mut state = self.lock();
        if !state.guarantees.fits(&peer, GUARANTEE + CONTROL) {
            return None;
        }
        state.guarantees.take(&peer, GUARANTEE + CONTROL);
        *state.channels.entry(peer).or_default() += 1;
        drop(state);
        let window = Window {
            budget: self.clone(),
            peer,
            granted: 0,
            received: 0,
            held: 0,
            shared: 0,
            phase: Phase::Open,
            pace: Pace::new(),
        };
        Some((window, ControlRoom { budget: self.clone(), peer }))
    }

    /// Room for a connection; none where there are too many.
    pub(crate) fn open_lane(&self, peer: PublicKey) -> Option<LaneRoom> {
        let mut state = self.lock();
        if state.lanes + LANE > self.0.lanes {
            return None;
        }
        state.lanes += LANE;
        drop(state);
        Some(LaneRoom::new(self.clone(), peer))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What one channel of a peer may have of the shared part now.
    fn share(&self, peer: &PublicKey) -> u64 {
        let peers = u64::try_from(self.channels.len()).unwrap_or(u64::MAX).max(1);
        self.shared.size() / peers / self.channels.get(peer).copied().unwrap_or(1)
    }

    fn forget_channel(&mut self, peer: &PublicKey) {
        if let Some(count) = self.channels.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                self.channels.remove(peer);
            }
        }
    }
}

/// What a channel has granted to its sender, and what of that has arrived. All numbers are bytes of cost.
#[derive(Debug)]
pub(crate) struct Window {
    budget: Budget,
    peer: PublicKey,
    /// Ever granted.
    granted: u64,
    /// Ever used by pieces that began to arrive.
    received: u64,
    /// Of pieces that arrive or are in the hands of a reader.
    held: u64,
    /// Taken of the shared part.
    shared: u64,
    phase: Phase,
    /// How much of what is allowed is of use.
    pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// No more pieces, but some are still held.
    Draining,
    Gone,
}

/// A sender used more than it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a piece came without credit")]
pub(crate) struct NoCredit;

impl Window {
    /// A piece begins to arrive.
    pub(crate) fn admit(&mut self, cost: u64) -> Result<(), NoCredit> {
        if cost > self.granted - self.received {
            return Err(NoCredit);
        }
        self.received += cost;
        self.held += cost;
        Ok(())
    }

    /// A piece that began to arrive will come again, for the same credit: as if it had never begun.
    pub(crate) fn withdraw(&mut self, cost: u64) {
        self.held -= cost;
        if self.phase == Phase::Open {
            self.received -= cost;
        } else {
            self.drain();
        }
    }

    /// A piece is gone. The new sum of all grants, if it is worth a word to the sender.
    pub(crate) fn release(&mut self, cost: u64, now: Instant, round_trip: impl FnOnce() -> Duration) -> Option<u64> {
        self.held -= cost;
        self.pace.taken(cost, now, round_trip);
        self.settle()
    }

    /// Takes what the budget allows and grants it. The new sum of all grants, if it is worth a word to the sender: an eighth of the
    /// window, or anything where nothing is held, since then no later word would come.
    pub(crate) fn settle(&mut self) -> Option<u64> {
        if self.phase != Phase::Open {
            self.drain();
            return None;
        }
        let promised = self.granted - self.received + self.held;
        let (allowed, target) = {
            let mut state = self.budget.lock();
            let target = (GUARANTEE + state.share(&self.peer)).min(self.pace.limit().max(GUARANTEE));
            let wanted = target.max(promised) - GUARANTEE;
            let shared = wanted.min(self.shared + state.shared.allowed(&self.peer));
            state.shared.give(&self.peer, self.shared);
            state.shared.take(&self.peer, shared);
            self.shared = shared;
            (GUARANTEE + shared, target)
        };
        let grant = allowed - promised;
        if grant == 0 || (grant < target / 8 && self.held > 0) {
            return None;
        }
        self.granted += grant;
        Some(self.granted)
    }

    /// The channel takes no more pieces: what was granted and not used goes back now, the rest as it is dropped.
    pub(crate) fn close(&mut self) {
        if self.phase == Phase::Open {
            self.budget.lock().forget_channel(&self.peer);
            self.granted = self.received;
            self.phase = Phase::Draining;
            self.drain();
        }
    }

    fn drain(&mut self) {
        if self.phase == Phase::Gone {
            return;
        }
        let mut state = self.budget.lock();
        let shared = self.shared.min(self.held.saturating_sub(GUARANTEE));
        state.shared.give(&self.peer, self.shared - shared);
        self.shared = shared;
        if self.held == 0 {
            state.guarantees.give(&self.peer, GUARANTEE);
            self.phase = Phase::Gone;
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.held = 0;
        self.close();
        self.drain();
    }
}

#[cfg(test)]
mod tests;
