//! The receiving end of a transfer.
//!
//! Consent first ([`admission`]); then four things go on at once, each bounded: pages of the manifest are written down and
//! compared, pieces are decoded and written, whole files are put in place, and the journal follows. When the sender has
//! finished and nothing is outstanding, the tree is concluded and its digest compared.

mod admission;
mod backlog;
mod bundles;
mod compare;
mod conclude;
mod contents;
mod decoders;
mod delete;
mod dictionaries;
mod direct;
mod files;
mod flushes;
mod held_here;
mod incoming;
mod known;
mod links;
mod old_versions;
mod parked;
mod publish;
mod remains;
mod renamed;
mod room;
mod session;
mod similar;
mod state;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use foundation_telemetry::propagation;
use proto_model::{Digest, TransferError, TransferReport, TransferRole, TransferState};
use proto_wire::frames::{Open, ReceiverFrame, SenderFrame};
use tokio::sync::watch;
use tracing::Instrument;

pub(crate) use admission::{SKEW, check_grant, check_sync_grant};
pub(crate) use decoders::Decoders;
pub(crate) use remains::{discard, next_over, over, read_any_note, sweep_out};
pub(crate) use similar::{LEAST_WORDS, SKETCH_FROM_BYTES};

use crate::{
    ends::{End, remove_folder},
    link::Link,
    reason::end,
    report::{Counted, Reporter, state_of},
    service::{Shared, Transfers, Turn},
    stop::Stop,
    sync::SyncRun,
};
use admission::{Admitted, admit, check_first_run, not_ended};

/// How long a peer that opened a channel has for its first frame.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// How long the peer has to take the last frame and close.
const LAST_FRAME: Duration = Duration::from_secs(10);
/// How long what runs on blocking threads has to end when an attempt ends.
const DRAIN: Duration = Duration::from_secs(30);

/// How receiving ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// For good.
    Ended(TransferReport),
    /// The link broke, or this program stops; the sender may go on later.
    Interrupted(TransferReport),
    /// It never began: the peer was told why.
    Refused(TransferError),
}

impl Transfers {
    /// Receives what a peer opens over this link. `began` is told where the reports of the transfer appear, once it is consented to.
    pub async fn receive(
        &self,
        mut link: Link,
        began: impl FnOnce(watch::Receiver<TransferReport>) + Send,
    ) -> Received {
        let open = match first_frame(&mut link).await {
            Ok(open) => open,
            Err(stop) => return refuse(link, &stop).await,
        };
        let span = tracing::info_span!(
            "transfer receive",
            otel.kind = "server",
            dwcp.transfer.id = %open.transfer,
            dwcp.peer.id = %link.peer.node_id(),
            dwcp.sync = tracing::field::Empty,
            dwcp.sync.run = tracing::field::Empty,
            dwcp.bytes.total = tracing::field::Empty,
            dwcp.outcome = tracing::field::Empty,
        );
        if let Some(parent) = &open.traceparent {
            propagation::set_parent(&span, parent.as_str());
        }
        let shared = Arc::clone(&self.0);
        receive(shared, link, open, began).instrument(span).await
    }
}

