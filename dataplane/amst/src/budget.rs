//! Memory for pieces that arrive, promised before it is used.
//!
//! A receiver grants each of its channels credit, in bytes, and a sender sends only what it has credit for. So what is
//! promised, arriving or in the hands of a reader is known, and never over the budget of the process. Half of the budget is
//! for guarantees: one largest piece for every channel, so that none can be starved by others; the other half is shared
//! evenly by the channels that are open. Of its share a channel grants what its reader keeps up with.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{MAX_PIECE, pace::Pace};

/// What a piece costs beyond its bytes: bookkeeping at both ends, and so a bound on how many tiny ones may be under way.
const PIECE_OVERHEAD: u64 = 4 * 1024;

/// What the largest piece costs: the guarantee of a channel.
pub(crate) const GUARANTEE: u64 = MAX_PIECE as u64 + PIECE_OVERHEAD;

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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Channels that take pieces.
    channels: u64,
    /// Guarantees given out, also of channels that are closed while somebody still holds a piece of theirs.
    guarantees: u64,
    /// Taken of the shared half.
    shared: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        // Room for two channels at least: one that takes pieces, and one that is refused nothing.
        Self(Arc::new(Shared { bytes: bytes.max(4 * GUARANTEE), state: Mutex::default() }))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// All that is promised.
    pub(crate) fn promised(&self) -> u64 {
        let state = self.lock();
        state.guarantees * GUARANTEE + state.shared
    }

    /// A window for a new channel; none where every guarantee is given out.
    pub(crate) fn open_window(&self) -> Option<Window> {
        let mut state = self.lock();
        if (state.guarantees + 1) * GUARANTEE > self.0.bytes / 2 {
            return None;
        }
        state.guarantees += 1;
        state.channels += 1;
        drop(state);
        Some(Window {
            budget: self.clone(),
            granted: 0,
            received: 0,
            held: 0,
            shared: 0,
            phase: Phase::Open,
            pace: Pace::new(),
        })
    }

    /// What one channel may have of the shared half now.
    fn share(&self, state: &State) -> u64 {
        self.0.bytes / 2 / state.channels.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a channel has granted to its sender, and what of that has arrived. All numbers are bytes of cost.
#[derive(Debug)]
pub(crate) struct Window {
    budget: Budget,
    /// Ever granted.
    granted: u64,
    /// Ever used by pieces that began to arrive.
    received: u64,
    /// Of pieces that arrive or are in the hands of a reader.
    held: u64,
    /// Taken of the shared half.
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
            let target = (GUARANTEE + self.budget.share(&state)).min(self.pace.limit().max(GUARANTEE));
            let wanted = target.max(promised) - GUARANTEE;
            let free = self.budget.0.bytes / 2 - state.shared;
            let shared = wanted.min(self.shared + free);
            state.shared = state.shared - self.shared + shared;
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
            self.budget.lock().channels -= 1;
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
        state.shared -= self.shared - shared;
        self.shared = shared;
        if self.held == 0 {
            state.guarantees -= 1;
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
mod tests {
    use super::*;

    const BUDGET: u64 = 32 * 1024 * 1024;

    /// Of a reader that keeps up with anything.
    fn open(budget: &Budget) -> Option<Window> {
        let mut window = budget.open_window()?;
        window.pace = Pace::unbounded();
        Some(window)
    }

    fn release(window: &mut Window, cost: u64) -> Option<u64> {
        window.release(cost, foundation_runtime::Clock::system().now(), || Duration::ZERO)
    }

    #[test]
    fn one_channel_gets_half_of_the_budget_and_its_guarantee() {
        let budget = Budget::new(BUDGET);
        let mut window = open(&budget).unwrap();
        assert_eq!(window.settle(), Some(BUDGET / 2 + GUARANTEE));
        assert_eq!(window.settle(), None);
        assert_eq!(window.admit(BUDGET), Err(NoCredit));
        window.admit(GUARANTEE).unwrap();
        assert_eq!(release(&mut window, GUARANTEE), Some(BUDGET / 2 + 2 * GUARANTEE));
        drop(window);
        assert_eq!(budget.promised(), 0);
    }

    #[test]
    fn no_number_of_channels_is_promised_more_than_the_budget_and_each_gets_one_piece() {
        let budget = Budget::new(BUDGET);
        let mut windows = Vec::new();
        while let Some(mut window) = open(&budget) {
            assert!(window.settle().unwrap() >= GUARANTEE);
            windows.push(window);
            assert!(budget.promised() <= BUDGET);
        }
        assert!(windows.len() > 10);
        // The first one, which had all of the shared half, falls back to its share as its pieces go.
        let first = &mut windows[0];
        for _ in 0..40 {
            while first.admit(GUARANTEE).is_ok() {}
            let held = first.held;
            release(first, held);
        }
        assert!(first.shared <= BUDGET / 2 / 10);
        windows.clear();
        assert_eq!(budget.promised(), 0);
    }

    #[test]
    fn a_reader_that_keeps_everything_is_granted_no_more() {
        let budget = Budget::new(BUDGET);
        let mut window = open(&budget).unwrap();
        let granted = window.settle().unwrap();
        let mut arrived = 0;
        while window.admit(GUARANTEE).is_ok() {
            arrived += GUARANTEE;
        }
        assert!(arrived <= granted && granted - arrived < GUARANTEE);
        assert_eq!(window.settle(), None);
        window.close();
        assert!(budget.promised() >= arrived, "what a reader holds is still counted");
        let held = window.held;
        release(&mut window, held);
        assert_eq!(budget.promised(), 0);
    }
}
