//! One attempt to receive: what goes on at once, and when it is over.

mod frames;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use foundation_runtime::TaskGroup;
use futures::{StreamExt, stream::FuturesUnordered};
use proto_model::{TransferRole, TransferState};
use proto_wire::frames::{Finished, ManifestEnd, Open, Opened, ReceiverFrame};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::MissedTickBehavior,
};
use tracing::field::Empty;

use super::{
    admission::{Admitted, SKEW, deadline_over},
    backlog::{Backlog, keep_journal},
    compare::Comparer,
    conclude::{clean, conclude},
    decoders::threads,
    files::{Files, Whole},
    flushes::Flushes,
    incoming::Incoming,
    parked::Parked,
    publish::{BATCH_FILES, publish},
    remains::{sender_of, until, write_down},
    state::{After, Receiving},
    stopping,
};
use crate::{
    attribution::{self, ReceiverLook},
    confine::Folder,
    ends::remove_folder,
    exclude::Excludes,
    file_hash::Division,
    journal::Journal,
    link::{ControlOut, DELTAS, DICTIONARIES, HISTORY, HOLES, LONG_SEGMENTS, Link, PiecesIn},
    orders::paused,
    page_store::PageStore,
    reason::end,
    report::{EVERY, Reporter},
    service::{Shared, Turn},
    stop::Stop,
    sync::SyncRun,
    tally::Tally,
};

/// Frames that wait to be sent.
const FRAMES: usize = 16;
/// Files that wait to be put in place: two batches.
const WHOLE_FILES: usize = 2 * BATCH_FILES;
/// How often what was written becomes durable and is written down, where it is too little to be so sooner.
const JOURNAL_EVERY: Duration = Duration::from_secs(2);
/// How often the sender hears that this end lives, also where there is nothing new to say.
const SAY_SOMETHING: Duration = Duration::from_secs(15);

pub(super) struct Attempt {
    pub(super) shared: Arc<Shared>,
    pub(super) admitted: Admitted,
    pub(super) open: Open,
    pub(super) run: Option<Arc<SyncRun>>,
    pub(super) group: TaskGroup,
}

/// What the parts of an attempt tell one another.
struct Board {
    pages: watch::Sender<usize>,
    compared: AtomicU64,
    manifest: Mutex<Option<ManifestEnd>>,
    finish: Mutex<Option<[u8; 32]>>,
    /// Rings whenever something happened that may have been the last thing.
    bell: Notify,
    /// Something came from the sender, or was done for it.
    alive: AtomicBool,
}

impl Board {
    fn ring(&self) {
        self.alive.store(true, Relaxed);
        self.bell.notify_one();
    }
}

impl Attempt {
    /// Runs the attempt, and cleans up after one that ended for good.
    pub(super) async fn run(
        self,
        link: &mut Link,
        turn: &Turn,
        reporter: &Reporter,
    ) -> (Arc<Tally>, Result<Finished, Stop>) {
        let tally = Arc::new(Tally::default());
        let group = self.group.clone();
        let (frames_tx, frames) = mpsc::channel(FRAMES);
        let (whole_tx, whole) = mpsc::channel(WHOLE_FILES);
        let numbers = Arc::clone(&tally);
        let prepared = group.blocking("transfer prepare", move || self.prepare(numbers, frames_tx, whole_tx)).await;
        let receiving = match prepared.unwrap_or_else(|_cancelled| Err(stopping())) {
            Ok(receiving) => receiving,
            Err(stop) => return (tally, Err(stop)),
        };
        let result = Box::pin(go(Arc::clone(&receiving), &group, link, turn, reporter, frames, whole)).await;
        link.take_no_more();
        if let Err(stop) = &result {
            // What is still on blocking threads ends first, so that nothing new appears behind the broom.
            let for_good = !stop.temporary;
            if group.shutdown(super::DRAIN).await.is_ok() {
                let tasks = receiving.shared.tasks.clone();
                let last = move || if for_good { clean(&receiving) } else { drop(keep_journal(&receiving, true)) };
                // Whoever stops meanwhile finds what was kept before.
                let _ended = tasks.blocking("transfer last steps", last).await;
            }
        }
        (tally, result)
    }