async fn receive(
    shared: Arc<Shared>,
    mut link: Link,
    open: Box<Open>,
    began: impl FnOnce(watch::Receiver<TransferReport>) + Send,
) -> Received {
    let peer = shared.name_of(&link.peer);
    let (admitted, run, turn) = match consent(&shared, &link, &open).await {
        Ok(consent) => consent,
        Err(stop) => return refuse(link, &stop).await,
    };
    let id = admitted.transfer;
    link.pieces_out.tell(&tracing::Span::current());
    let counted = Counted::new(&shared.clock);
    let (reporter, reports) = Reporter::begin(shared.clock.clone(), id, TransferRole::Receiver);
    began(reports);
    if let Some(run) = &run {
        tracing::Span::current().record("dwcp.sync", run.name.as_str()).record("dwcp.sync.run", run.number);
    }
    let sync = run.as_ref().map(|run| run.name.as_str());
    tracing::info!(transfer = %id, peer = %link.peer.node_id(), sync, "receiving a transfer");
    let (not_after, deadline) = (admitted.not_after, admitted.options.deadline);
    let group = shared.tasks.child("transfer receive");
    let attempt =
        session::Attempt { shared: Arc::clone(&shared), admitted, open: *open, run: run.clone(), group: group.clone() };
    let result = Box::pin(attempt.run(&mut link, &turn, &reporter)).await;
    // Nothing of this attempt may still write when the next one begins.
    if let Err(unfinished) = group.shutdown(DRAIN).await {
        tracing::warn!(transfer = %id, %unfinished, "parts of an attempt did not end in time");
    }
    let (tally, result) = result;
    // Said only when it is kept: an end that cannot be written down is none.
    let result = match result {
        Ok(finished) => {
            let digest = Digest::from_bytes(finished.tree_digest);
            let kept = finish(&shared, id, run.clone(), state_of(&tally), Some(digest), not_after).await;
            kept.map(|()| (finished, digest))
        }
        Err(stop) => Err(stop),
    };
    let received = match result {
        Ok((finished, digest)) => {
            let last = ReceiverFrame::Progress {
                bytes_verified: tally.bytes_done.load(Relaxed),
                files_published: tally.files_done.load(Relaxed),
            };
            // Where this cannot be said, nor can what follows it; a peer that takes nothing holds nothing up.
            drop(tokio::time::timeout(LAST_FRAME, link.control_out.send(&last.encode())).await);
            say_last(link, ReceiverFrame::Finished(finished)).await;
            Received::Ended(reporter.end(state_of(&tally), &tally, None, Some(digest)))
        }
        Err(stop) if stop.temporary => {
            if !stop.known_there {
                say_last(link, ReceiverFrame::Abort(stop.to_abort())).await;
            }
            keep_order(&shared, id, deadline.is_some()).await;
            reporter.say(TransferState::Waiting, &tally, None, Some(stop.naming(&peer).to_error()));
            Received::Interrupted(reporter.last())
        }
        Err(stop) => {
            let state = if stop.reason == end::CANCELLED { TransferState::Cancelled } else { TransferState::Failed };
            // That the end cannot be kept changes nothing of it.
            if let Err(error) = finish(&shared, id, run, state, None, not_after).await {
                tracing::warn!(transfer = %id, %error, "the end of a transfer is not kept");
            }
            if !stop.known_there {
                say_last(link, ReceiverFrame::Abort(stop.to_abort())).await;
            }
            Received::Ended(reporter.end(state, &tally, Some(stop.naming(&peer).to_error()), None))
        }
    };
    shared.decoders.rest();
    log(&received);
    if let Received::Ended(report) = &received {
        counted.ended(report);
    }
    received
}

fn log(received: &Received) {
    let span = tracing::Span::current();
    match received {
        Received::Ended(report) => {
            span.record("dwcp.outcome", report.state.as_str());
            span.record("dwcp.bytes.total", report.progress.bytes_total.bytes());
            let reason = report.error.as_ref().map(|error| error.reason.as_str());
            tracing::info!(transfer = %report.transfer, state = %report.state, reason, "a transfer ended here");
        }
        Received::Interrupted(report) => {
            span.record("dwcp.outcome", "INTERRUPTED");
            let why = report.error.as_ref().map(|error| error.message.as_str());
            tracing::info!(transfer = %report.transfer, why, "a transfer broke off and may go on");
        }
        Received::Refused(_) => {}
    }
}

async fn finish(
    shared: &Arc<Shared>,
    id: proto_model::TransferId,
    run: Option<Arc<SyncRun>>,
    state: TransferState,
    digest: Option<Digest>,
    not_after: Option<chrono::DateTime<chrono::Utc>>,
) -> Result<(), Stop> {
    let end = End::new(state, digest, not_after, shared.clock.utc());
    let keeping = Arc::clone(shared);
    let keep = move || {
        let kept = match run {
            // Its number says that it has ended: nothing else of it is kept.
            Some(run) => {
                let succeeded = matches!(state, TransferState::Succeeded | TransferState::SucceededInPart);
                let finished = keeping.syncs.finish(&run, succeeded);
                finished.and_then(|()| remove_folder(&keeping.folder.of(id, TransferRole::Receiver)))
            }
            None => keeping.folder.finish(id, TransferRole::Receiver, &end),
        };
        kept.map_err(|error| keeping.own("receiver", &error))
    };
    shared.tasks.blocking("transfer end", keep).await.unwrap_or_else(|_cancelled| Err(stopping()))
}

