//! One file that is sent in segments.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};

use dataplane_hde::{Basis, FileAt, HistoryUse, LAG, Version};
use foundation_runtime::Cancelled;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use proto_wire::{
    frames::{FileEnd, SenderFrame},
    manifest::{Entry, Kind},
    piece::SMALL_FILE_BYTES,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    baselines,
    board::Unsaid,
    bundle,
    course::Course,
    gathering::Offer,
    known::{KNOWN_AT_ONCE, send_known, send_known_at_once},
    segment::{Prepared, Task, prepare},
    state::{Seen, Sending},
};
use crate::{
    fates::{Fate, Moved},
    file_hash::{FileHasher, Segments},
    intervals::Intervals,
    reason::issue,
    receiver::stopping,
    stop::Stop,
};

/// A file that changes while it is read is read once more.
const ATTEMPTS: u8 = 2;

/// A file that the receiver wants, and what it said of it.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) file: u64,
    pub(super) entry: Entry,
    pub(super) held: Vec<(u64, [u8; 32])>,
    pub(super) offer: Offer,
    /// What is offered is of another file.
    pub(super) elsewhere: bool,
}

/// Why one reading of a file came to nothing.
enum Failed {
    /// The file's fault: it is given up.
    Unreadable(io::Error),
    /// It changed: it is read once more.
    Changed,
    /// The transfer ends.
    Stopped(Stop),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

/// Sends a file, however often it has to be read.
pub(super) async fn send(sending: Arc<Sending>, wish: Wish, unsaid: Unsaid) -> Result<(), Stop> {
    send_from(sending, wish, 0, Some(unsaid)).await
}

/// The same, from the second reading on where the first one was elsewhere.
pub(super) async fn send_from(
    sending: Arc<Sending>,
    wish: Wish,
    first: u8,
    mut unsaid: Option<Unsaid>,
) -> Result<(), Stop> {
    let path = wish.entry.path.as_bytes();
    let basis = baselines::basis(&sending, &wish).await?;
    for attempt in first..ATTEMPTS {
        match Box::pin(read_once(&sending, &wish, &basis.basis, attempt, &mut unsaid)).await {
            Ok(()) => return Ok(()),
            Err(Failed::Stopped(stop)) => return Err(stop),
            Err(Failed::Unreadable(error)) => {
                return sending.give_up(wish.file, path, issue::UNREADABLE, error.to_string()).await;
            }
            Err(Failed::Changed) => sending.take_all_back(wish.file),
        }
    }
    let message = "it changed twice while it was read; send again when it rests".to_owned();
    sending.give_up(wish.file, path, issue::CHANGED_WHILE_READ, message).await
}

async fn open(sending: &Arc<Sending>, entry: &Entry) -> Result<(Arc<File>, Seen), Failed> {
    let (at, path) = (Arc::clone(sending), entry.path.clone());
    let opened = sending.group.blocking("transfer open", move || {
        let file = at.sources.read(&path)?;
        let seen = Seen::of(&file)?;
        Ok((Arc::new(file), seen))
    });
    opened.await.map_err(|Cancelled| Failed::Stopped(stopping()))?.map_err(Failed::Unreadable)
}

async fn read_once(
    sending: &Arc<Sending>,
    wish: &Wish,
    basis: &Basis,
    attempt: u8,
    unsaid: &mut Option<Unsaid>,
) -> Result<(), Failed> {
    let (source, seen) = open(sending, &wish.entry).await?;
    let as_promised = seen.size == wish.entry.size() && seen.mtime == wish.entry.mtime;
    if attempt == 0 && !as_promised {
        return Err(Failed::Changed);
    }
    if seen.size <= SMALL_FILE_BYTES && attempt > 0 {
        // It shrank: now it travels as small files do.
        let sent = bundle::send_one(sending, wish.file, wish.entry.clone()).await?;
        return if sent { Ok(()) } else { Err(Failed::Changed) };
    }
    if attempt > 0 {
        sending.second.lock().unwrap_or_else(PoisonError::into_inner).insert(wish.file);
    }
    let segments = sending.division().of(seen.size);
    let version = |basis| version(sending, basis, segments, &source).map_err(Failed::Unreadable);
    let (version, plain) = (version(basis.clone())?, version(Basis::Nothing)?);
    let (history, _memory) = history(sending, basis, segments, &source).map_err(Failed::Unreadable)?;
    let course = Arc::new(Course::new(history.is_some()));
    let (version, source_at) = (history.unwrap_or(version), Arc::clone(&source));
    let task = Task { file: wish.file, source: source_at, segments, segment: 0, attempt, version, plain, course };
    let (root, mut under_way) = Reading::new(sending, wish, task).run().await?;
    let after = Seen::of(&source).map_err(Failed::Unreadable)?;
    if after != seen {
        return Err(Failed::Changed);
    }
    let moved = Moved { root, size: seen.size, mode: seen.mode, mtime: seen.mtime };
    sending.set_fate(wish.file, Fate::Moved(moved))?;
    let entry = moved.apply(&wish.entry);
    let entry = (entry != wish.entry).then_some(entry);
    sending.frame(SenderFrame::FileEnd(FileEnd { file: wish.file, root, attempt, entry })).await?;
    // What is said need not wait for what is under way.
    drop(unsaid.take());
    while let Some(sent) = under_way.next().await {
        sent?;
    }
    Ok(())
}

/// Pieces that were handed over, until they are acknowledged.
type UnderWay = FuturesUnordered<BoxFuture<'static, Result<(), Stop>>>;

/// One reading of a file: many segments at once.
struct Reading<'a> {
    sending: &'a Arc<Sending>,
    wish: &'a Wish,
    task: Task,
    hasher: FileHasher,
    /// Segments that are read and encoded.
    busy: FuturesUnordered<BoxFuture<'static, Result<Done, Failed>>>,
    /// The same ones, until they are acknowledged.
    under_way: UnderWay,
}

