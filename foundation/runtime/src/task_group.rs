//! Tasks with an owner, a name and a policy for their end.
//!
//! A [`TaskGroup`] owns every task that was spawned in it. It ends by [`TaskGroup::shutdown`]: cancel, drain for a grace,
//! abort what is left. Groups nest: a cancelled parent cancels its children, and waits for them too.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::Instrument;

/// What the end of a task means while the group is not shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// The task may end whenever it likes.
    Expected,
    /// Without this task the group is of no use: it is cancelled, and [`TaskGroup::failed`] names the task.
    Fatal,
}

/// The task was aborted, or panicked, before it had an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task ended without an answer")]
pub struct Cancelled;

/// Tasks that had to be aborted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("aborted after the grace: {}", names.join(", "))]
pub struct Unfinished {
    /// Their names.
    pub names: Vec<&'static str>,
}

/// Owns tasks. Clones are the same group.
#[derive(Clone, Debug)]
pub struct TaskGroup(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    token: CancellationToken,
    tracker: TaskTracker,
    running: Arc<Running>,
    /// A parent waits for its children's tasks, so each task is also entered in every group above its own.
    parent: Option<TaskGroup>,
    failure: watch::Sender<Option<&'static str>>,
}

#[derive(Debug, Default)]
struct Running {
    next: AtomicU64,
    tasks: Mutex<BTreeMap<u64, (&'static str, Option<AbortHandle>)>>,
}

impl TaskGroup {
    /// An empty group.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self(Arc::new(Inner {
            name,
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: Arc::default(),
            parent: None,
            failure: watch::Sender::new(None),
        }))
    }

    /// A group that is cancelled with this one, and whose tasks this one waits for. Its fatal ends are its own.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        Self(Arc::new(Inner {
            name,
            token: self.0.token.child_token(),
            tracker: TaskTracker::new(),
            running: Arc::default(),
            parent: Some(self.clone()),
            failure: watch::Sender::new(None),
        }))
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Resolves once the group is to end. Cancel safe.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.0.token.cancelled()
    }

    /// Whether the group is to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// The group's token, for code that wants one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Asks every task to end; does not wait.
    pub fn cancel(&self) {
        self.0.token.cancel();
    }

    /// Runs a task that watches [`Self::cancelled`] by itself.
    pub fn spawn(&self, name: &'static str, on_end: OnEnd, future: impl Future<Output = ()> + Send + 'static) {
        let group = self.clone();
        let guard = self.enter(name);
        let entries = guard.entries();
        let task = async move {
            // The guard is dropped also when the task panics or is aborted.
            let _guard = guard;
            let watch = EndWatch { group, name, on_end };
            future.await;
            drop(watch);
        };
        let handle = spawn_on(&self.0.tracker, task.instrument(tracing::Span::none()));
        set_abort(&entries, &handle);
    }

    /// Runs `future` to its end even when the caller drops what is returned: for transactions, which must never be left
    /// half-way by a request that went away. The present span goes with it.
    pub fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Result<T, Cancelled>> + Send + 'static {
        let guard = self.enter(name);
        let entries = guard.entries();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = async move {
            let _guard = guard;
            // A caller that went away does not want the answer.
            drop(sender.send(future.await));
        };
        let handle = spawn_on(&self.0.tracker, task.in_current_span());
        set_abort(&entries, &handle);
        async move { receiver.await.map_err(|_gone| Cancelled) }
    }

    /// Runs `work` on a blocking thread, with the present span.
    pub fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Cancelled>> + Send + 'static {
        let guard = self.enter(name);
        let span = tracing::Span::current();
        let handle = self.0.tracker.spawn_blocking(move || {
            let _guard = guard;
            span.in_scope(work)
        });
        async move { handle.await.map_err(|_ended| Cancelled) }
    }

    /// The fatal task that ended, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        *self.0.failure.borrow()
    }

    /// Waits until a fatal task ended, and names it. Cancel safe.
    pub async fn failed(&self) -> &'static str {
        let mut receiver = self.0.failure.subscribe();
        match receiver.wait_for(Option::is_some).await.map(|name| *name) {
            Ok(Some(name)) => name,
            // The sender lives in `self`, so the channel cannot be closed.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Cancels, waits up to `grace` for every task of this group and its children, aborts the rest.
    ///
    /// # Errors
    /// Names the tasks that had to be aborted; blocking ones among them go on until they return.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), Unfinished> {
        self.0.token.cancel();
        self.0.tracker.close();
        if tokio::time::timeout(grace, self.0.tracker.wait()).await.is_ok() {
            return Ok(());
        }
        let names = self.0.running.abort_all();
        if names.is_empty() { Ok(()) } else { Err(Unfinished { names }) }
    }

    fn enter(&self, name: &'static str) -> RunningGuard {
        let mut places = Vec::new();
        let mut group = Some(self);
        while let Some(Self(inner)) = group {
            places.push(Place {
                id: inner.running.enter(name),
                running: Arc::clone(&inner.running),
                _token: inner.tracker.token(),
            });
            group = inner.parent.as_ref();
        }
        RunningGuard { places }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is where tasks get their owner")]
fn spawn_on(tracker: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tracker.spawn(task).abort_handle()
}

/// Acts on the end of a task, by return, panic or abort.
struct EndWatch {
    group: TaskGroup,
    name: &'static str,
    on_end: OnEnd,
}

impl Drop for EndWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, group = self.group.name(), "a task panicked");
        }
        if self.on_end == OnEnd::Fatal && !self.group.is_cancelled() {
            self.group.0.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                failure.get_or_insert(self.name);
                first
            });
            self.group.cancel();
        }
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (&'static str, Option<AbortHandle>)>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, name: &'static str) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, (name, None));
        id
    }

    fn abort_all(&self) -> Vec<&'static str> {
        let tasks: Vec<_> = self.lock().values().cloned().collect();
        tasks.iter().filter_map(|(_, handle)| handle.as_ref()).for_each(AbortHandle::abort);
        tasks.iter().map(|(name, _)| *name).collect()
    }
}

