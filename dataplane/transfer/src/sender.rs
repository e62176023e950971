//! The sending end of a transfer.
//!
//! A transfer is tried until it ends: a link that breaks is dialled anew with growing pauses, until the grant is over or
//! somebody cancels. Each attempt walks the sources, tells the receiver what there is, and sends what it asks for.

mod answers;
mod baselines;
mod basis_memory;
mod board;
mod buffers;
mod bundle;
mod course;
mod encoders;
mod file;
mod gathering;
mod interrupts;
mod job;
mod jobs;
mod keep;
mod known;
mod leaning;
mod link_rate;
mod manifest;
mod segment;
mod session;
mod state;

use std::{
    collections::HashMap,
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use foundation_runtime::{Backoff, durable};
use foundation_telemetry::propagation;
use proto_model::{Digest, TransferId, TransferReport, TransferRole, TransferState};
use proto_wire::{
    Signed,
    frames::{Authority, Finished},
    sync::OpenSync,
};
use tokio::sync::watch;
use tracing::Instrument;

pub(crate) use encoders::Encoders;
pub(crate) use job::Checked;
use job::check;
pub use job::{SendAuthority, SendJob};
pub(crate) use keep::Keepers;
use keep::Unheard;
pub(crate) use segment::uses_history;

use crate::{
    ends::{End, remove_folder},
    link::Connector,
    orders,
    reason::end,
    report::{Counted, Counting, Reporter, state_of},
    service::{Shared, Transfers, Turn},
    stop::Stop,
    tally::{Spent, Tally},
};

/// The first pause after a link broke.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Attempts in a row that may end because something did not verify: more is no accident.
const MAX_CORRUPTED: u32 = 5;
/// What a job is kept as.
const JOB_FILE: &str = "job";
/// What all attempts so far have spent.
const SPENT_FILE: &str = "spent";
/// Written before the last frame: whoever finds it knows that a receiver which has ended has ended well.
const FINISHING_FILE: &str = "finishing";

/// How sending ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// For good.
    Ended(TransferReport),
    /// This program stops; the transfer goes on at its next start.
    Interrupted(TransferReport),
}

impl Transfers {
    /// Jobs that this host had begun to send when it last stopped.
    ///
    /// # Errors
    /// When the folder of transfers cannot be read.
    pub fn unfinished(&self) -> io::Result<Vec<SendJob>> {
        let folders = self.0.folder.unfinished(TransferRole::Sender)?;
        let jobs = folders.into_iter().filter_map(|(transfer, folder)| {
            let bytes = fs::read(folder.join(JOB_FILE)).ok()?;
            let job = SendJob::kept(&bytes);
            if job.is_none() {
                tracing::warn!(%transfer, "a kept job is damaged; it goes on when the control plane says it again");
            }
            job
        });
        Ok(jobs.collect())
    }

    /// Another grant for a transfer that is sent here, or waits for its turn: used from its next attempt on.
    pub fn renew(&self, transfer: TransferId, grant: Signed) {
        self.0.renewals().insert(transfer, grant);
    }

    /// The transfer is not sent here any more.
    pub fn forget_renewal(&self, transfer: TransferId) {
        self.0.renewals().remove(&transfer);
    }

    /// Sends, until the transfer has ended or this program stops. Reports appear in `reports`.
    pub async fn send(
        &self,
        job: SendJob,
        connector: Arc<dyn Connector>,
        reports: watch::Sender<TransferReport>,
    ) -> Sent {
        let span = tracing::info_span!(
            "transfer send",
            otel.kind = "client",
            dwcp.transfer.id = tracing::field::Empty,
            dwcp.sync = tracing::field::Empty,
            dwcp.sync.run = tracing::field::Empty,
            dwcp.bytes.total = tracing::field::Empty,
            dwcp.bytes.wire = tracing::field::Empty,
            dwcp.outcome = tracing::field::Empty,
        );
        if let Some(parent) = &job.traceparent {
            propagation::set_parent(&span, parent.as_str());
        }
        let reporter = Reporter::new(self.0.clock.clone(), reports);
        let shared = Arc::clone(&self.0);
        Box::pin(send(shared, job, connector, reporter)).instrument(span).await
    }
}

