//! Streams that follow the database: a snapshot, SYNCED, then every change, a BOOKMARK now and then.
//!
//! A watch reads what is above its cursor when its reader asks, so nothing is queued for a slow reader: what changed several times
//! meanwhile is sent once, as it is.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use foundation_listener::limit_hits;
use futures::Stream;
use proto_model::{Epoch, Revision};
use tonic::Status;

use crate::{
    State,
    auth::{Caller, CallerKind},
    error::{self, Reason},
};

/// How often an idle watch says that it lives; keeps proxies open and resume tokens fresh.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// Changes that are read at once.
pub(crate) const READ_AT_ONCE: u32 = 200;

/// When to come again for one more watch.
const COME_BACK: Duration = Duration::from_secs(5);

/// How many watches each caller has. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub struct Watches(Arc<Mutex<HashMap<CallerKind, usize>>>);

/// One of a caller's watches, until dropped.
#[derive(Debug)]
pub(crate) struct OneWatch {
    watches: Watches,
    caller: CallerKind,
}

impl Watches {
    fn begin(&self, caller: CallerKind, most: usize) -> Result<OneWatch, Status> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(caller).or_default();
        if *count >= most {
            limit_hits::hit("limits.watches_per_caller");
            let message = format!("limits.watches_per_caller: this caller has {most} watches already; end one of them");
            return Err(error::exhausted(Reason::RateLimited, message, COME_BACK));
        }
        *count += 1;
        Ok(OneWatch { watches: self.clone(), caller })
    }
}

impl Drop for OneWatch {
    fn drop(&mut self) {
        let mut counts = self.watches.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

/// What a watch follows.
pub(crate) trait Follow: Send + 'static {
    /// What is sent.
    type Item: Send + 'static;

    /// What changed after the cursor, in order, and the new cursor; whether there may be more at once.
    fn changes(&mut self) -> impl Future<Output = Result<Batch<Self::Item>, Status>> + Send;

    /// What says that the snapshot is complete; absent for a stream without one.
    fn synced(&self) -> Option<Self::Item>;

    /// What says that nothing happened.
    fn bookmark(&self) -> Option<Self::Item>;

    /// Whether nothing will change any more: the stream ends when what was read is sent.
    fn is_over(&self) -> bool {
        false
    }
}

/// What was read at once.
pub(crate) struct Batch<T> {
    pub(crate) items: Vec<T>,
    pub(crate) more: bool,
}

/// Follows until the server stops, the caller loses its right, or the reader goes.
pub(crate) fn follow<F: Follow>(
    state: State,
    caller: Caller,
    follow: F,
) -> impl Stream<Item = Result<F::Item, Status>> + Send + 'static {
    let place = place(&state, &caller);
    follow_from(state, caller, follow, place)
}

/// A place for one more of this caller's watches, or why there is none.
pub(crate) fn place(state: &State, caller: &Caller) -> Result<OneWatch, Status> {
    state.watches.begin(caller.kind, state.server.max_watches)
}

/// [`follow`], with the place that was taken for it before.
pub(crate) fn follow_from<F: Follow>(
    state: State,
    caller: Caller,
    follow: F,
    place: Result<OneWatch, Status>,
) -> impl Stream<Item = Result<F::Item, Status>> + Send + 'static {
    let bell = state.db.bell();
    let watch = Watch { state, caller, follow, bell, ready: VecDeque::new(), synced: false, place };
    futures::stream::try_unfold(watch, |mut watch| async move {
        let item = watch.next().await?;
        Ok(item.map(|item| (item, watch)))
    })
}

struct Watch<F: Follow> {
    state: State,
    caller: Caller,
    follow: F,
    bell: tokio::sync::watch::Receiver<u64>,
    ready: VecDeque<F::Item>,
    synced: bool,
    /// Or why there is none for it.
    place: Result<OneWatch, Status>,
}

impl<F: Follow> Watch<F> {
    async fn next(&mut self) -> Result<Option<F::Item>, Status> {
        if let Err(refused) = &self.place {
            return Err(refused.clone());
        }
        // The interval between bookmarks is measured from the last item: a busy watch needs none.
        let mut bookmark = Box::pin(tokio::time::sleep(BOOKMARK_EVERY));
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            if self.synced && self.follow.is_over() {
                return Ok(None);
            }
            // Marked as heard before the read, so that a change during it rings again.
            self.bell.mark_unchanged();
            let batch = self.follow.changes().await?;
            // A busy watch never comes to its bookmark: whoever lost the right gets nothing more.
            if !batch.items.is_empty() {
                self.caller.require_still_good(&self.state).await?;
            }
            self.ready.extend(batch.items);
            if !batch.more && !self.synced {
                self.synced = true;
                self.ready.extend(self.follow.synced());
            }
            if batch.more || !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                rung = self.bell.changed() => if rung.is_err() { return Ok(None) },
                () = self.state.tasks.cancelled() => {
                    return Err(error::unavailable(Reason::Stopping, "the server is stopping; resume the watch"));
                }
                () = &mut bookmark => {
                    self.caller.require_still_good(&self.state).await?;
                    self.ready.extend(self.follow.bookmark());
                    bookmark = Box::pin(tokio::time::sleep(BOOKMARK_EVERY));
                }
            }
        }
    }
}

/// `EPOCH.REVISION`: from where a watch goes on.
pub(crate) fn resume_token(epoch: Epoch, cursor: Revision) -> String {
    format!("{epoch}.{cursor}")
}

/// Reads a resume token; absent where none was given.
pub(crate) fn parse_resume_token(epoch: Epoch, token: &str) -> Result<Option<Revision>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token
        .split_once('.')
        .and_then(|(epoch, revision)| Some((Epoch::new(epoch.parse().ok()?), Revision::new(revision.parse().ok()?))));
    let (found, revision) = parsed.ok_or_else(|| error::invalid("resume_token", "is not from an earlier answer"))?;
    if found == epoch { Ok(Some(revision)) } else { Err(error::resume_token_expired()) }
}
