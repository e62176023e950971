//! Benches that this node runs: what the control plane asks for, and what callers on this host ask for.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dataplane_amst::Endpoint;
use dataplane_control_client::{BenchJob, Handle};
use dataplane_transfer::{BenchRight, Benches, CheckedBench};
use foundation_runtime::{OnEnd, TaskGroup};
use proto_model::{BenchId, BenchReport, BenchState, TransferError};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::transfers::AmstConnector;

/// How long the peer may be looked for and dialled: who waits is at a terminal.
const CONNECT: Duration = Duration::from_secs(20);
/// Benches that are remembered after their end: the control plane says a job until it has stored its end.
const REMEMBERED: usize = 64;

/// The benches that this node runs. Clones are the same.
#[derive(Clone)]
pub(crate) struct Bencher(Arc<Shared>);

struct Shared {
    benches: Benches,
    endpoint: Endpoint,
    connector: AmstConnector,
    tasks: TaskGroup,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    running: HashMap<BenchId, CancellationToken>,
    ended: VecDeque<BenchId>,
}

impl Bencher {
    pub(crate) fn new(benches: Benches, endpoint: Endpoint, connector: AmstConnector, tasks: &TaskGroup) -> Self {
        Self(Arc::new(Shared { benches, endpoint, connector, tasks: tasks.clone(), known: Mutex::default() }))
    }

    /// At most so many at once from now on.
    pub(crate) fn limit(&self, most: usize) {
        self.0.benches.limit(most);
    }

    /// Runs what the control plane asks for, and stops what it no longer does.
    pub(crate) fn follow(&self, control: &Handle) {
        let (bencher, control, group) = (self.clone(), control.clone(), self.0.tasks.clone());
        self.0.tasks.spawn("take benches", OnEnd::Expected, async move {
            let mut wanted = control.benches();
            loop {
                let jobs = wanted.borrow_and_update().clone();
                bencher.take(jobs, &control);
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    () = group.cancelled() => return,
                }
            }
        });
    }

    fn take(&self, jobs: Vec<BenchJob>, control: &Handle) {
        let mut known = self.known();
        let unwanted = |id: &BenchId| jobs.iter().all(|job| job.bench != *id);
        known.running.iter().filter(|(id, _)| unwanted(id)).for_each(|(_, cancel)| cancel.cancel());
        for job in jobs {
            if known.running.contains_key(&job.bench) || known.ended.contains(&job.bench) {
                continue;
            }
            let cancel = CancellationToken::new();
            known.running.insert(job.bench, cancel.clone());
            let right = self.0.benches.check(BenchRight::Grant(job.grant), job.traceparent);
            let (reports, watched) = watch::channel(BenchReport::new(job.bench));
            let (bencher, control) = (self.clone(), control.clone());
            self.0.tasks.spawn("report a bench", OnEnd::Expected, report(watched, control));
            self.0.tasks.spawn("run a bench", OnEnd::Expected, async move {
                bencher.run(right, &reports, &cancel).await;
                bencher.ended(job.bench);
            });
        }
    }

    /// Runs one without the control plane, until it has ended or `cancel` says so.
    pub(crate) fn direct(
        &self,
        right: BenchRight,
        bench: BenchId,
        cancel: CancellationToken,
    ) -> watch::Receiver<BenchReport> {
        let (reports, watched) = watch::channel(BenchReport::new(bench));
        let right = self.0.benches.check(right, None);
        let bencher = self.clone();
        self.0.tasks.spawn("run a direct bench", OnEnd::Expected, async move {
            bencher.run(right, &reports, &cancel).await;
        });
        watched
    }

    async fn run(
        &self,
        right: Result<CheckedBench, TransferError>,
        reports: &watch::Sender<BenchReport>,
        cancel: &CancellationToken,
    ) {
        let max_streams = self.0.endpoint.settings().max_streams;
        let refused = match right {
            Ok(checked) => {
                let dialled = tokio::select! {
                    dialled = timeout(CONNECT, self.0.connector.session(checked.peer)) => dialled,
                    () = cancel.cancelled() => return end(reports, BenchState::Cancelled, None),
                };
                match dialled {
                    Ok(Ok(session)) => {
                        let run = self.0.benches.run(checked, session, reports, max_streams, cancel);
                        return Box::pin(run).await;
                    }
                    Ok(Err(error)) => TransferError::new("PEER_UNREACHABLE", error.message),
                    Err(_elapsed) => TransferError::new(
                        "PEER_UNREACHABLE",
                        format!("the other end was not reached within {} s", CONNECT.as_secs()),
                    ),
                }
            }
            Err(error) => error,
        };
        end(reports, BenchState::Failed, Some(refused));
    }

    fn ended(&self, bench: BenchId) {
        let mut known = self.known();
        known.running.remove(&bench);
        known.ended.push_back(bench);
        while known.ended.len() > REMEMBERED {
            known.ended.pop_front();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Bencher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bencher").field("benches", &self.0.benches).finish_non_exhaustive()
    }
}

fn end(reports: &watch::Sender<BenchReport>, state: BenchState, error: Option<TransferError>) {
    reports.send_modify(|report| {
        report.state = state;
        report.error = error;
    });
}

/// Tells the control plane, with each change, until the end.
async fn report(mut watched: watch::Receiver<BenchReport>, control: Handle) {
    while watched.changed().await.is_ok() {
        let report = watched.borrow_and_update().clone();
        control.bench(report);
    }
}