/// A segment that was sent, or is known at the other end.
struct Done {
    segment: u64,
    value: [u8; 32],
}

impl<'a> Reading<'a> {
    fn new(sending: &'a Arc<Sending>, wish: &'a Wish, task: Task) -> Self {
        let (busy, under_way) = (FuturesUnordered::new(), FuturesUnordered::new());
        Self { sending, wish, hasher: FileHasher::new(task.segments), task, busy, under_way }
    }

    /// The digest of the whole, and what is under way of it still.
    async fn run(mut self) -> Result<([u8; 32], UnderWay), Failed> {
        let held = self.held()?;
        for segment in 0..self.task.segments.count() {
            if held.contains(segment) {
                self.task.version.skip(segment);
                self.task.course.is_encoded(segment);
                continue;
            }
            self.sending.unless_cancelled(self.task.course.turn(segment)).await?;
            let len = self.task.segments.len(segment).unwrap_or_default();
            let room = self.sending.room(len).await?;
            let task = Task { segment, ..self.task.clone() };
            let sending = Arc::clone(self.sending);
            let (prepared, done) = oneshot::channel();
            self.busy.push(done.map(|done| done.unwrap_or_else(|_gone| Err(stopping().into()))).boxed());
            self.start("transfer segment", async move { send_segment(&sending, task, room, prepared).await });
            while let Some(Some(done)) = self.busy.next().now_or_never() {
                self.done(&done?);
            }
            while let Some(Some(sent)) = self.under_way.next().now_or_never() {
                sent?;
            }
        }
        while let Some(done) = self.busy.next().await {
            self.done(&done?);
        }
        let (sending, task) = (Arc::clone(self.sending), self.task.clone());
        self.start("transfer known", async move { send_known(&sending, &task, task.course.take_known()).await });
        let root = self.hasher.root().ok_or_else(|| Stop::violation("the segments do not make the file"))?;
        Ok((root, self.under_way))
    }

    fn start(&mut self, name: &'static str, send: impl Future<Output = Result<(), Stop>> + Send + 'static) {
        let run = self.sending.group.run(name, send);
        self.under_way.push(run.map(|sent| sent.unwrap_or_else(|Cancelled| Err(stopping()))).boxed());
    }