/// A task's entry in one group.
struct Place {
    running: Arc<Running>,
    id: u64,
    _token: TaskTrackerToken,
}

/// A task's entries in its group and those above it, until it ends.
struct RunningGuard {
    places: Vec<Place>,
}

impl RunningGuard {
    fn entries(&self) -> Vec<(Arc<Running>, u64)> {
        self.places.iter().map(|place| (Arc::clone(&place.running), place.id)).collect()
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        for place in &self.places {
            place.running.lock().remove(&place.id);
        }
    }
}

fn set_abort(entries: &[(Arc<Running>, u64)], handle: &AbortHandle) {
    for (running, id) in entries {
        if let Some(task) = running.lock().get_mut(id) {
            task.1 = Some(handle.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn shutdown_waits_for_the_tasks_of_children_and_not_of_parents() {
        let group = TaskGroup::new("parent");
        let child = group.child("child");
        group.spawn("other", OnEnd::Expected, {
            let token = group.token().clone();
            async move { token.cancelled().await }
        });
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let token = child.token().clone();
        child.spawn("worker", OnEnd::Expected, async move {
            token.cancelled().await;
            sender.send(()).unwrap();
        });
        child.shutdown(GRACE).await.unwrap();
        receiver.await.unwrap();
        group.shutdown(GRACE).await.unwrap();
    }

    #[tokio::test]
    async fn a_parent_waits_for_its_children() {
        let group = TaskGroup::new("parent");
        let child = group.child("child");
        child.spawn("deaf", OnEnd::Expected, std::future::pending());
        assert_eq!(group.shutdown(Duration::ZERO).await.unwrap_err().names, ["deaf"]);
    }

    #[tokio::test]
    async fn a_fatal_end_cancels_the_group_and_names_the_task() {
        let group = TaskGroup::new("group");
        group.spawn("heart", OnEnd::Fatal, async {});
        assert_eq!(group.failed().await, "heart");
        assert!(group.is_cancelled());
    }

    #[tokio::test]
    async fn a_run_goes_on_when_its_caller_leaves() {
        let group = TaskGroup::new("group");
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        drop(group.run("transaction", async move {
            gone.await.unwrap();
            sender.send(7).unwrap();
        }));
        go.send(()).unwrap();
        assert_eq!(receiver.await, Ok(7));
    }
}