/// What is left of a transfer that broke off: its order is kept beside it, and its deadline is looked after.
async fn keep_order(shared: &Arc<Shared>, id: proto_model::TransferId, has_deadline: bool) {
    let keeping = Arc::clone(shared);
    let keep = move || keeping.orders.keep(&keeping.folder, id, TransferRole::Receiver);
    // Who stops this program meanwhile is told again.
    let _kept = shared.tasks.blocking("keep an order", keep).await;
    if has_deadline {
        shared.left_with_deadline.notify_one();
    }
}

async fn first_frame(link: &mut Link) -> Result<Box<Open>, Stop> {
    let frame = tokio::time::timeout(FIRST_FRAME, link.control_in.recv()).await;
    let frame = frame.map_err(|_elapsed| Stop::temporary(end::STALLED, "no opening came"))??;
    let frame = frame.ok_or_else(|| Stop::violation("the channel ended before an opening"))?;
    match SenderFrame::decode(&frame)? {
        SenderFrame::Open(open) => Ok(open),
        SenderFrame::Page(_)
        | SenderFrame::ManifestEnd(_)
        | SenderFrame::FileEnd(_)
        | SenderFrame::FileAborted(_)
        | SenderFrame::Finish { .. }
        | SenderFrame::Abort(_)
        | SenderFrame::Dictionaries(_)
        | SenderFrame::Dictionary(_)
        | SenderFrame::Bench(_) => Err(Stop::violation("the first frame is no opening")),
    }
}

async fn consent(
    shared: &Arc<Shared>,
    link: &Link,
    open: &Open,
) -> Result<(Admitted, Option<Arc<SyncRun>>, Turn), Stop> {
    let (asked, opening, peer) = (Arc::clone(shared), open.clone(), link.peer);
    let admitted = shared.tasks.blocking("transfer admission", move || admit(&asked, peer, &opening)).await;
    let admitted = admitted.map_err(|_cancelled| stopping())??;
    // Only who has the right may take over from an earlier attempt.
    let (asked, transfer) = (Arc::clone(shared), admitted.transfer);
    let turn = shared.turn(transfer, TransferRole::Receiver).await?;
    // The earlier attempt may have ended the transfer while this one waited for it.
    let ended = shared.tasks.blocking("transfer end", move || not_ended(&asked, transfer)).await;
    ended.map_err(|_cancelled| stopping())??;
    let Some((sync, number)) = admitted.sync.as_ref().map(|run| (run.grant.sync(), run.run)) else {
        return Ok((admitted, None, turn));
    };
    // A run that was opened before and given up by its sender lets go first: never two at once.
    let before = shared.syncs.other_run(sync, number);
    let before = match before {
        Some(before) => Some((before, shared.turn(before, TransferRole::Receiver).await?)),
        None => None,
    };
    let asked = Arc::clone(shared);
    let begun = shared.tasks.blocking("sync run", move || {
        check_first_run(&asked, &admitted)?;
        if let Some((before, _turn)) = before {
            sweep_out(&asked, before).map_err(|error| asked.own("receiver", &error))?;
        }
        let run = admitted
            .sync
            .as_ref()
            .zip(admitted.grant)
            .map(|(run, accepted_by)| asked.syncs.begin(&run.grant, run.run, accepted_by, run.order));
        Ok((admitted, run.transpose()?))
    });
    let (admitted, run) = begun.await.map_err(|_cancelled| stopping()).and_then(|begun| begun)?;
    Ok((admitted, run, turn))
}

pub(crate) fn stopping() -> Stop {
    Stop::temporary(end::SHUTDOWN, "this host's agent is stopping")
}

async fn refuse(link: Link, stop: &Stop) -> Received {
    tracing::warn!(peer = %link.peer.node_id(), reason = %stop.reason, message = %stop.message, "refused to receive a transfer");
    say_last(link, ReceiverFrame::Abort(stop.to_abort())).await;
    Received::Refused(stop.to_error())
}

/// Sends the last frame, and waits until the other end has taken it: it closes then.
async fn say_last(mut link: Link, frame: ReceiverFrame) {
    let frame = frame.encode();
    let say = async {
        if link.control_out.send(&frame).await.is_ok() {
            while let Ok(Some(_)) = link.control_in.recv().await {}
        }
    };
    // A peer that does not close has the frame, or is gone.
    let _closed = tokio::time::timeout(LAST_FRAME, say).await;
}