    fn prepare(
        self,
        tally: Arc<Tally>,
        frames: mpsc::Sender<ReceiverFrame>,
        whole: mpsc::Sender<Whole>,
    ) -> Result<Arc<Receiving>, Stop> {
        let Self { shared, admitted, open, run, .. } = self;
        let id = admitted.transfer;
        let excludes = Excludes::new(&admitted.options.exclude);
        let excludes = excludes.map_err(|error| Stop::final_(end::BAD_PATTERN, error.to_string()))?;
        let own = |error: &std::io::Error| shared.own("receiver", error);
        if sender_of(&shared, id).is_some_and(|sender| sender != admitted.sender) {
            // Whoever named this transfer his own had no grant: it is its sender's now.
            remove_folder(&shared.folder.of(id, TransferRole::Receiver)).map_err(|error| own(&error))?;
        }
        let folder = shared.folder.make(id, TransferRole::Receiver).map_err(|error| own(&error))?;
        let now = shared.clock.utc();
        let last = until(admitted.not_after, now);
        let last = admitted.options.deadline.map_or(last, |deadline| deadline.min(last));
        let note = (&admitted.destination, admitted.sender, last);
        write_down(&folder, note, admitted.grant).map_err(|error| own(&error))?;
        let journal = Journal::open(&folder).map_err(|error| own(&error))?;
        let backlog = Arc::new(Backlog::default());
        let pages = PageStore::create(&folder).map_err(|error| own(&error))?;
        let stat = admitted.target.as_ref().map(Folder::own_stat).transpose().map_err(|error| own(&error))?;
        let has = |name| open.features.iter().any(|feature| feature == name);
        Ok(Arc::new(Receiving {
            id,
            options: admitted.options,
            run,
            excludes,
            division: Division { segment_bytes: open.segment_bytes, grows: has(LONG_SEGMENTS) },
            tells_holes: has(HOLES),
            deltas: has(DELTAS),
            takes_history: has(HISTORY),
            is_offered: has(DICTIONARIES),
            leans: shared.settings.load().dictionary_bytes.bytes() > 0 && has(DICTIONARIES),
            dictionaries: Mutex::default(),
            sender: admitted.sender,
            destination: admitted.destination,
            target: admitted.target,
            device: stat.map_or(0, |stat| stat.st_dev),
            pages,
            resuming: journal.is_resuming(),
            not_after: until(admitted.not_after, now),
            journal: Mutex::new(journal),
            files: Mutex::new(Files::new(Arc::clone(&backlog))),
            backlog,
            flushes: Flushes::default(),
            tally,
            promised: AtomicU64::new(0),
            wanted_bytes: AtomicU64::new(0),
            missing_bytes: AtomicU64::new(0),
            frames,
            whole,
            left_out: Mutex::default(),
            shared,
        }))
    }
}

/// Receives until the tree is concluded, or something stops it.
async fn go(
    receiving: Arc<Receiving>,
    group: &TaskGroup,
    link: &mut Link,
    turn: &Turn,
    reporter: &Reporter,
    frames: mpsc::Receiver<ReceiverFrame>,
    whole: mpsc::Receiver<Whole>,
) -> Result<Finished, Stop> {
    let board = Board {
        pages: watch::Sender::new(0),
        compared: AtomicU64::new(0),
        manifest: Mutex::default(),
        finish: Mutex::default(),
        bell: Notify::new(),
        alive: AtomicBool::new(true),
    };
    let window = receiving.shared.settings.load().receive_window.bytes();
    let offered = [
        (receiving.tells_holes, HOLES),
        (receiving.deltas, DELTAS),
        (receiving.leans, DICTIONARIES),
        (receiving.division.grows, LONG_SEGMENTS),
        (receiving.takes_history, HISTORY),
    ];
    let features = offered.into_iter().filter(|(offered, _)| *offered).map(|(_, name)| name.to_owned()).collect();
    let opened = Opened { features, receive_window_bytes: window, resuming: receiving.resuming };
    let part = Part { receiving: &receiving, group, board: &board };
    let incoming = Arc::new(Incoming::default());
    let parts = async {
        tokio::try_join!(
            part.read_frames(link.control_in.as_mut()),
            part.write_frames(link.control_out.as_mut(), opened, frames),
            part.compare(),
            part.take_pieces(link.pieces_in.as_mut(), &incoming),
            part.publish(whole),
            part.keep_journal(),
            part.report(reporter, &link.path),
            part.watch_for_stalls(),
            part.attribute(),
        )
    };
    // One span for all decoding, with its sums.
    let span = tracing::info_span!("hde decode", dwcp.hde.input_bytes = Empty, dwcp.hde.output_bytes = Empty);
    let result = tokio::select! {
        stopped = parts => Err(stopped.map(|_never| stopping()).unwrap_or_else(|stop| stop)),
        finished = part.conclude() => finished,
        () = turn.cancel.cancelled() => Err(Stop::final_(end::CANCELLED, "the transfer was cancelled")),
        () = receiving.shared.orders.until(receiving.id, TransferRole::Receiver, true) => Err(paused()),
        () = turn.superseded.cancelled() => Err(Stop::temporary(end::BUSY, "the sender opened the transfer anew")),
        () = receiving.shared.tasks.cancelled() => Err(stopping()),
    };
    incoming.record(&span);
    result
}

