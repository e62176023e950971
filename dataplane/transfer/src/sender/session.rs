//! One attempt to send: the walk, the receiver's answers, and the files that it wants, all at once.

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use foundation_runtime::{Cancelled, TaskGroup, durable};
use foundation_telemetry::propagation;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use proto_model::{Digest, Traceparent, TransferRole, TransferState};
use proto_rpc::peer::ManifestPage;
use proto_wire::{
    frames::{Finished, ManifestEnd, Open, Opened, ReceiverFrame, SenderFrame, Wanted, WantedFile},
    manifest::{Entry, Kind, PageBuilder, PageReader},
    piece::SMALL_FILE_BYTES,
};
use tokio::sync::{Notify, mpsc};
use tracing::field::Empty;

use super::{
    Checked, FINISHING_FILE, bundle,
    bundle::Bundle,
    file::{self, Gathering},
    state::{Parts, Sending, own},
};
use crate::{
    bit_set::BitSet,
    exclude::Excludes,
    link::{ControlIn, ControlOut, Link, PathOf},
    reason::end,
    receiver::stopping,
    report::{EVERY, Reporter},
    service::Shared,
    source::Sources,
    stop::Stop,
    tally::{Tally, add},
    walk::{Found, walk},
};

/// How long the receiver has to consent: it may wait for an earlier attempt to let go.
const CONSENT: Duration = Duration::from_secs(60);
/// How long what runs on blocking threads has to end when an attempt ends.
pub(super) const DRAIN: Duration = Duration::from_secs(30);
/// How long the receiver has to take the last frame.
const LAST_FRAME: Duration = Duration::from_secs(5);
/// Frames that wait to be sent: pages of 1 MiB among them.
const FRAMES: usize = 8;
/// Files that are read at once. Each waits for its segments to be acknowledged: at 128 KiB and 150 ms of round trip these are
/// 110 MB a second.
const FILES: usize = 128;
/// Bundles that are under way at once are bounded by the window; files and bundles together by this.
const JOBS: usize = 2 * FILES;
/// Encoded bytes under way, whatever a receiver offers: what this host's memory bears.
const MAX_WINDOW_BYTES: u64 = 64 << 20;
/// A window that holds less than a few segments stands still most of the time.
const MIN_WINDOW_BYTES: u64 = 8 << 20;
/// Segments that the receiver may ask for again.
const MAX_RESENDS: usize = 1000;

pub(super) struct Attempt<'a> {
    pub(super) shared: Arc<Shared>,
    pub(super) checked: Checked,
    pub(super) tally: Arc<Tally>,
    pub(super) group: TaskGroup,
    pub(super) reporter: &'a Reporter,
}

/// What the parts of an attempt tell one another.
#[derive(Default)]
struct Board {
    /// Pages that were sent, and that were answered.
    pages: AtomicU64,
    answered: AtomicU64,
    walked: AtomicBool,
    resends: Mutex<Vec<(u64, u64)>>,
    bell: Notify,
}