async fn send(shared: Arc<Shared>, job: SendJob, connector: Arc<dyn Connector>, reporter: Reporter) -> Sent {
    let counted = Counted::new(&shared.clock);
    let sent = Box::pin(until_the_end(&shared, job, connector, &reporter, &counted)).await;
    let span = tracing::Span::current();
    match &sent {
        Sent::Ended(report) => {
            counted.ended(report);
            span.record("dwcp.outcome", report.state.as_str());
            span.record("dwcp.bytes.total", report.progress.bytes_total.bytes());
            span.record("dwcp.bytes.wire", report.progress.bytes_sent.bytes());
            let reason = report.error.as_ref().map(|error| error.reason.as_str());
            tracing::info!(transfer = %report.transfer, state = %report.state, reason, "a transfer from here ended");
        }
        Sent::Interrupted(_) => {
            span.record("dwcp.outcome", "INTERRUPTED");
        }
    }
    sent
}

async fn until_the_end(
    shared: &Arc<Shared>,
    job: SendJob,
    connector: Arc<dyn Connector>,
    reporter: &Reporter,
    counted: &Counted,
) -> Sent {
    let job = shared.renewed(job);
    let nothing = Tally::default();
    let failed = |stop: &Stop| Sent::Ended(reporter.end(TransferState::Failed, &nothing, Some(stop.to_error()), None));
    let checked = match check(shared, &job) {
        Ok(checked) => checked,
        Err(stop) => return failed(&stop),
    };
    tracing::Span::current().record("dwcp.transfer.id", checked.id.to_string());
    let Some(turn) = shared.turn_if_free(checked.id, TransferRole::Sender) else {
        let twice = Stop::temporary(end::BUSY, "this host sends this transfer already");
        reporter.say(TransferState::Waiting, &nothing, None, Some(twice.to_error()));
        return Sent::Interrupted(reporter.last());
    };
    match ended_before(shared, checked.id) {
        Ok(None) => {}
        Ok(Some((state, digest))) => return Sent::Ended(reporter.end(state, &nothing, None, digest)),
        Err(stop) => return failed(&stop),
    }
    tracing::info!(transfer = %checked.id, peer = %checked.peer.node_id(), "sending a transfer");
    let mut trying = Trying {
        shared,
        checked,
        job,
        unkept: Mutex::new(true),
        connector,
        reporter,
        counted,
        turn,
        unheard: Unheard::default(),
    };
    Box::pin(trying.run()).await
}

fn ended_before(shared: &Shared, id: TransferId) -> Result<Option<(TransferState, Option<Digest>)>, Stop> {
    let ended = shared.folder.end(id, TransferRole::Sender);
    let ended = ended.map_err(|error| shared.own("sender", &error))?;
    Ok(ended.map(|ended| {
        let state = ended.state.parse().unwrap_or(TransferState::Failed);
        (state, ended.tree_digest.and_then(|digest| digest.parse().ok()))
    }))
}

/// The attempts of one transfer.
struct Trying<'a> {
    shared: &'a Arc<Shared>,
    checked: Checked,
    job: SendJob,
    /// Whether the job is to be written down.
    unkept: Mutex<bool>,
    connector: Arc<dyn Connector>,
    reporter: &'a Reporter,
    counted: &'a Counted,
    turn: Turn,
    /// What earlier attempts sent, and nobody said whether it is in place.
    unheard: Unheard,
}

impl Shared {
    /// The job with the newest grant that is known.
    fn renewed(&self, job: SendJob) -> SendJob {
        let newer = job.transfer().and_then(|transfer| self.renewals().remove(&transfer));
        match (newer, &job.authority) {
            (Some(grant), SendAuthority::Grant(_)) => SendJob { authority: SendAuthority::Grant(grant), ..job },
            (Some(grant), SendAuthority::Sync(open)) => {
                let open = OpenSync { grant, ..open.clone() };
                SendJob { authority: SendAuthority::Sync(open), ..job }
            }
            _ => job,
        }
    }

