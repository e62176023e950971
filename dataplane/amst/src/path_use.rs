//! What pieces wait for, and how much of a path is used: for who wants to know why it is not faster.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What the pieces of a channel wait for at a moment, and how its session uses the path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PathUse {
    /// The other end has not granted room for the next one, and those under way do not fill the path.
    pub waits_for_credit: bool,
    /// A bound of what is sent in a second holds them back.
    pub waits_for_rate: bool,
    /// The part of the congestion window that was in use over the last sample.
    pub window_used: f64,
    /// The part of what was sent that was lost.
    pub lost: f64,
    /// The part of the time in which the busiest of the session's threads was at work.
    pub lane_busy: f64,
}

/// Counts who waits.
#[derive(Debug, Default)]
pub(crate) struct Waiters(AtomicUsize);

/// One who waits, until dropped.
#[derive(Debug)]
pub(crate) struct Waiter<'a>(&'a Waiters);

impl Waiters {
    pub(crate) fn wait(&self) -> Waiter<'_> {
        self.0.fetch_add(1, Relaxed);
        Waiter(self)
    }

    pub(crate) fn any(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// A part of a whole, written by one and read by many.
#[derive(Debug, Default)]
pub(crate) struct Part(AtomicU64);

impl Part {
    pub(crate) fn set(&self, part: f64) {
        self.0.store(part.to_bits(), Relaxed);
    }

    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}
