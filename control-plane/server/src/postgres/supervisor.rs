//! The thread that keeps the cluster running.

use std::{
    process::Child,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use foundation_runtime::{Backoff, Clock};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::sync::{oneshot, watch};

use super::{Options, StartError, Started, State, cluster::Cluster, leftovers};

/// How often a starting cluster is looked at: it takes about 100 ms.
const WHILE_STARTING: Duration = Duration::from_millis(10);

/// How often a running one is; its clients notice its death by themselves.
const WHILE_RUNNING: Duration = Duration::from_millis(100);

/// The delays between attempts to start it again.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How long it must have run for the delays to begin anew.
const STABLE: Duration = Duration::from_secs(60);

/// How long a clean stop may take before it is cut short; the server as a whole has 30 s.
const FAST_STOP: Duration = Duration::from_secs(15);

/// How long the cut-short one may.
const IMMEDIATE_STOP: Duration = Duration::from_secs(5);

/// How an attempt to run the cluster ended.
enum End {
    /// It was told to stop, and has.
    Stopped,
    /// It ended by itself.
    Died {
        /// Whether it had answered before.
        was_ready: bool,
        /// How long it ran.
        after: Duration,
        /// Why, from its log.
        log: String,
    },
}

/// Runs the cluster until it is told to stop.
pub(super) fn run(
    options: &Options,
    clock: &Clock,
    stop: &Receiver<()>,
    publish: &watch::Sender<State>,
    started: oneshot::Sender<Result<Started, StartError>>,
) {
    let prepared = Cluster::prepare(&options.data_dir, options.binaries.as_deref(), clock);
    let mut first = Some(started);
    let mut answer = |result: Result<Started, StartError>| {
        if let Some(first) = first.take() {
            // Whoever asked may have gone; then the drop of the handle stops us.
            drop(first.send(result));
        }
    };
    let cluster = match prepared {
        Ok(cluster) => cluster,
        Err(error) => return answer(Err(error)),
    };
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    let mut ever_ready = false;
    loop {
        let ended = attempt(&cluster, clock, stop, publish, &mut || {
            ever_ready = true;
            answer(Ok(Started { socket_folder: cluster.folder.clone(), major: cluster.binaries.major }));
        });
        let reason = match ended {
            Ok(End::Stopped) => {
                publish.send_replace(State::Stopped);
                return answer(Err(StartError::Stopped));
            }
            Ok(End::Died { log, .. }) if !ever_ready => {
                return answer(Err(StartError::Ended { log, path: cluster.log() }));
            }
            Err(error) if !ever_ready => return answer(Err(error)),
            Ok(End::Died { was_ready, after, log }) => {
                tracing::error!(component = "postgres", was_ready, log, "PostgreSQL ended, and is started again");
                if after >= STABLE {
                    backoff.reset();
                }
                log
            }
            Err(error) => {
                tracing::error!(
                    component = "postgres",
                    error = &error as &dyn std::error::Error,
                    "PostgreSQL could not be started again"
                );
                error.to_string()
            }
        };
        publish.send_replace(State::Down { reason });
        if !matches!(stop.recv_timeout(backoff.next_delay()), Err(RecvTimeoutError::Timeout)) {
            publish.send_replace(State::Stopped);
            return;
        }
    }
}

/// Runs the cluster once.
fn attempt(
    cluster: &Cluster,
    clock: &Clock,
    stop: &Receiver<()>,
    publish: &watch::Sender<State>,
    on_ready: &mut dyn FnMut(),
) -> Result<End, StartError> {
    leftovers::clear(&cluster.folder, clock)?;
    let log_start = cluster.log_length();
    let mut child = cluster.server()?.spawn().map_err(super::io_error("start", &cluster.binaries.postgres()))?;
    let begun = clock.now();
    let mut was_ready = false;
    loop {
        let wait = if was_ready { WHILE_RUNNING } else { WHILE_STARTING };
        match stop.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            // Told to stop, or the handle is gone.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                end(&mut child, clock);
                return Ok(End::Stopped);
            }
        }
        if let Some(status) = child.try_wait().map_err(super::io_error("watch", &cluster.binaries.postgres()))? {
            tracing::debug!(component = "postgres", %status, "postgres ended");
            let log = cluster.reason_since(log_start);
            return Ok(End::Died { was_ready, after: clock.now() - begun, log });
        }
        if !was_ready && cluster.ready_pid() == Some(child.id()) {
            was_ready = true;
            tracing::info!(
                component = "postgres",
                pid = child.id(),
                version = cluster.binaries.major,
                "PostgreSQL is ready"
            );
            publish.send_replace(State::Ready { pid: child.id() });
            on_ready();
        }
    }
}

/// Fast shutdown, then immediate shutdown, then the end.
fn end(child: &mut Child, clock: &Clock) {
    let Ok(number) = i32::try_from(child.id()) else { return };
    let pid = Pid::from_raw(number);
    for (signal, wait) in
        [(Signal::SIGINT, FAST_STOP), (Signal::SIGQUIT, IMMEDIATE_STOP), (Signal::SIGKILL, IMMEDIATE_STOP)]
    {
        leftovers::signal(pid, signal);
        let deadline = clock.now() + wait;
        while clock.now() < deadline {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(WHILE_STARTING),
                Ok(Some(_)) => return,
                Err(error) => {
                    tracing::warn!(component = "postgres", %error, "PostgreSQL cannot be watched");
                    return;
                }
            }
        }
        tracing::warn!(component = "postgres", %signal, "PostgreSQL did not stop in time");
    }
}
