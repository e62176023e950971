//! One attempt to send: the walk, the receiver's answers, and the files that it wants, all at once.

use std::{
    fs,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use dataplane_hde::Algorithm;
use foundation_runtime::{Cancelled, TaskGroup, durable};
use foundation_telemetry::propagation;
use futures::StreamExt;
use proto_model::{Digest, Traceparent, TransferRole, TransferState};
use proto_wire::{
    frames::{Authority, Finished, MAX_FRAME_BYTES, Open, Opened, ReceiverFrame, SenderFrame, Wanted},
    piece::MIN_SEGMENT_BYTES,
};
use tokio::sync::mpsc;
use tracing::field::Empty;

use super::{
    Checked, FINISHING_FILE,
    board::Board,
    jobs::Jobs,
    keep::Unheard,
    leaning::Leaning,
    link_rate::Seen,
    manifest::walk_sources,
    state::{Parts, Sending},
};
use crate::{
    attribution::{self, SenderLook},
    exclude::Excludes,
    link::{ControlIn, ControlOut, DELTAS, DICTIONARIES, HISTORY, HOLES, LONG_SEGMENTS, Link, PathOf},
    reason::end,
    receiver::stopping,
    report::{EVERY, Reporter},
    service::Shared,
    source::Sources,
    stop::Stop,
    tally::{Tally, add},
};

/// How long the receiver has to consent: it may wait for an earlier attempt to let go.
const CONSENT: Duration = Duration::from_secs(60);
/// How long what runs on blocking threads has to end when an attempt ends.
pub(super) const DRAIN: Duration = Duration::from_secs(30);
/// How long the receiver has to take the last frame.
const LAST_FRAME: Duration = Duration::from_secs(5);
/// Frames that wait to be sent: pages of 1 MiB among them.
const FRAMES: usize = 8;
/// Encoded bytes under way, whatever a receiver offers: what this host's memory bears.
const MAX_WINDOW_BYTES: u64 = 64 << 20;
/// A window that holds less than a few segments stands still most of the time.
const MIN_WINDOW_BYTES: u64 = 8 << 20;
/// Segments that the receiver may ask for again, in all, besides each once: it gives up by itself at so many.
const MAX_RESENDS: u64 = 1000;
/// Small files that wait to be sent again: what bundles hold that are under way in a window, many times over.
const MAX_WHOLE: usize = 1 << 20;
/// What a receiver says of a file, besides what it holds of it.
const ANSWER_BYTES_OF_FILE: u64 = 128;
/// What it says of each [`MIN_SEGMENT_BYTES`] of a file: a segment that it holds, and chunks of four times so much of an old version, on
/// average of 1 KiB.
const ANSWER_BYTES_OF_SEGMENT: u64 = 3 << 10;

pub(super) struct Attempt<'a> {
    pub(super) shared: Arc<Shared>,
    pub(super) checked: Checked,
    pub(super) tally: Arc<Tally>,
    pub(super) group: TaskGroup,
    pub(super) reporter: &'a Reporter,
    /// Of the newest job that was told.
    pub(super) order: u64,
    pub(super) unheard: &'a Unheard,
}

