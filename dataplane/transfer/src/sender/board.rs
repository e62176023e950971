//! What the parts of one attempt to send tell one another.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64},
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
    pub(super) bell: Notify,
}
