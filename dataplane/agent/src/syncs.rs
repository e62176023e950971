//! The node's part in standing syncs: those that it sends are run here, by their standing grants and without asking anybody; of those that it
//! receives the transfers are told what the control plane says.
//!
//! One task a sync: never two runs of one at once, the next `every` after the last began. What a run came to is on disk before the next begins, so
//! that one that a crash interrupted goes on under its own number.

mod kept;
mod run;
mod schedule;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dataplane_control_client::{Handle, SyncJob};
use dataplane_transfer::{SyncOrder, Transfers};
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use proto_model::{SyncId, SyncResult, SyncState, TransferRole};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Component, Health},
    transfers::Movers,
    turns::Turns,
};
use kept::{Folder, Kept, Wanted};
use run::Runner;

/// How often it is looked for damaged records.
const DAMAGE_LOOK: Duration = Duration::from_secs(10);

/// All syncs of this node. Clones are the same.
#[derive(Clone)]
pub(crate) struct Syncer(Arc<Shared>);

struct Shared {
    transfers: Transfers,
    movers: Movers,
    control: Handle,
    health: Health,
    clock: Clock,
    tasks: TaskGroup,
    folder: Folder,
    /// Sources that are looked through at once.
    looks: Turns,
    /// Damaged records of syncs that are received here.
    damaged: Mutex<Vec<PathBuf>>,
    /// Those that are sent here.
    running: Mutex<HashMap<SyncId, Running>>,
    /// How each of them is, for the health of the whole.
    states: Mutex<HashMap<SyncId, (String, SyncState)>>,
}

struct Running {
    wanted: watch::Sender<Wanted>,
    deleted: CancellationToken,
}

