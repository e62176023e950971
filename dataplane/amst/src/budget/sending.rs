//! Memory for what is sent: a piece is held until the peer has acknowledged it, so a peer that asks and never acknowledges holds what it was sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foundation_listener::limit_hits;
use proto_model::PublicKey;
use tokio::sync::Notify;

use super::Purse;

/// The budget of a process. Clones are the same budget.
#[derive(Clone, Debug)]
pub(crate) struct SendBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes: u64,
    purse: Mutex<Purse>,
    freed: Notify,
}

/// Of one piece, until dropped.
#[derive(Debug)]
pub(crate) struct SendRoom {
    budget: SendBudget,
    peer: PublicKey,
    bytes: u64,
}

impl SendBudget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(Shared { bytes, purse: Mutex::new(Purse::new(bytes)), freed: Notify::new() }))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    pub(crate) fn used(&self) -> u64 {
        self.purse().used()
    }

    /// Room for a piece: one peer has at most three times what it leaves to others, and each always has one piece. Cancel safe.
    pub(crate) async fn take(&self, peer: PublicKey, bytes: u64) -> SendRoom {
        let mut waited = false;
        loop {
            let freed = self.0.freed.notified();
            {
                let mut purse = self.purse();
                if bytes <= purse.allowed(&peer) || purse.has_nothing(&peer) {
                    purse.take(&peer, bytes);
                    return SendRoom { budget: self.clone(), peer, bytes };
                }
            }
            if !waited {
                limit_hits::hit("limits.send_budget");
            }
            waited = true;
            freed.await;
        }
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.0.purse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SendRoom {
    fn drop(&mut self) {
        self.budget.purse().give(&self.peer, self.bytes);
        self.budget.0.freed.notify_waiters();
    }
}