impl Attempt<'_> {
    /// What was sent is to be kept by [`keep::begin`].
    pub(super) async fn run(self, link: &mut Link) -> Result<(Finished, Arc<Sending>), Stop> {
        self.reporter.say(TransferState::Running, &self.tally, (link.path)(), None);
        let segment_bytes = self.shared.settings.load().segment_bytes;
        link.control_out.send(&SenderFrame::Open(Box::new(self.opening(segment_bytes))).encode()).await?;
        let opened = if link.is_early { None } else { Some(consent(link.control_in.as_mut()).await?) };
        let (frames_tx, frames) = mpsc::channel(FRAMES);
        let excludes = Excludes::new(&self.checked.options.exclude);
        let excludes = excludes.map_err(|error| Stop::final_(end::BAD_PATTERN, error.to_string()))?;
        let sending = self.prepare(link, (opened.as_ref(), segment_bytes), frames_tx).await?;
        let board = Arc::new(Board::default());
        let part = Part { sending: &sending, board: &board };
        let (control_in, control_out) = (link.control_in.as_mut(), link.control_out.as_mut());
        // One span for all encoding, with its sums.
        let span = tracing::info_span!(
            "hde encode",
            dwcp.hde.input_bytes = Empty,
            dwcp.hde.output_bytes = Empty,
            dwcp.hde.reused_bytes = Empty,
            dwcp.hde.changed_bytes = Empty,
            dwcp.hde.literal_bytes = Empty,
        );
        let parts = async {
            tokio::try_join!(
                part.write_frames(control_out, frames),
                part.walk(excludes),
                part.send_wanted(),
                part.report(self.reporter, &link.path),
                part.watch_for_stalls(),
                part.attribute(),
            )
        };
        let result = tokio::select! {
            finished = part.read_frames(control_in) => finished,
            stopped = parts => Err(stopped.map(|_never| stopping()).unwrap_or_else(|stop| stop)),
        };
        span.record("dwcp.hde.input_bytes", self.tally.bytes_encoded_in.load(Relaxed));
        span.record("dwcp.hde.output_bytes", self.tally.bytes_sent.load(Relaxed));
        span.record("dwcp.hde.reused_bytes", self.tally.bytes_reused.load(Relaxed));
        span.record("dwcp.hde.changed_bytes", self.tally.bytes_changed.load(Relaxed));
        span.record("dwcp.hde.literal_bytes", self.tally.bytes_literal.load(Relaxed));
        if result.is_err() {
            let (unheard, of) = (self.unheard.clone(), Arc::clone(&sending));
            // What is not known then costs bytes the next time.
            let _heard = self.shared.tasks.blocking("what was sent", move || unheard.hear(&of)).await;
        }
        result.map(|finished| (finished, sending))
    }

    fn opening(&self, segment_bytes: u32) -> Open {
        let traceparent = propagation::traceparent(&tracing::Span::current());
        Open {
            transfer: self.checked.id,
            authority: self.checked.authority.clone(),
            traceparent: traceparent.and_then(|text| Traceparent::from_optional_text(&text)),
            features: self.features(),
            segment_bytes,
            order: self.order,
        }
    }

    fn features(&self) -> Vec<String> {
        let settings = self.shared.settings.load();
        let zstd = settings.hde.enabled && settings.hde.algorithm == Algorithm::Zstd;
        let dictionaries = settings.dictionaries && zstd && !self.checked.options.dry_run;
        let always = [HOLES, DELTAS, LONG_SEGMENTS, HISTORY].map(|name| (true, name));
        let offered = always.into_iter().chain([(dictionaries, DICTIONARIES)]);
        offered.filter(|(offered, _)| *offered).map(|(_, name)| name.to_owned()).collect()
    }

    async fn prepare(
        &self,
        link: &Link,
        (opened, segment_bytes): (Option<&Opened>, u32),
        frames: mpsc::Sender<SenderFrame>,
    ) -> Result<Arc<Sending>, Stop> {
        let (shared, checked, tally) = (Arc::clone(&self.shared), self.checked.clone(), Arc::clone(&self.tally));
        let (group, pieces, unheard) = (self.group.clone(), Arc::clone(&link.pieces_out), self.unheard.clone());
        let agreed = |name| opened.is_none_or(|opened| agrees(opened, name));
        let (tells_holes, deltas, grows) = (agreed(HOLES), agreed(DELTAS), agreed(LONG_SEGMENTS));
        let history = agreed(HISTORY);
        let leans = agreed(DICTIONARIES) && self.features().iter().any(|feature| feature == DICTIONARIES);
        let has_consent = opened.is_some();
        let window_bytes = opened.map_or(MIN_WINDOW_BYTES, window);
        let prepare = move || {
            let own = |error: &std::io::Error| shared.own("sender", error);
            let sources = Sources::open(&shared.roots.load(), &checked.sources)?;
            let folder = shared.folder.make(checked.id, TransferRole::Sender).map_err(|error| own(&error))?;
            let options = checked.options;
            let at = Arc::clone(&shared);
            let leaning = leans.then(|| shared.dictionaries.for_peer(checked.peer)).flatten().map(Leaning::new);
            let parts = Parts {
                shared,
                group,
                options,
                sources,
                folder,
                tally,
                frames,
                pieces,
                segment_bytes,
                grows,
                window_bytes,
                has_consent,
                unheard,
                tells_holes,
                deltas,
                leaning,
                history,
                peer: checked.peer,
                destination: checked.destination,
                is_standing: matches!(checked.authority, Authority::Sync(_)),
            };
            Sending::new(parts).map(Arc::new).map_err(|error| at.own("sender", &error))
        };
        let prepared = self.group.blocking("transfer prepare", prepare).await;
        prepared.unwrap_or_else(|Cancelled| Err(stopping()))
    }
}

