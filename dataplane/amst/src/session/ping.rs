//! Pings: whether the peer's program answers, and how soon.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::Session;
use crate::Closed;

/// Pings that wait for their pong, at most.
const MAX_PINGS: usize = 64;

/// How long a ping is waited for: longer than it takes to find out that the peer is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a ping was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Too many at once.
    #[error("too many pings at once")]
    Busy,
    /// No answer came, though the connection lives.
    #[error("the peer's program did not answer for {PING_TIMEOUT:?}")]
    TimedOut,
    /// The session is over.
    #[error(transparent)]
    Session(#[from] Closed),
}

/// Pings that wait for their pong.
#[derive(Debug, Default)]
pub(super) struct Pings {
    next: AtomicU64,
    askers: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

impl Pings {
    fn ask(&self) -> Result<(u64, oneshot::Receiver<()>), PingError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut askers = self.askers();
        // Those whose asker went away.
        askers.retain(|_, sender| !sender.is_closed());
        if askers.len() >= MAX_PINGS {
            return Err(PingError::Busy);
        }
        askers.insert(number, sender);
        Ok((number, receiver))
    }

    /// The peer answered.
    pub(super) fn answered(&self, number: u64) {
        if let Some(asker) = self.askers().remove(&number) {
            // Who asked may have gone.
            asker.send(()).ok();
        }
    }

    /// The session is over: nobody answers any more.
    pub(super) fn clear(&self) {
        self.askers().clear();
    }

    fn askers(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Asks the peer's program for an answer, and measures how long that takes.
    ///
    /// # Errors
    /// See [`PingError`].
    pub async fn ping(&self) -> Result<Duration, PingError> {
        let (number, answer) = self.0.pings.ask()?;
        self.check_open()?;
        let begun = self.0.shared.clock.now();
        self.0.outbox.ping(number);
        match tokio::time::timeout(PING_TIMEOUT, answer).await {
            Ok(Ok(())) => Ok(self.0.shared.clock.now() - begun),
            Ok(Err(_dropped)) => Err(self.reason().into()),
            Err(_elapsed) => Err(PingError::TimedOut),
        }
    }
}
