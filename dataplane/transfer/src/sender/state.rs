//! What the parts of one attempt to send share.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use dataplane_hde::Encoding;
use foundation_runtime::TaskGroup;
use proto_model::{Digest, PublicKey, RootPath, TransferOptions};
use proto_wire::{
    frames::{FileAborted, SenderFrame},
    manifest::Mtime,
    piece::Header,
};
use tokio::sync::{Semaphore, mpsc};

use super::{
    answers::Answers,
    buffers::Buffer,
    encoders::{Worker, threads},
    keep::{Basis, Unheard},
    leaning::Leaning,
    link_rate::LinkRate,
};
use crate::{
    bit_set::BitSet,
    confine::{mode, mtime, size},
    fates::Fate,
    file_hash::Division,
    link::PiecesOut,
    page_store::PageStore,
    receiver::stopping,
    service::Shared,
    source::Sources,
    stop::Stop,
    tally::{Tally, add},
    versions::Kept,
};

/// One attempt at its sender.
pub(super) struct Sending {
    pub(super) shared: Arc<Shared>,
    pub(super) group: TaskGroup,
    pub(super) options: TransferOptions,
    pub(super) sources: Sources,
    pub(super) folder: PathBuf,
    pub(super) pages: PageStore,
    pub(super) answers: Answers,
    pub(super) segment_bytes: u32,
    /// Whether large files have longer ones; not known before the receiver's consent, and neither is the next.
    pub(super) grows: AtomicBool,
    /// Whether the receiver understands what is said of holes.
    pub(super) tells_holes: bool,
    /// Whether both ends may say what they know of versions.
    pub(super) deltas: bool,
    /// Dictionaries of small files, where both ends use them.
    pub(super) leaning: Option<Leaning>,
    /// Whether the receiver takes them; not known before its consent.
    pub(super) leans: AtomicBool,
    /// Whether the receiver decodes what refers to earlier segments of the same file.
    pub(super) history: AtomicBool,
    pub(super) tally: Arc<Tally>,
    pub(super) frames: mpsc::Sender<SenderFrame>,
    pub(super) pieces: Arc<dyn PiecesOut>,
    pub(super) next_piece: AtomicU64,
    /// KiB that may be under way.
    pub(super) window: Arc<Semaphore>,
    window_kib: AtomicU32,
    /// Whether the receiver has consented.
    pub(super) has_consent: AtomicBool,
    /// Whether the receiver was told that all was sent.
    pub(super) is_finished: AtomicBool,
    /// Bytes of pieces under way.
    pub(super) unacknowledged: AtomicU64,
    /// Blocking threads that read and encode.
    pub(super) threads: Semaphore,
    /// Who receives, and where.
    pub(super) peer: PublicKey,
    pub(super) destination: RootPath,
    /// Whether it is sent again and again.
    pub(super) is_standing: bool,
    /// Files that have an older version at the receiver.
    bases: Mutex<HashMap<u64, Basis>>,
    /// Versions that the receiver was told of, by what it was told.
    announced: Mutex<HashMap<u64, Kept>>,
    /// Segments that the receiver asked for again, of files without one.
    asked_again: Mutex<HashMap<u64, u32>>,
    /// Files that the receiver has put in place.
    published: Mutex<BitSet>,
    /// Those that it may have put in place in earlier attempts.
    pub(super) unheard: Unheard,
    /// What the path carries.
    pub(super) link: LinkRate,
    pub(super) thread_count: usize,
    /// Files that were read a second time.
    pub(super) second: Mutex<HashSet<u64>>,
    /// Something came from the receiver, or was taken by it.
    pub(super) alive: AtomicBool,
}

/// Segments of one file that may fail before the rest of it refers to nothing: one or two are bits that flipped on the way.
const MAX_FAILED: u32 = 3;

/// A file as it is when it is opened; when it is not the same at the end, what was read is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
    inode: (u64, u64),
}

impl Seen {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self { size: size(&stat), mode: mode(&stat), mtime: mtime(&stat), inode: (stat.st_dev, stat.st_ino) })
    }
}

/// Everything that [`Sending`] is made of and does not make itself.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) group: TaskGroup,
    pub(super) options: TransferOptions,
    pub(super) sources: Sources,
    pub(super) folder: PathBuf,
    pub(super) tally: Arc<Tally>,
    pub(super) frames: mpsc::Sender<SenderFrame>,
    pub(super) pieces: Arc<dyn PiecesOut>,
    pub(super) segment_bytes: u32,
    pub(super) grows: bool,
    pub(super) window_bytes: u64,
    pub(super) has_consent: bool,
    pub(super) unheard: Unheard,
    pub(super) tells_holes: bool,
    pub(super) deltas: bool,
    pub(super) leaning: Option<Leaning>,
    pub(super) history: bool,
    pub(super) peer: PublicKey,
    pub(super) destination: RootPath,
    pub(super) is_standing: bool,
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes / 1024).unwrap_or(u32::MAX)
}