    /// What the receiver holds of this reading.
    fn held(&mut self) -> Result<Intervals, Failed> {
        let mut held = Intervals::default();
        // Of a second reading the receiver holds nothing: what it holds is of the first.
        for (segment, value) in self.wish.held.iter().filter(|_| self.task.attempt == 0) {
            if self.task.segments.len(*segment).is_none() || !held.insert(*segment) {
                return Err(Stop::violation("the receiver holds segments that there are not").into());
            }
            self.hasher.add(*segment, *value);
        }
        let bytes = self.wish.held.iter().filter_map(|(segment, _)| self.task.segments.len(*segment));
        let bytes: usize = if self.task.attempt == 0 { bytes.sum() } else { 0 };
        crate::tally::add(&self.sending.tally.bytes_reused, u64::try_from(bytes).unwrap_or_default());
        Ok(held)
    }

    fn done(&mut self, done: &Done) {
        self.hasher.add(done.segment, done.value);
    }
}

/// Reads and encodes a segment, says what it came to, and sends it.
async fn send_segment(
    sending: &Arc<Sending>,
    task: Task,
    mut room: OwnedSemaphorePermit,
    prepared: oneshot::Sender<Result<Done, Failed>>,
) -> Result<(), Stop> {
    let (segment, at) = (task.segment, task.clone());
    let encode = sending.on_worker("transfer encode", move |sending, worker| prepare(sending, worker, &at)).await?;
    let (done, piece, untold) = match encode {
        Ok(Prepared::Known { value, untold }) => (Ok(Done { segment, value }), None, untold),
        Ok(Prepared::Encoded { header, encoded, uses_history }) => {
            (Ok(Done { segment, value: header.value }), Some((header, encoded, uses_history)), 0)
        }
        // It is shorter than it was.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => (Err(Failed::Changed), None, 0),
        Err(error) => (Err(Failed::Unreadable(error)), None, 0),
    };
    // Who does not hear it has given the reading up.
    drop(prepared.send(done));
    if let Some((header, encoded, uses_history)) = piece {
        // What encoding saved is room for others.
        drop(room.split(room.num_permits().saturating_sub(encoded.as_ref().len().div_ceil(1024))));
        // What it refers to may be among them; told at once, since the receiver waits for all.
        let known = if uses_history { task.course.take_known() } else { Vec::new() };
        let known = send_known_at_once(sending, &task, known);
        tokio::try_join!(known, sending.send_pieces(header, encoded))?;
    } else if untold >= KNOWN_AT_ONCE {
        drop(room);
        send_known(sending, &task, task.course.take_known()).await?;
    }
    Ok(())
}

fn version(sending: &Sending, basis: Basis, segments: Segments, source: &File) -> io::Result<Arc<Version>> {
    let options = sending.shared.settings.load().hde;
    let version = Version::new(options, basis, segments.file_bytes, segments.segment_bytes, HistoryUse::None);
    let version = version.read_from(Arc::new(FileAt::new(source.try_clone()?)?));
    Ok(Arc::new(version.linked(sending.link.of_each(sending.thread_count))))
}

/// The version whose segments refer to earlier ones, and the memory of that: for a file that has nothing else to refer to, and
/// enough segments.
fn history(
    sending: &Sending,
    basis: &Basis,
    segments: Segments,
    source: &File,
) -> io::Result<(Option<Arc<Version>>, Option<OwnedSemaphorePermit>)> {
    let options = sending.shared.settings.load().hde;
    let wanted = sending.history.load(Relaxed)
        && options.enabled
        && matches!(basis, Basis::Nothing)
        && segments.count() > 2 * LAG;
    // Where others have it all, it only costs bytes.
    let Some(memory) = wanted.then(|| baselines::index_memory(sending, segments.file_bytes)).flatten() else {
        return Ok((None, None));
    };
    let whole = HistoryUse::Whole(Arc::new(FileAt::new(source.try_clone()?)?));
    let version = Version::new(options, Basis::Nothing, segments.file_bytes, segments.segment_bytes, whole);
    Ok((Some(Arc::new(version.linked(sending.link.of_each(sending.thread_count)))), Some(memory)))
}