/// Waits for the receiver's consent.
async fn consent(control: &mut dyn ControlIn) -> Result<Opened, Stop> {
    let answer = tokio::time::timeout(CONSENT, control.recv()).await;
    let answer = answer.map_err(|_elapsed| Stop::temporary(end::STALLED, "the receiver did not answer"))??;
    match ReceiverFrame::decode(&answer.ok_or_else(gone)?)? {
        ReceiverFrame::Opened(opened) => Ok(opened),
        ReceiverFrame::Abort(abort) => Err(abort.into()),
        ReceiverFrame::Wanted(_)
        | ReceiverFrame::Published(_)
        | ReceiverFrame::Resend { .. }
        | ReceiverFrame::ResendFiles(_)
        | ReceiverFrame::Dictionaries(_)
        | ReceiverFrame::Finished(_)
        | ReceiverFrame::Progress { .. } => Err(Stop::violation("the first frame is no consent")),
    }
}

fn agrees(opened: &Opened, name: &str) -> bool {
    opened.features.iter().any(|feature| feature == name)
}

/// Encoded bytes under way.
fn window(opened: &Opened) -> u64 {
    opened.receive_window_bytes.clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES)
}

fn gone() -> Stop {
    Stop { known_there: true, ..Stop::temporary(end::PEER_UNREACHABLE, "the receiver went away") }
}

/// Says why the attempt ends, where the other end is still there to hear it.
pub(super) async fn say_last(link: &mut Link, stop: &Stop) {
    let frame = SenderFrame::Abort(stop.to_abort()).encode();
    let say = async {
        if link.control_out.send(&frame).await.is_ok() {
            while let Ok(Some(_)) = link.control_in.recv().await {}
        }
    };
    // A peer that does not close has the frame, or is gone.
    let _closed = tokio::time::timeout(LAST_FRAME, say).await;
}

/// What each part of an attempt has at hand.
struct Part<'a> {
    sending: &'a Arc<Sending>,
    board: &'a Arc<Board>,
}