impl Sending {
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        let threads = threads();
        let window_kib = kib(parts.window_bytes);
        Ok(Self {
            pages: PageStore::create(&parts.folder)?,
            answers: Answers::create(&parts.folder)?,
            shared: parts.shared,
            group: parts.group,
            options: parts.options,
            sources: parts.sources,
            folder: parts.folder,
            segment_bytes: parts.segment_bytes,
            grows: AtomicBool::new(parts.grows),
            tells_holes: parts.tells_holes,
            deltas: parts.deltas,
            leaning: parts.leaning,
            leans: AtomicBool::new(parts.has_consent),
            history: AtomicBool::new(parts.history),
            peer: parts.peer,
            destination: parts.destination,
            is_standing: parts.is_standing,
            bases: Mutex::default(),
            announced: Mutex::default(),
            asked_again: Mutex::default(),
            published: Mutex::default(),
            unheard: parts.unheard,
            tally: parts.tally,
            frames: parts.frames,
            pieces: parts.pieces,
            next_piece: AtomicU64::new(0),
            window: Arc::new(Semaphore::new(usize::try_from(window_kib).unwrap_or(usize::MAX))),
            window_kib: AtomicU32::new(window_kib),
            has_consent: AtomicBool::new(parts.has_consent),
            is_finished: AtomicBool::new(false),
            unacknowledged: AtomicU64::new(0),
            threads: Semaphore::new(threads),
            link: LinkRate::default(),
            thread_count: threads,
            second: Mutex::default(),
            alive: AtomicBool::new(true),
        })
    }

    /// The disk of this host's own folder fails.
    pub(super) fn own(&self, error: &io::Error) -> Stop {
        self.shared.own("sender", error)
    }

    /// Runs work on a blocking thread.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(&Arc<Self>) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Stop> {
        let sending = Arc::clone(self);
        self.group.blocking(name, move || work(&sending)).await.unwrap_or_else(|_cancelled| Err(stopping()))
    }

    /// Waits, but not longer than the attempt goes on.
    pub(super) async fn unless_cancelled<T>(&self, waiting: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            done = waiting => Ok(done),
            () = self.group.cancelled() => Err(stopping()),
        }
    }

    /// Runs work with a worker on a blocking thread, when one is free.
    pub(super) async fn on_worker<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(&Self, &mut Worker) -> T + Send + 'static,
    ) -> Result<T, Stop> {
        let _thread = self.unless_cancelled(self.threads.acquire()).await?.map_err(|_closed| stopping())?;
        let place = self.unless_cancelled(self.shared.encoders.place()).await?.ok_or_else(stopping)?;
        let sending = Arc::clone(self);
        let run = move || {
            let encoders = &sending.shared.encoders;
            let mut worker = encoders.take(&place);
            let result = work(&sending, &mut worker);
            encoders.give(worker);
            result
        };
        self.group.blocking(name, run).await.map_err(|_cancelled| stopping())
    }

    /// How files are divided.
    pub(super) fn division(&self) -> Division {
        Division { segment_bytes: self.segment_bytes, grows: self.grows.load(Relaxed) }
    }

    /// Takes room of the window for so many bytes.
    pub(super) async fn room(&self, bytes: usize) -> Result<tokio::sync::OwnedSemaphorePermit, Stop> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, self.window_kib.load(Relaxed));
        let room = Arc::clone(&self.window).acquire_many_owned(kib);
        self.unless_cancelled(room).await?.map_err(|_closed| stopping())
    }

    /// The receiver offers a window of so many bytes: never less than there is.
    pub(super) fn widen(&self, window_bytes: u64) {
        let before = self.window_kib.fetch_max(kib(window_bytes), Relaxed);
        let more = kib(window_bytes).saturating_sub(before);
        self.window.add_permits(usize::try_from(more).unwrap_or_default());
    }

    /// Whether no further segment may be read: as much is under way as may be.
    pub(super) fn window_is_full(&self) -> bool {
        let segment_kib = usize::try_from(self.division().longest() / 1024).unwrap_or(usize::MAX);
        self.window.available_permits() < segment_kib
    }

    /// Sends an encoded segment, before which there is room for the header; resolves when all of it is acknowledged.
    pub(super) async fn send_pieces(&self, header: Header, room_and_encoded: Buffer) -> Result<(), Stop> {
        // All parts at once: one after another they would take a round trip each.
        let parts = header.pieces(room_and_encoded)?.into_iter().map(|piece| self.send_piece(piece));
        futures::future::try_join_all(parts).await.map(|_all| ())
    }

    async fn send_piece(&self, piece: Bytes) -> Result<(), Stop> {
        let len = u64::try_from(piece.len()).unwrap_or_default();
        let number = self.next_piece.fetch_add(1, Relaxed);
        add(&self.unacknowledged, len);
        self.unless_cancelled(self.pieces.send(number, piece)).await??;
        // Else it was counted at the end.
        let taken = self.unacknowledged.fetch_update(Relaxed, Relaxed, |bytes| bytes.checked_sub(len));
        if taken.is_ok() {
            add(&self.tally.bytes_sent, len);
        }
        self.alive.store(true, Relaxed);
        Ok(())
    }

    pub(super) fn bases(&self) -> MutexGuard<'_, HashMap<u64, Basis>> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dictionaries that the receiver takes.
    pub(super) fn leaning(&self) -> Option<&Leaning> {
        self.leaning.as_ref().filter(|_| self.leans.load(Relaxed))
    }

    pub(super) fn announced(&self) -> MutexGuard<'_, HashMap<u64, Kept>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is sent against a version that is kept here.
    pub(super) fn refers_to(&self, file: u64, version: Digest) {
        self.bases().entry(file).or_default().version = Some(version);
    }

    /// The receiver has an older version of a file.
    pub(super) fn replaces(&self, file: u64) {
        self.bases().entry(file).or_default();
    }

    /// The receiver says what its older version of a file is.
    pub(super) fn is_described(&self, file: u64) {
        self.bases().entry(file).or_default().described = true;
    }

    /// A file is sent against a basis.
    pub(super) fn has_basis(&self, file: u64) {
        self.bases().entry(file).or_default().used = true;
    }

    /// So many bytes of a segment of such a file refer to it, and so many are no references.
    pub(super) fn refers(&self, file: u64, segment: u64, (referenced, literal): (u64, u64)) {
        let mut bases = self.bases();
        let basis = bases.entry(file).or_default();
        basis.used = true;
        basis.literal += literal;
        basis.refers(segment, referenced);
    }

    /// The basis of a file is another file, and stays.
    pub(super) fn is_elsewhere(&self, file: u64) {
        self.bases().entry(file).or_default().elsewhere = true;
    }

    /// A segment of a file did not verify at the receiver. What is kept of its old version may be damaged: it is read.
    pub(super) fn did_not_verify(&self, file: u64) {
        let version = match self.bases().get_mut(&file).filter(|basis| basis.used) {
            Some(basis) => {
                basis.failed += 1;
                basis.version.take()
            }
            None => {
                // What refers to earlier segments may have come where these were not held, and there was no memory for it to wait.
                *self.asked_again().entry(file).or_default() += 1;
                return;
            }
        };
        self.fell_back("not_verified");
        if let Some(version) = version {
            let versions = self.shared.versions.clone();
            // What is found is said there.
            drop(self.shared.tasks.blocking("verify a version", move || versions.verify(version)));
        }
    }

    /// Whether so much of a file did not verify that the rest of it goes without its basis.
    pub(super) fn distrusts(&self, file: u64) -> bool {
        let failed = self.bases().get(&file).filter(|basis| basis.used).map(|basis| basis.failed);
        failed.or_else(|| self.asked_again().get(&file).copied()).is_some_and(|failed| failed >= MAX_FAILED)
    }

    fn asked_again(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.asked_again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files are in place at the receiver.
    pub(super) fn are_published(&self, files: &[u64]) {
        let entries = self.tally.files_total.load(Relaxed);
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        // What there is not takes no memory.
        for file in files.iter().filter(|file| **file < entries) {
            published.insert(*file);
        }
    }

    pub(super) fn is_published(&self, file: u64) -> bool {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).contains(file)
    }

    /// Whether versions are kept and referred to.
    pub(super) fn uses_versions(&self) -> bool {
        let options = self.shared.settings.load().hde;
        self.deltas && options.enabled && options.references
    }

    /// Counts what is sent without a basis, or with a lesser one, that there should have been.
    pub(super) fn fell_back(&self, reason: &'static str) {
        metrics::counter!("dwcp_hde_baseline_fallbacks_total", "reason" => reason).increment(1);
    }

    /// Counts what was encoded.
    pub(super) fn count(&self, encoding: &Encoding) {
        add(&self.tally.bytes_encoded_in, encoding.input_bytes);
        add(&self.tally.bytes_changed, encoding.changed_bytes);
        add(&self.tally.bytes_literal, encoding.literal_bytes);
        self.tally.reused(encoding.referenced_bytes.saturating_sub(encoding.history_bytes));
    }

    pub(super) async fn frame(&self, frame: SenderFrame) -> Result<(), Stop> {
        self.unless_cancelled(self.frames.send(frame)).await?.map_err(|_closed| stopping())
    }

    /// Gives a file up: both ends count it as left out.
    pub(super) async fn give_up(&self, file: u64, path: &[u8], reason: &str, message: String) -> Result<(), Stop> {
        self.tally.issue(path, reason, message.clone());
        self.set_fate(file, Fate::LeftOut)?;
        self.frame(SenderFrame::FileAborted(FileAborted { file, reason: reason.to_owned(), message })).await
    }

    pub(super) fn set_fate(&self, file: u64, fate: Fate) -> Result<(), Stop> {
        self.pages.set_fate(file, fate).map_err(|error| self.own(&error))
    }
}