/// Sends a segment again, all of it.
pub(super) async fn send_again(sending: Arc<Sending>, file: u64, segment: u64) -> Result<(), Stop> {
    let entry = sending.pages.entry(file).map_err(|error| sending.own(&error))?;
    let entry = entry.filter(|entry| matches!(entry.kind, Kind::File { .. }));
    let entry = entry.ok_or_else(|| Stop::violation("the receiver asks for what is no file"))?;
    let (source, seen) = match open(&sending, &entry).await {
        Ok(opened) => opened,
        Err(Failed::Stopped(stop)) => return Err(stop),
        Err(Failed::Unreadable(_) | Failed::Changed) => return Err(unreadable_again()),
    };
    let segments = sending.division().of(seen.size);
    if segments.len(segment).is_none() {
        return Err(unreadable_again());
    }
    let attempt = u8::from(sending.second.lock().unwrap_or_else(PoisonError::into_inner).contains(&file));
    // Without a basis: what the receiver holds is not what it said.
    let plain = version(&sending, Basis::Nothing, segments, &source).map_err(|_unreadable| unreadable_again())?;
    let course = Arc::new(Course::new(false));
    let task = Task { file, source, segments, segment, attempt, version: Arc::clone(&plain), plain, course };
    let _room = sending.room(segments.len(segment).unwrap_or_default()).await?;
    let again = task.clone();
    let prepared =
        sending.on_worker("transfer encode", move |sending, worker| prepare(sending, worker, &again)).await?;
    match prepared {
        Ok(Prepared::Known { .. }) => send_known(&sending, &task, task.course.take_known()).await,
        Ok(Prepared::Encoded { header, encoded, .. }) => sending.send_pieces(header, encoded).await,
        Err(_unreadable) => Err(unreadable_again()),
    }
}

fn unreadable_again() -> Stop {
    Stop::temporary(crate::reason::end::CORRUPTED, "a segment did not verify, and cannot be read again as it was")
}

/// Confirms a file that the receiver makes of what it holds: it is read here, and travels only where its digest is another.
pub(super) async fn confirm(sending: Arc<Sending>, wish: Wish, unsaid: Unsaid) -> Result<(), Stop> {
    let hash = async {
        let (source, seen) = open(&sending, &wish.entry).await?;
        if seen.size != wish.entry.size() || seen.mtime != wish.entry.mtime {
            return Err(Failed::Changed);
        }
        let (at, of) = (Arc::clone(&sending), Arc::clone(&source));
        let hash = move || {
            let _reading = at.tally.reading.begin();
            hash_of(&of, seen.size, &at.group)
        };
        let hashed = sending.group.blocking("transfer confirm", hash).await;
        let root = hashed.map_err(|Cancelled| stopping())?.map_err(Failed::Unreadable)?;
        let after = Seen::of(&source).map_err(Failed::Unreadable)?;
        if after == seen { Ok((root, seen)) } else { Err(Failed::Changed) }
    };
    match hash.await {
        Ok((root, seen)) if wish.entry.versions.root == Some(root) && seen.mode == wish.entry.mode => {
            crate::tally::add(&sending.tally.bytes_reused, seen.size);
            let moved = Moved { root, size: seen.size, mode: seen.mode, mtime: seen.mtime };
            sending.set_fate(wish.file, Fate::Moved(moved))?;
            sending.frame(SenderFrame::FileEnd(FileEnd { file: wish.file, root, attempt: 0, entry: None })).await
        }
        Err(Failed::Stopped(stop)) => Err(stop),
        // What the receiver made is none of it: it is read once more, and sent.
        Ok(_) | Err(Failed::Changed | Failed::Unreadable(_)) => {
            sending.fell_back("changed");
            send_from(sending, wish, 1, Some(unsaid)).await
        }
    }
}

fn hash_of(file: &File, size: u64, group: &foundation_runtime::TaskGroup) -> io::Result<[u8; 32]> {
    let (mut hasher, mut offset, mut buffer) = (blake3::Hasher::new(), 0_u64, vec![0; 1 << 20]);
    while offset < size {
        if group.is_cancelled() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        let len = usize::try_from(size - offset).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..len], offset)?;
        hasher.update(&buffer[..len]);
        offset += u64::try_from(len).unwrap_or_default();
    }
    Ok(*hasher.finalize().as_bytes())
}