impl Syncer {
    /// Goes on with what is kept, and follows what the control plane says.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub(crate) fn start(
        dir: &Path,
        (transfers, movers): (Transfers, Movers),
        control: Handle,
        health: Health,
        (clock, looks): (Clock, usize),
        tasks: &TaskGroup,
    ) -> io::Result<Self> {
        let (folder, found) = Folder::open(dir)?;
        describe();
        let syncer = Self(Arc::new(Shared {
            transfers,
            movers,
            control,
            health,
            clock,
            tasks: tasks.clone(),
            folder,
            looks: Turns::new(looks),
            damaged: Mutex::default(),
            running: Mutex::default(),
            states: Mutex::default(),
        }));
        syncer.say_health();
        for (id, kept) in found {
            syncer.run(id, kept, true);
        }
        let watching = syncer.clone();
        tasks.spawn("watch records of syncs", OnEnd::Expected, async move { watching.watch_damage().await });
        let following = syncer.clone();
        tasks.spawn("follow syncs", OnEnd::Expected, async move { following.follow().await });
        Ok(syncer)
    }

    /// Another bound of sources that are looked through at once.
    pub(crate) fn limit(&self, looks: usize) {
        self.0.looks.set(looks);
    }

    /// Says when what is known of a received sync's files was damaged, until somebody has looked at it.
    async fn watch_damage(&self) {
        loop {
            let transfers = self.0.transfers.clone();
            let found = self.0.tasks.blocking("look for damaged records", move || transfers.damaged_syncs()).await;
            let Ok(found) = found else { return };
            let before = std::mem::replace(&mut *self.damaged(), found.clone());
            if before != found {
                self.say_health();
            }
            tokio::select! {
                () = tokio::time::sleep(DAMAGE_LOOK) => {}
                () = self.0.tasks.cancelled() => return,
            }
        }
    }

    fn damaged(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self) {
        let mut wanted = self.0.control.syncs();
        loop {
            let jobs = wanted.borrow_and_update().clone();
            if let Some(jobs) = jobs {
                self.take(jobs).await;
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = self.0.tasks.cancelled() => return,
            }
        }
    }

    /// All syncs that the node is an end of: others were deleted.
    async fn take(&self, jobs: Vec<SyncJob>) {
        let (sent, received): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.role == TransferRole::Sender);
        let orders: Vec<_> = received.into_iter().map(order).collect();
        let transfers = self.0.transfers.clone();
        let told = self.0.tasks.blocking("receive syncs", move || transfers.receive_syncs(&orders)).await;
        if let Ok(Err(error)) = told {
            tracing::error!(component = "sync", %error, "What the control plane says of syncs cannot be kept");
        }
        {
            let running = self.running();
            let gone = running.iter().filter(|(id, _)| sent.iter().all(|job| job.sync != **id));
            gone.for_each(|(_, running)| running.deleted.cancel());
        }
        for job in sent {
            let id = job.sync;
            let standing = match self.0.transfers.standing(&job.grant) {
                Ok(standing) if standing.sync() == id => standing,
                Ok(_) => continue,
                Err(error) => {
                    let (reason, why) = (&error.reason, &error.message);
                    tracing::warn!(component = "sync", sync = %id, reason, why, "A standing grant is not good");
                    continue;
                }
            };
            let wanted = Wanted {
                name: standing.name,
                grant: job.grant,
                every: job.every,
                pause: job.pause,
                order: job.order,
                run_request: job.run_request,
            };
            let known =
                self.running().get(&id).filter(|running| !running.deleted.is_cancelled()).is_some_and(|running| {
                    running.wanted.send_if_modified(|present| {
                        let newer = wanted.order > present.order || wanted.grant != present.grant;
                        if newer {
                            *present = wanted.clone();
                        }
                        newer
                    });
                    true
                });
            if !known {
                self.run(id, Kept::new(wanted), false);
            }
        }
    }

    /// Begins to run a sync.
    fn run(&self, id: SyncId, kept: Kept, after_start: bool) {
        let (wanted, watched) = watch::channel(kept.wanted.clone());
        let deleted = CancellationToken::new();
        let before = self.running().insert(id, Running { wanted, deleted: deleted.clone() });
        if let Some(before) = before {
            before.deleted.cancel();
        }
        let syncer = self.clone();
        self.0.tasks.spawn("run a sync", OnEnd::Expected, async move {
            let runner = Runner::new(syncer.clone(), id, kept, watched, deleted.clone());
            runner.run(after_start).await;
            if deleted.is_cancelled() {
                syncer.forget(id);
            }
        });
    }

    /// It was deleted, and its run is over.
    fn forget(&self, id: SyncId) {
        let mut running = self.running();
        // One of the same id that came again meanwhile stays.
        if running.get(&id).is_some_and(|running| !running.deleted.is_cancelled()) {
            return;
        }
        running.remove(&id);
        drop(running);
        self.states().remove(&id);
        self.0.control.forget_sync(id);
        self.say_health();
        if let Err(error) = self.0.folder.forget(id) {
            tracing::warn!(component = "sync", sync = %id, %error, "what is kept of a deleted sync stays");
        }
    }

    /// Says how a sync is, in the health of the whole.
    fn say_state(&self, id: SyncId, name: String, state: SyncState) {
        if self.states().insert(id, (name, state)).is_none_or(|(_, before)| before != state) {
            self.say_health();
        }
    }

    fn say_health(&self) {
        let states = self.states();
        let mut ill: Vec<_> = states
            .values()
            .filter_map(|(name, state)| match state {
                SyncState::Failed | SyncState::WithIssues | SyncState::Waiting | SyncState::Ended => {
                    Some(format!("{name} is {state}"))
                }
                SyncState::Pending | SyncState::InStep | SyncState::Running | SyncState::Paused => None,
            })
            .collect();
        ill.sort_unstable();
        if let Some(path) = self.damaged().first() {
            let path = proto_model::escape(path.as_os_str().as_encoded_bytes());
            let text =
                format!("what is known of a received sync's files was damaged: look at the disk, then remove {path}");
            return self.0.health.degraded(Component::Syncs, text);
        }
        match ill.first() {
            _ if states.is_empty() => self.0.health.absent(Component::Syncs),
            None => self.0.health.healthy(Component::Syncs),
            Some(first) => {
                let more = if ill.len() > 1 { format!(", and {} more", ill.len() - 1) } else { String::new() };
                self.0.health.degraded(Component::Syncs, format!("{first}{more}; `dwcp sync get` says why"));
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<SyncId, Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn states(&self) -> MutexGuard<'_, HashMap<SyncId, (String, SyncState)>> {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Syncer").field("running", &self.running().len()).finish_non_exhaustive()
    }
}

fn order(job: SyncJob) -> SyncOrder {
    SyncOrder { sync: job.sync, grant: job.grant, pause: job.pause, order: job.order }
}

fn describe() {
    metrics::describe_counter!("dwcp_sync_runs_total", "Runs of syncs that this node sends, by sync and result");
    metrics::describe_counter!(
        "dwcp_sync_looks_unchanged_total",
        "Looks at a sync's source that found nothing changed, and so became no run"
    );
    metrics::describe_counter!(
        "dwcp_sync_conflicts_total",
        "Files that a sync's runs left alone here, since others made or changed them"
    );
    metrics::describe_counter!(
        "dwcp_sync_records_damaged_total",
        "Records of what received syncs published that were damaged on the disk, and set aside"
    );
    metrics::describe_gauge!(
        "dwcp_sync_lag_seconds",
        metrics::Unit::Seconds,
        "For how long a sync's destination may have been behind, by sync"
    );
}

/// Makes a sync's counters appear before its first run, so that a rate has something to begin with.
fn show_counters(name: &str) {
    for result in SyncResult::ALL {
        metrics::counter!("dwcp_sync_runs_total", "sync" => name.to_owned(), "result" => result.word()).increment(0);
    }
    metrics::counter!("dwcp_sync_looks_unchanged_total", "sync" => name.to_owned()).increment(0);
}