impl Attempt<'_> {
    pub(super) async fn run(self, link: &mut Link) -> Result<Finished, Stop> {
        self.reporter.say(TransferState::Running, &self.tally, (link.path)(), None);
        let opened = self.open(link).await?;
        let (frames_tx, frames) = mpsc::channel(FRAMES);
        let excludes = Excludes::new(&self.checked.options.exclude);
        let excludes = excludes.map_err(|error| Stop::final_(end::BAD_PATTERN, error.to_string()))?;
        let sending = self.prepare(link, &opened, frames_tx).await?;
        let board = Arc::new(Board::default());
        let part = Part { sending: &sending, board: &board };
        let (control_in, control_out) = (link.control_in.as_mut(), link.control_out.as_mut());
        // One span for all encoding, with its sums.
        let span = tracing::info_span!("hde encode", dwcp.hde.input_bytes = Empty, dwcp.hde.output_bytes = Empty);
        let parts = async {
            tokio::try_join!(
                part.write_frames(control_out, frames),
                part.walk(excludes),
                part.send_wanted(),
                part.report(self.reporter, &link.path),
            )
        };
        let result = tokio::select! {
            finished = part.read_frames(control_in) => finished,
            stopped = parts => Err(stopped.map(|_never| stopping()).unwrap_or_else(|stop| stop)),
        };
        span.record("dwcp.hde.input_bytes", self.tally.bytes_encoded_in.load(Relaxed));
        span.record("dwcp.hde.output_bytes", self.tally.bytes_sent.load(Relaxed));
        result
    }

    async fn open(&self, link: &mut Link) -> Result<Opened, Stop> {
        let traceparent = propagation::traceparent(&tracing::Span::current());
        let open = Open {
            transfer: self.checked.id,
            authority: self.checked.authority.clone(),
            traceparent: traceparent.and_then(|text| Traceparent::from_optional_text(&text)),
            features: Vec::new(),
            segment_bytes: self.shared.settings.load().segment_bytes,
        };
        link.control_out.send(&SenderFrame::Open(Box::new(open)).encode()).await?;
        let answer = tokio::time::timeout(CONSENT, link.control_in.recv()).await;
        let answer = answer.map_err(|_elapsed| Stop::temporary(end::STALLED, "the receiver did not answer"))??;
        match ReceiverFrame::decode(&answer.ok_or_else(gone)?)? {
            ReceiverFrame::Opened(opened) => Ok(opened),
            ReceiverFrame::Abort(abort) => Err(abort.into()),
            ReceiverFrame::Wanted(_)
            | ReceiverFrame::Published(_)
            | ReceiverFrame::Resend { .. }
            | ReceiverFrame::Finished(_)
            | ReceiverFrame::Progress { .. } => Err(Stop::violation("the first frame is no consent")),
        }
    }

    async fn prepare(
        &self,
        link: &Link,
        opened: &Opened,
        frames: mpsc::Sender<SenderFrame>,
    ) -> Result<Arc<Sending>, Stop> {
        let (shared, checked, tally) = (Arc::clone(&self.shared), self.checked.clone(), Arc::clone(&self.tally));
        let (group, pieces) = (self.group.clone(), Arc::clone(&link.pieces_out));
        let window_bytes = opened.receive_window_bytes.clamp(MIN_WINDOW_BYTES, MAX_WINDOW_BYTES);
        let prepare = move || {
            let sources = Sources::open(&shared.roots.load(), &checked.sources, &checked.destination)?;
            let folder = shared.folder.make(checked.id, TransferRole::Sender).map_err(|error| own(&error))?;
            let segment_bytes = shared.settings.load().segment_bytes;
            let options = checked.options;
            let parts =
                Parts { shared, group, options, sources, folder, tally, frames, pieces, segment_bytes, window_bytes };
            Sending::new(parts).map(Arc::new).map_err(|error| own(&error))
        };
        let prepared = self.group.blocking("transfer prepare", prepare).await;
        prepared.unwrap_or_else(|Cancelled| Err(stopping()))
    }
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
    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&Arc<Sending>) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Stop> {
        let sending = Arc::clone(self.sending);
        self.sending.group.blocking(name, move || work(&sending)).await.unwrap_or_else(|Cancelled| Err(stopping()))
    }

    async fn write_frames(
        &self,
        control: &mut dyn ControlOut,
        mut frames: mpsc::Receiver<SenderFrame>,
    ) -> Result<(), Stop> {
        while let Some(frame) = frames.recv().await {
            control.send(&frame.encode()).await?;
        }
        std::future::pending().await
    }

    /// Walks the sources: pages go to the disk and to the receiver.
    async fn walk(&self, excludes: Excludes) -> Result<(), Stop> {
        let board = Arc::clone(self.board);
        self.blocking("transfer walk", move |sending| walk_sources(sending, &board, &excludes)).await?;
        self.board.walked.store(true, Relaxed);
        self.board.bell.notify_one();
        std::future::pending().await
    }

    /// Reads what the receiver says; never waits for anything but the disk.
    async fn read_frames(&self, control: &mut dyn ControlIn) -> Result<Finished, Stop> {
        let tally = &self.sending.tally;
        loop {
            let bytes = control.recv().await?.ok_or_else(gone)?;
            match ReceiverFrame::decode(&bytes)? {
                ReceiverFrame::Opened(_) => return Err(Stop::violation("a second consent came")),
                ReceiverFrame::Wanted(wanted) => self.wanted(&wanted, bytes).await?,
                ReceiverFrame::Published(_) => {}
                ReceiverFrame::Resend { file, segment } => self.resend(file, segment)?,
                ReceiverFrame::Finished(finished) => return Ok(finished),
                ReceiverFrame::Abort(abort) => return Err(abort.into()),
                ReceiverFrame::Progress { bytes_verified, files_published } => {
                    // Not more than there is: numbers of the other end are for people only.
                    tally.bytes_done.store(bytes_verified.min(tally.bytes_total.load(Relaxed)), Relaxed);
                    tally.files_done.store(files_published.min(tally.files_total.load(Relaxed)), Relaxed);
                }
            }
        }
    }

    async fn wanted(&self, wanted: &Wanted, bytes: bytes::Bytes) -> Result<(), Stop> {
        add(&self.sending.tally.bytes_reused, wanted.equal_bytes);
        if wanted.page_complete {
            let answered = self.board.answered.fetch_add(1, Relaxed) + 1;
            if answered > self.board.pages.load(Relaxed) {
                return Err(Stop::violation("a page was answered that was not sent"));
            }
        }
        if !wanted.files.is_empty() {
            self.blocking("transfer answers", move |sending| {
                sending.answers.append(&bytes).map_err(|error| own(&error))
            })
            .await?;
        }
        self.board.bell.notify_one();
        Ok(())
    }

    fn resend(&self, file: u64, segment: u64) -> Result<(), Stop> {
        let mut resends = self.board.resends.lock().unwrap_or_else(PoisonError::into_inner);
        if resends.len() >= MAX_RESENDS {
            return Err(Stop::violation("the receiver asks for too many segments again"));
        }
        resends.push((file, segment));
        drop(resends);
        self.board.bell.notify_one();
        Ok(())
    }

    async fn report(&self, reporter: &Reporter, path: &PathOf) -> Result<(), Stop> {
        loop {
            reporter.say(TransferState::Running, &self.sending.tally, path(), None);
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Sends what is wanted, then finishes; segments that are asked for again are sent until the end.
    async fn send_wanted(&self) -> Result<(), Stop> {
        let mut jobs = Jobs {
            part: self,
            busy: FuturesUnordered::new(),
            bundle: Bundle::default(),
            asked: BitSet::default(),
            gathering: None,
        };
        let mut finished = false;
        loop {
            // Read before the queue: what is said to be complete is then all in the queue.
            let complete =
                self.board.walked.load(Relaxed) && self.board.answered.load(Relaxed) == self.board.pages.load(Relaxed);
            while let Some(frame) =
                self.blocking("transfer answers", |sending| sending.answers.take().map_err(|error| own(&error))).await?
            {
                let ReceiverFrame::Wanted(wanted) = ReceiverFrame::decode(&frame)? else {
                    return Err(Stop::violation("an answer on the disk is damaged"));
                };
                jobs.wanted(wanted).await?;
            }
            // Nothing more for now: what was gathered goes.
            jobs.flush().await?;
            jobs.resend().await?;
            if complete && !finished && jobs.busy.is_empty() && self.sent_all(&jobs) {
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

    fn sent_all(&self, jobs: &Jobs<'_>) -> bool {
        jobs.gathering.is_none() && self.board.resends.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    async fn finish(&self) -> Result<(), Stop> {
        let tree_digest = self
            .blocking("transfer finish", |sending| {
                let digest = sending.pages.tree_digest().map_err(|error| own(&error))?;
                // Kept first: should the receiver's last word be lost, this says that it was a good one.
                let text = Digest::from_bytes(digest).to_string();
                durable::replace(&sending.folder.join(FINISHING_FILE), text.as_bytes(), 0o600)
                    .map_err(|error| own(&error))?;
                Ok(digest)
            })
            .await?;
        self.sending.frame(SenderFrame::Finish { tree_digest }).await
    }
}

/// Files and bundles that are being sent.
struct Jobs<'a> {
    part: &'a Part<'a>,
    busy: FuturesUnordered<BoxFuture<'static, Result<(), Stop>>>,
    bundle: Bundle,
    asked: BitSet,
    gathering: Option<Gathering>,
}

impl Jobs<'_> {
    async fn wanted(&mut self, wanted: Wanted) -> Result<(), Stop> {
        let sending = Arc::clone(self.part.sending);
        if sending.options.dry_run {
            return Err(Stop::violation("a dry run moves nothing"));
        }
        for (part, entry) in self.with_entries(wanted).await? {
            let (index, more) = (part.file, part.more);
            let entry = entry.filter(|entry| matches!(entry.kind, Kind::File { .. }));
            let entry = entry.ok_or_else(|| Stop::violation("the receiver asks for what is no file"))?;
            if self.gathering.is_none() && !self.asked.insert(index) {
                return Err(Stop::violation("the receiver asks for a file twice"));
            }
            let gathering = Gathering::add(self.gathering.take(), part, &entry)?;
            if more {
                self.gathering = Some(gathering);
                continue;
            }
            if entry.size() <= SMALL_FILE_BYTES {
                if let Some(full) = self.bundle.push(index, entry) {
                    self.send_bundle(full).await?;
                }
            } else {
                let wish = gathering.finish(entry)?;
                self.start("transfer file", file::send(Arc::clone(&sending), wish), FILES).await?;
            }
        }
        Ok(())
    }

    /// What is wanted, with what the manifest says of it.
    async fn with_entries(&mut self, wanted: Wanted) -> Result<Vec<(WantedFile, Option<Entry>)>, Stop> {
        let find = move |sending: &Arc<Sending>| {
            let entry = |file: WantedFile| sending.pages.entry(file.file).map(|entry| (file, entry));
            wanted.files.into_iter().map(entry).collect::<io::Result<_>>().map_err(|error| own(&error))
        };
        self.part.blocking("transfer entries", find).await
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        match self.bundle.take() {
            Some(bundle) => self.send_bundle(bundle).await,
            None => Ok(()),
        }
    }

    async fn send_bundle(&mut self, bundle: Bundle) -> Result<(), Stop> {
        let sending = Arc::clone(self.part.sending);
        let room = sending.room(bundle.bytes()).await?;
        let send = async move {
            let sent = bundle::send(sending, bundle).await;
            drop(room);
            sent
        };
        self.start("transfer bundle", send, JOBS).await
    }

    async fn resend(&mut self) -> Result<(), Stop> {
        let resends = std::mem::take(&mut *self.part.board.resends.lock().unwrap_or_else(PoisonError::into_inner));
        for (file, segment) in resends {
            let again = file::send_again(Arc::clone(self.part.sending), file, segment);
            self.start("transfer segment again", again, JOBS).await?;
        }
        Ok(())
    }

    /// Starts a job, once there are fewer than so many.
    async fn start(
        &mut self,
        name: &'static str,
        job: impl Future<Output = Result<(), Stop>> + Send + 'static,
        at_most: usize,
    ) -> Result<(), Stop> {
        while self.busy.len() >= at_most {
            if let Some(done) = self.busy.next().await {
                done?;
            }
        }
        let run = self.part.sending.group.run(name, job);
        self.busy.push(run.map(|done| done.unwrap_or_else(|Cancelled| Err(stopping()))).boxed());
        Ok(())
    }
}

fn walk_sources(sending: &Sending, board: &Board, excludes: &Excludes) -> Result<(), Stop> {
    let mut pages = Pages { sending, board, builder: PageBuilder::default(), reader: PageReader::default() };
    let mut stopped = Ok(());
    let mut incomplete = false;
    walk(&sending.sources, excludes, &mut |found| {
        let result = match found {
            Found::Entry(entry) => {
                add(&sending.tally.files_total, 1);
                add(&sending.tally.bytes_total, entry.size());
                pages.builder.push(&entry).map_or(Ok(()), |page| pages.page(page))
            }
            Found::Issue(issue) => {
                incomplete |= issue.hides_entries;
                sending.tally.found_issue(&issue);
                Ok(())
            }
        };
        match result {
            Ok(()) if !sending.group.is_cancelled() => ControlFlow::Continue(()),
            Ok(()) => {
                stopped = Err(stopping());
                ControlFlow::Break(())
            }
            Err(stop) => {
                stopped = Err(stop);
                ControlFlow::Break(())
            }
        }
    });
    stopped?;
    if let Some(page) = pages.builder.finish() {
        pages.page(page)?;
    }
    let end = ManifestEnd {
        entries: pages.reader.entries(),
        bytes: pages.reader.bytes(),
        digest: pages.reader.digest(),
        issues: sending.tally.issues(),
        issue_count: sending.tally.issue_count(),
        contents: sending.sources.has_contents(),
        incomplete,
    };
    sending.tally.totals_final.store(true, Relaxed);
    sending.frames.blocking_send(SenderFrame::ManifestEnd(end)).map_err(|_closed| stopping())
}

struct Pages<'a> {
    sending: &'a Sending,
    board: &'a Board,
    builder: PageBuilder,
    reader: PageReader,
}

impl Pages<'_> {
    fn page(&mut self, page: ManifestPage) -> Result<(), Stop> {
        // Through the other end's own check: what would be refused there is found here.
        self.reader.next_page(page.clone())?;
        self.sending.pages.append(&page).map_err(|error| own(&error))?;
        self.board.pages.fetch_add(1, Relaxed);
        self.sending.frames.blocking_send(SenderFrame::Page(page)).map_err(|_closed| stopping())
    }
}
