//! Memory that QUIC or a reader of control frames may fill, promised out of the budget.

use std::sync::{Mutex, PoisonError};

use proto_model::PublicKey;

use super::{Budget, CONTROL, LANE};

/// A change of a window that is smaller is not worth a word to the peer.
const STEP: u64 = 64 * 1024;

/// For one control frame of a channel that is not whole yet, until dropped.
#[derive(Debug)]
pub(crate) struct ControlRoom {
    pub(super) budget: Budget,
    pub(super) peer: PublicKey,
}

impl Drop for ControlRoom {
    fn drop(&mut self) {
        self.budget.lock().guarantees.give(&self.peer, CONTROL);
    }
}

/// What a connection may hold that nobody has read: [`LANE`] always, and more as there is.
#[derive(Debug)]
pub(crate) struct LaneRoom {
    budget: Budget,
    peer: PublicKey,
    window: Mutex<LaneWindow>,
}

#[derive(Debug)]
struct LaneWindow {
    /// What the connection was told.
    set: u64,
    /// What the peer may still send at worst: a window that was made smaller shrinks only as data is read.
    promised: u64,
    closed: bool,
}

impl LaneRoom {
    pub(super) fn new(budget: Budget, peer: PublicKey) -> Self {
        let window = LaneWindow { set: LANE, promised: LANE, closed: false };
        Self { budget, peer, window: Mutex::new(window) }
    }

    /// Wants another window, after so many bytes were read; `tell` hears of the new one.
    pub(crate) fn resize(&self, wanted: u64, read: u64, tell: impl FnOnce(u64)) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.closed {
            return;
        }
        let paid = read.min(window.promised - window.set);
        window.promised -= paid;
        let before = window.set;
        let more = {
            let mut state = self.budget.lock();
            state.windows.give(&self.peer, paid);
            let more = wanted.saturating_sub(before).min(state.windows.allowed(&self.peer));
            let more = if more >= STEP { more } else { 0 };
            state.windows.take(&self.peer, more);
            more
        };
        window.promised += more;
        window.set = wanted.clamp(LANE, before) + more;
        if window.set != before {
            tell(window.set);
        }
    }

    /// The present window.
    pub(crate) fn window(&self) -> u64 {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).set
    }

    /// The connection is over.
    pub(crate) fn close(&self) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut window.closed, true) {
            let mut state = self.budget.lock();
            state.windows.give(&self.peer, window.promised - LANE);
            state.lanes -= LANE;
        }
    }
}

impl Drop for LaneRoom {
    fn drop(&mut self) {
        self.close();
    }
}