/// What is to be decoded.
enum Came {
    Piece(Bytes),
    /// A segment that waited.
    Ready(Parked),
}

/// What each part of an attempt has at hand. All end only with an error, or not at all.
struct Part<'a> {
    receiving: &'a Arc<Receiving>,
    group: &'a TaskGroup,
    board: &'a Board,
}

impl Part<'_> {
    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&Arc<Receiving>) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Stop> {
        let receiving = Arc::clone(self.receiving);
        self.group.blocking(name, move || work(&receiving)).await.unwrap_or_else(|_cancelled| Err(stopping()))
    }

    async fn write_frames(
        &self,
        control: &mut dyn ControlOut,
        opened: Opened,
        mut frames: mpsc::Receiver<ReceiverFrame>,
    ) -> Result<(), Stop> {
        let patience = self.receiving.shared.settings.load().stall_timeout;
        control.send(&ReceiverFrame::Opened(opened).encode()).await?;
        while let Some(frame) = frames.recv().await {
            let sent = tokio::time::timeout(patience, control.send(&frame.encode())).await;
            sent.map_err(|_elapsed| Stop::temporary(end::STALLED, "the sender takes nothing that is said to it"))??;
        }
        std::future::pending().await
    }

    async fn compare(&self) -> Result<(), Stop> {
        let mut pages = self.board.pages.subscribe();
        let mut comparer = Comparer::new(Arc::clone(self.receiving));
        for number in 0.. {
            if pages.wait_for(|pages| *pages > number).await.is_err() {
                break;
            }
            comparer = self
                .blocking("transfer compare", move |receiving| {
                    if let Some(page) = receiving.pages.page(number).map_err(|error| receiving.own(&error))? {
                        comparer.page(&page)?;
                    }
                    Ok(comparer)
                })
                .await?;
            self.board.compared.fetch_add(1, Relaxed);
            self.board.ring();
        }
        std::future::pending().await
    }

    async fn take_pieces(&self, pieces: &mut dyn PiecesIn, incoming: &Arc<Incoming>) -> Result<(), Stop> {
        let threads = threads();
        let mut busy = FuturesUnordered::new();
        let mut open = true;
        loop {
            let room = self.receiving.backlog.has_room();
            if room
                && busy.len() < threads
                && let Some(ready) = incoming.next_ready()
            {
                busy.push(self.take(Arc::clone(incoming), Came::Ready(ready)));
                continue;
            }
            tokio::select! {
                piece = pieces.recv(), if room && open && busy.len() < threads => match piece {
                    Some(piece) => busy.push(self.take(Arc::clone(incoming), Came::Piece(piece))),
                    // The control stream says why.
                    None => open = false,
                },
                Some(taken) = busy.next() => {
                    taken?;
                    self.board.ring();
                }
                () = self.receiving.backlog.freed(), if !room => {}
                else => std::future::pending().await,
            }
        }
    }

    async fn take(&self, incoming: Arc<Incoming>, came: Came) -> Result<(), Stop> {
        let Some(place) = self.receiving.shared.decoders.place().await else { return Err(stopping()) };
        let take = move |receiving: &Arc<Receiving>| match came {
            Came::Piece(piece) => incoming.piece(receiving, &piece, &place),
            Came::Ready(whole) => incoming.whole(receiving, &whole, &place),
        };
        let after = self.blocking("transfer piece", take).await?;
        self.receiving.follow_up(after).await
    }

    async fn publish(&self, mut whole: mpsc::Receiver<Whole>) -> Result<(), Stop> {
        let mut batch = Vec::new();
        // What comes while one batch is put in place is the next batch.
        while whole.recv_many(&mut batch, BATCH_FILES).await > 0 {
            let ready = std::mem::take(&mut batch);
            self.blocking("transfer publish", move |receiving| publish(receiving, ready)).await?;
            self.board.ring();
        }
        std::future::pending().await
    }

    async fn keep_journal(&self) -> Result<(), Stop> {
        let mut turns = tokio::time::interval(JOURNAL_EVERY);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let of_all = tokio::select! {
                _now = turns.tick() => true,
                () = self.receiving.backlog.is_due() => false,
            };
            self.blocking("transfer journal", move |receiving| keep_journal(receiving, of_all)).await?;
        }
    }

    /// Adds up what holds this end up.
    async fn attribute(&self) -> Result<(), Stop> {
        let receiving = self.receiving;
        let look = || {
            attribution::of_receiver(&ReceiverLook {
                disk_is_behind: !receiving.backlog.has_room(),
                decoders_busy: receiving.shared.decoders.are_busy(),
            })
        };
        receiving.tally.attribution.keep(&receiving.shared.clock, look).await
    }

    async fn report(&self, reporter: &Reporter, path: &super::super::link::PathOf) -> Result<(), Stop> {
        let (tally, clock) = (&self.receiving.tally, &self.receiving.shared.clock);
        let (mut said, mut said_at) = ((0, 0), clock.now());
        loop {
            reporter.say(TransferState::Running, tally, path(), None);
            let now = (tally.bytes_done.load(Relaxed), tally.files_done.load(Relaxed));
            if now != said || clock.now().saturating_duration_since(said_at) >= SAY_SOMETHING {
                let (bytes_verified, files_published) = now;
                // Where the sender does not read, this may wait for the next time.
                let frame = ReceiverFrame::Progress { bytes_verified, files_published };
                if self.receiving.frames.try_send(frame).is_ok() {
                    (said, said_at) = (now, clock.now());
                }
            }
            if self.receiving.not_after + SKEW < clock.utc() {
                return Err(Stop::final_(end::GRANT_EXPIRED, "the grant ended while the transfer went on"));
            }
            if let Some(over) = deadline_over(&self.receiving.options, clock.utc()) {
                return Err(over);
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn watch_for_stalls(&self) -> Result<(), Stop> {
        let patience = self.receiving.shared.settings.load().stall_timeout;
        loop {
            self.board.alive.store(false, Relaxed);
            tokio::time::sleep(patience).await;
            let comparing = self.board.compared.load(Relaxed) < self.pages_so_far();
            if !self.board.alive.load(Relaxed) && !comparing {
                let message = format!("nothing came from the sender for {} s", patience.as_secs());
                return Err(Stop::temporary(end::STALLED, message));
            }
        }
    }

    fn pages_so_far(&self) -> u64 {
        u64::try_from(self.receiving.pages.pages()).unwrap_or(u64::MAX)
    }

    /// Waits until everything is in place, then concludes.
    async fn conclude(&self) -> Result<Finished, Stop> {
        loop {
            if let Some((manifest, digest)) = self.complete() {
                return self
                    .blocking("transfer conclude", move |receiving| conclude(receiving, &manifest, &digest))
                    .await;
            }
            self.board.bell.notified().await;
        }
    }

    fn complete(&self) -> Option<(ManifestEnd, [u8; 32])> {
        let manifest = self.manifest()?;
        let digest = (*self.board.finish.lock().unwrap_or_else(PoisonError::into_inner))?;
        let compared = self.board.compared.load(Relaxed) == self.pages_so_far();
        (compared && self.receiving.files().outstanding == 0).then_some((manifest, digest))
    }
}
