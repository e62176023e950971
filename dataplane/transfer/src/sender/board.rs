//! What the parts of one attempt to send tell one another.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::Notify;

/// Whoever changes something here rings.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Pages that were sent, and that were answered.
    pub(super) pages: AtomicU64,
    pub(super) answered: AtomicU64,
    /// Whether there will be no further pages.
    pub(super) walked: AtomicBool,
    /// Segments that are to be sent again: file and number.
    pub(super) resends: Mutex<Vec<(u64, u64)>>,
    /// Small files that are to be sent whole.
    pub(super) whole: Mutex<Vec<u64>>,
    /// How many were asked for again so far.
    pub(super) resent: AtomicU64,
    /// Bytes of answers so far.
    pub(super) answer_bytes: AtomicU64,
    /// The digest of the tree, once the receiver is told that all of it was sent.
    pub(super) finished: Mutex<Option<[u8; 32]>>,
    /// Jobs that have something to say before the receiver can be told that all was sent.
    unsaid: AtomicU64,
    pub(super) bell: Notify,
}

/// A job has still something to say of its files, until this is dropped: their pieces may be under way for longer.
#[derive(Debug)]
pub(super) struct Unsaid(Arc<Board>);

impl Unsaid {
    pub(super) fn new(board: &Arc<Board>) -> Self {
        board.unsaid.fetch_add(1, Relaxed);
        Self(Arc::clone(board))
    }
}

impl Drop for Unsaid {
    fn drop(&mut self) {
        self.0.unsaid.fetch_sub(1, Relaxed);
        self.0.bell.notify_one();
    }
}

impl Board {
    /// Whether all jobs so far have said what they have to say.
    pub(super) fn all_is_said(&self) -> bool {
        self.unsaid.load(Relaxed) == 0
    }
}