impl Part<'_> {
    async fn write_frames(
        &self,
        control: &mut dyn ControlOut,
        mut frames: mpsc::Receiver<SenderFrame>,
    ) -> Result<(), Stop> {
        while let Some(frame) = frames.recv().await {
            control.send(&frame.encode()).await?;
            self.sending.alive.store(true, Relaxed);
        }
        std::future::pending().await
    }

    /// Gives up where the receiver neither says nor takes anything.
    async fn watch_for_stalls(&self) -> Result<(), Stop> {
        let patience = self.sending.shared.settings.load().stall_timeout;
        loop {
            self.sending.alive.store(false, Relaxed);
            tokio::time::sleep(patience).await;
            // A receiver may take longer to consent, which is waited for elsewhere.
            if !self.sending.alive.load(Relaxed) && self.sending.has_consent.load(Relaxed) {
                let message = format!("nothing came from the receiver for {} s", patience.as_secs());
                return Err(Stop::temporary(end::STALLED, message));
            }
        }
    }

    /// Walks the sources: pages go to the disk and to the receiver.
    async fn walk(&self, excludes: Excludes) -> Result<(), Stop> {
        if self.sending.uses_versions() {
            self.sending.shared.keepers.are_done(self.sending.peer).await;
        }
        let board = Arc::clone(self.board);
        self.sending.blocking("transfer walk", move |sending| walk_sources(sending, &board, &excludes)).await?;
        self.board.walked.store(true, Relaxed);
        self.board.bell.notify_one();
        std::future::pending().await
    }

    /// Reads what the receiver says; never waits for anything but the disk.
    async fn read_frames(&self, control: &mut dyn ControlIn) -> Result<Finished, Stop> {
        let tally = &self.sending.tally;
        if !self.sending.has_consent.load(Relaxed) {
            let opened = consent(control).await?;
            if ![HOLES, DELTAS].iter().all(|name| agrees(&opened, name)) {
                return Err(Stop::violation("the receiver consents to less than it said that it can"));
            }
            self.sending.leans.store(agrees(&opened, DICTIONARIES), Relaxed);
            self.sending.grows.store(agrees(&opened, LONG_SEGMENTS), Relaxed);
            self.sending.history.store(agrees(&opened, HISTORY), Relaxed);
            self.sending.widen(window(&opened));
            self.sending.alive.store(true, Relaxed);
            self.sending.has_consent.store(true, Relaxed);
        }
        loop {
            let bytes = control.recv().await?.ok_or_else(gone)?;
            self.sending.alive.store(true, Relaxed);
            match ReceiverFrame::decode(&bytes)? {
                ReceiverFrame::Opened(_) => return Err(Stop::violation("a second consent came")),
                ReceiverFrame::Wanted(wanted) => self.wanted(&wanted, bytes).await?,
                ReceiverFrame::Published(files) => self.sending.are_published(&files),
                ReceiverFrame::Resend { file, segment } => self.resend(file, segment)?,
                ReceiverFrame::ResendFiles(files) => self.resend_whole(&files)?,
                ReceiverFrame::Dictionaries(answer) => match &self.sending.leaning {
                    Some(leaning) => leaning.answered(self.sending, &answer)?,
                    None => return Err(Stop::violation("the receiver answers for dictionaries that were not offered")),
                },
                ReceiverFrame::Finished(finished) => return self.finished(finished),
                ReceiverFrame::Abort(abort) => return Err(abort.into()),
                ReceiverFrame::Progress { bytes_verified, files_published } => {
                    // Not more than there is: numbers of the other end are for people only.
                    tally.bytes_done.store(bytes_verified.min(tally.bytes_total.load(Relaxed)), Relaxed);
                    tally.files_done.store(files_published.min(tally.files_total.load(Relaxed)), Relaxed);
                }
            }
        }
    }

    /// The receiver's last word, where it may be one: it was told that all was sent, and holds the same tree.
    fn finished(&self, finished: Finished) -> Result<Finished, Stop> {
        let ours = *self.board.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = ours.ok_or_else(|| Stop::violation("the receiver finished before everything was sent"))?;
        let whole = finished.issue_count == 0 && !self.sending.options.dry_run;
        if whole && finished.tree_digest != ours {
            let message = "the receiver holds another tree than the one that was sent";
            return Err(Stop::final_(end::TREE_MISMATCH, message));
        }
        // It has all of it, whether or not its acknowledgments have come.
        add(&self.sending.tally.bytes_sent, self.sending.unacknowledged.swap(0, Relaxed));
        Ok(finished)
    }

    /// Whether so many bytes of answers can be honest: they wait on this end's disk.
    fn may_answer(&self, bytes: usize) -> Result<(), Stop> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let so_far = self.board.answer_bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        let tally = &self.sending.tally;
        let files = tally.files_total.load(Relaxed).saturating_mul(ANSWER_BYTES_OF_FILE);
        let segments = tally.bytes_total.load(Relaxed) / u64::from(MIN_SEGMENT_BYTES);
        let most = files.saturating_add(segments.saturating_mul(ANSWER_BYTES_OF_SEGMENT));
        if so_far > most.saturating_add(u64::try_from(MAX_FRAME_BYTES).unwrap_or(u64::MAX)) {
            return Err(Stop::violation("the receiver says more than there is to say of the tree"));
        }
        Ok(())
    }

    async fn wanted(&self, wanted: &Wanted, bytes: bytes::Bytes) -> Result<(), Stop> {
        add(&self.sending.tally.bytes_reused, wanted.equal_bytes);
        if !wanted.files.is_empty() {
            self.may_answer(bytes.len())?;
            self.sending
                .blocking("transfer answers", move |sending| {
                    sending.answers.append(&bytes).map_err(|error| sending.own(&error))
                })
                .await?;
        }
        // Counted only now: who sees all pages answered finds all answers in the queue.
        if wanted.page_complete {
            let answered = self.board.answered.fetch_add(1, Relaxed) + 1;
            if answered > self.board.pages.load(Relaxed) {
                return Err(Stop::violation("a page was answered that was not sent"));
            }
        }
        self.board.bell.notify_one();
        Ok(())
    }

    fn resend(&self, file: u64, segment: u64) -> Result<(), Stop> {
        let segments = self.sending.tally.bytes_total.load(Relaxed) / u64::from(self.sending.segment_bytes);
        if self.board.resent.fetch_add(1, Relaxed) >= MAX_RESENDS.saturating_add(segments) {
            return Err(Stop::violation("the receiver asks for too many segments again"));
        }
        self.sending.did_not_verify(file);
        self.sending.take_back(file, segment);
        self.board.resends.lock().unwrap_or_else(PoisonError::into_inner).push((file, segment));
        self.board.bell.notify_one();
        Ok(())
    }

    /// Small files that could not be made of what the receiver held: each once, so no more than there are.
    fn resend_whole(&self, files: &[u64]) -> Result<(), Stop> {
        let mut whole = self.board.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if whole.len() + files.len() > MAX_WHOLE {
            return Err(Stop::violation("the receiver asks for too many small files again"));
        }
        whole.extend_from_slice(files);
        drop(whole);
        self.board.bell.notify_one();
        Ok(())
    }

    /// Adds up what holds this end up.
    async fn attribute(&self) -> Result<(), Stop> {
        let sending = self.sending;
        let tally = &sending.tally;
        let look = || {
            attribution::of_sender(&SenderLook {
                window_full: sending.window_is_full(),
                reading: tally.reading.count(),
                encoding: tally.encoding.count(),
                path: sending.pieces.path_use(),
            })
        };
        tally.attribution.keep(&sending.shared.clock, look).await
    }

    async fn report(&self, reporter: &Reporter, path: &PathOf) -> Result<(), Stop> {
        let (sending, clock) = (self.sending, &self.sending.shared.clock);
        let (mut sent, mut at) = (0, clock.now());
        loop {
            reporter.say(TransferState::Running, &self.sending.tally, path(), None);
            let (now_sent, now) = (sending.tally.bytes_sent.load(Relaxed), clock.now());
            sending.link.see(Seen {
                sent_bytes: now_sent.saturating_sub(sent),
                over: now.saturating_duration_since(at),
                window_full: sending.window_is_full(),
                encoding: sending.tally.encoding.count() >= sending.thread_count,
            });
            (sent, at) = (now_sent, now);
            self.sending.blocking("transfer spent", keep_spent).await?;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Sends what is wanted, then finishes; segments that are asked for again are sent until the end.
    async fn send_wanted(&self) -> Result<(), Stop> {
        let mut jobs = Jobs::new(Arc::clone(self.sending), Arc::clone(self.board));
        let mut finished = false;
        loop {
            // Read before the queue: what is said to be complete is then all in the queue.
            let complete =
                self.board.walked.load(Relaxed) && self.board.answered.load(Relaxed) == self.board.pages.load(Relaxed);
            while let Some(frame) = self
                .sending
                .blocking("transfer answers", |sending| sending.answers.take().map_err(|error| sending.own(&error)))
                .await?
            {
                let ReceiverFrame::Wanted(wanted) = ReceiverFrame::decode(&frame)? else {
                    return Err(Stop::violation("an answer on the disk is damaged"));
                };
                jobs.wanted(wanted).await?;
            }
            // Nothing more for now: what was gathered goes.
            jobs.flush().await?;
            jobs.resend().await?;
            if complete && !finished && jobs.sent_all() {
                self.finish().await?;
                finished = true;
            }
            tokio::select! {
                () = self.board.bell.notified() => {}
                Some(done) = jobs.busy.next() => {
                    done?;
                    // The last one may have been what finishing waited for.
                    self.board.bell.notify_one();
                }
            }
        }
    }

    async fn finish(&self) -> Result<(), Stop> {
        let tree_digest = self
            .sending
            .blocking("transfer finish", |sending| {
                let digest = sending.pages.tree_digests().map_err(|error| sending.own(&error))?.sent;
                // Kept first: should the receiver's last word be lost, this says that it was a good one.
                let text = Digest::from_bytes(digest).to_string();
                durable::replace(&sending.folder.join(FINISHING_FILE), text.as_bytes(), 0o600)
                    .map_err(|error| sending.own(&error))?;
                Ok(digest)
            })
            .await?;
        *self.board.finished.lock().unwrap_or_else(PoisonError::into_inner) = Some(tree_digest);
        self.sending.is_finished.store(true, Relaxed);
        self.sending.frame(SenderFrame::Finish { tree_digest }).await
    }
}

/// For a successor of this program: a sum for people, so it need not be durable, and one torn by a crash counts as none.
fn keep_spent(sending: &Arc<Sending>) -> Result<(), Stop> {
    let spent = sending.tally.spent().to_bytes();
    fs::write(sending.folder.join(super::SPENT_FILE), spent).map_err(|error| sending.own(&error))
}