    fn renewals(&self) -> MutexGuard<'_, HashMap<TransferId, Signed>> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trying<'_> {
    async fn run(&mut self) -> Sent {
        let mut backoff = Backoff::new(FIRST_PAUSE, self.shared.settings.load().retry_interval);
        let mut corrupted = 0;
        let mut spent = self.spent();
        loop {
            let tally = Arc::new(Tally::after(spent));
            self.counted.set(Counting::Running);
            self.take_new_grant();
            let result = Box::pin(self.attempt(&tally)).await;
            let result = result.map_err(|stop| stop.naming(&self.shared.name_of(&self.checked.peer)));
            let stop = match result {
                Ok(finished) => return self.succeeded(&tally, &finished).await,
                Err(stop) => stop,
            };
            if let Some(sent) = self.last(&stop, &tally).await {
                return sent;
            }
            corrupted = if stop.reason == end::CORRUPTED { corrupted + 1 } else { 0 };
            if corrupted >= MAX_CORRUPTED {
                return self.ended(TransferState::Failed, &tally, Some(stop), None).await;
            }
            if tally.bytes_sent.load(std::sync::atomic::Ordering::Relaxed) > 0 {
                backoff.reset();
            }
            spent = tally.spent();
            let pause = backoff.next_delay();
            self.say_waiting(&stop, &tally, pause).await;
            let stopped = tokio::select! {
                stopped = self.stopped(&tally) => Some(stopped),
                ordered = self.rested(pause) => {
                    if ordered {
                        backoff.reset();
                    }
                    None
                }
            };
            if let Some(stop) = stopped
                && let Some(sent) = self.last(&stop, &tally).await
            {
                return sent;
            }
        }
    }

    /// The transfer has ended, or goes on at the next start of this program; none where another attempt may succeed.
    async fn last(&self, stop: &Stop, tally: &Tally) -> Option<Sent> {
        let (state, digest) = match stop.reason.as_str() {
            end::ALREADY_FINISHED => match self.finishing() {
                Some(digest) => return Some(self.ended(state_of(tally), tally, None, Some(digest)).await),
                None => (TransferState::Failed, None),
            },
            end::SHUTDOWN if self.shared.tasks.is_cancelled() => {
                self.reporter.say(TransferState::Waiting, tally, None, Some(stop.to_error()));
                return Some(Sent::Interrupted(self.reporter.last()));
            }
            end::CANCELLED => (TransferState::Cancelled, None),
            _ if !stop.temporary => (TransferState::Failed, None),
            _ => match self.grant_over() {
                Some(over) => return Some(self.ended(TransferState::Failed, tally, Some(over), None).await),
                None => return None,
            },
        };
        Some(self.ended(state, tally, Some(stop.clone()), digest).await)
    }

    async fn say_waiting(&self, stop: &Stop, tally: &Tally, pause: Duration) {
        let held = self.is_held();
        // The other end may have been told first, and have gone.
        let of_order = held.then(orders::paused);
        let stop = of_order.as_ref().unwrap_or(stop);
        self.counted.set(if held { Counting::Paused } else { Counting::Waiting });
        if held {
            // The folder may be younger than the order.
            let (shared, id) = (Arc::clone(self.shared), self.checked.id);
            let keep = move || shared.orders.keep(&shared.folder, id, TransferRole::Sender);
            // Who stops this program meanwhile is told again.
            let _kept = self.shared.tasks.blocking("keep an order", keep).await;
        }
        tracing::info!(transfer = %self.checked.id, reason = %stop.reason, message = %stop.message, held, ?pause, "a transfer waits to go on");
        self.reporter.say(TransferState::Waiting, tally, None, Some(stop.to_error()));
    }

    /// Goes on by a grant that the control plane gave meanwhile.
    fn take_new_grant(&mut self) {
        let job = self.shared.renewed(self.job.clone());
        if job == self.job {
            return;
        }
        match check(self.shared, &job) {
            Ok(checked) if (checked.id, checked.peer) == (self.checked.id, self.checked.peer) => {
                tracing::info!(transfer = %checked.id, "a transfer goes on with a new grant");
                (self.checked, self.job, self.unkept) = (checked, job, Mutex::new(true));
            }
            Ok(_) => tracing::warn!(transfer = %self.checked.id, "a new grant is for another transfer"),
            Err(stop) => tracing::warn!(transfer = %self.checked.id, %stop, "a new grant is not good"),
        }
    }

    /// Writes the job down, once, so that it goes on after a restart.
    fn keep_job(&self) -> Result<(), Stop> {
        let mut unkept = self.unkept.lock().unwrap_or_else(PoisonError::into_inner);
        if !*unkept {
            return Ok(());
        }
        if matches!(self.checked.authority, Authority::Sync(_)) {
            *unkept = false;
            return Ok(());
        }
        let folder = self.shared.folder.make(self.checked.id, TransferRole::Sender);
        let kept = folder.and_then(|folder| durable::replace(&folder.join(JOB_FILE), &self.job.to_kept(), 0o600));
        kept.map_err(|error| self.shared.own("sender", &error))?;
        *unkept = false;
        Ok(())
    }

    async fn attempt(&self, tally: &Arc<Tally>) -> Result<Finished, Stop> {
        self.keep_job()?;
        // One that is held dials nobody.
        if self.is_held() {
            return Err(orders::paused());
        }
        let connected = tokio::select! {
            stopped = self.stopped(tally) => return Err(stopped),
            held = self.held() => return Err(held),
            connected = self.connector.connect(self.checked.peer) => connected,
        };
        let mut link = connected?;
        if link.peer != self.checked.peer {
            return Err(Stop::violation("the link leads to another node than it should"));
        }
        link.pieces_out.tell(&tracing::Span::current());
        let group = self.shared.tasks.child("transfer send");
        let attempt = session::Attempt {
            shared: Arc::clone(self.shared),
            checked: self.checked.clone(),
            tally: Arc::clone(tally),
            group: group.clone(),
            reporter: self.reporter,
            order: self.order().number,
            unheard: &self.unheard,
        };
        let result = tokio::select! {
            result = Box::pin(attempt.run(&mut link)) => result,
            stopped = self.stopped(tally) => Err(stopped),
            held = self.held() => Err(held),
        };
        // What still runs stops sending.
        group.cancel();
        if let Some(stop) = result.as_ref().err().filter(|stop| !stop.known_there) {
            session::say_last(&mut link, stop).await;
        }
        drop(link);
        if let Err(unfinished) = group.shutdown(session::DRAIN).await {
            tracing::warn!(transfer = %self.checked.id, %unfinished, "parts of an attempt did not end in time");
        }
        // What is kept now is only copied.
        self.shared.encoders.rest();
        // It has succeeded: nothing stops it any more.
        let (finished, sending) = result?;
        leaning::learn(&sending);
        keep::begin(&sending).await;
        Ok(finished)
    }

    /// What was spent before this program was started.
    fn spent(&self) -> Spent {
        let folder = self.shared.folder.of(self.checked.id, TransferRole::Sender);
        fs::read(folder.join(SPENT_FILE)).map(|bytes| Spent::from_bytes(&bytes)).unwrap_or_default()
    }

    /// The digest of the tree, where all of it was sent before.
    fn finishing(&self) -> Option<Digest> {
        let folder = self.shared.folder.of(self.checked.id, TransferRole::Sender);
        fs::read_to_string(folder.join(FINISHING_FILE)).ok()?.parse().ok()
    }

    async fn succeeded(&self, tally: &Tally, finished: &Finished) -> Sent {
        tally.finished(finished);
        self.ended(state_of(tally), tally, None, Some(Digest::from_bytes(finished.tree_digest))).await
    }

    async fn ended(&self, state: TransferState, tally: &Tally, stop: Option<Stop>, digest: Option<Digest>) -> Sent {
        let end = End::new(state, digest, self.checked.not_after, self.shared.clock.utc());
        let (id, shared) = (self.checked.id, Arc::clone(self.shared));
        let is_run = matches!(self.checked.authority, Authority::Sync(_));
        let keep = move || {
            let kept = match is_run {
                // The number of the next run says that it has ended.
                true => remove_folder(&shared.folder.of(id, TransferRole::Sender)),
                false => shared.folder.finish(id, TransferRole::Sender, &end),
            };
            if let Err(error) = kept {
                tracing::warn!(transfer = %id, %error, "the end of a transfer is not kept");
            }
        };
        // Who stops this program meanwhile hears of the end all the same.
        let _kept = self.shared.tasks.blocking("transfer end", keep).await;
        Sent::Ended(self.reporter.end(state, tally, stop.map(|stop| stop.to_error()), digest))
    }
}
