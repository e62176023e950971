//! Takes pieces: puts segments together, decodes them, verifies them, writes them.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    compare::read_small,
    contents::{Contents, Ground, clear, wide, write},
    decoders::{DecoderPlace, Room, Worker},
    direct::{Way, lay_out},
    files::{Claim, Target, Whether, Whole, temporary_name},
    state::{After, Receiving},
};
use crate::{
    confine::set_file,
    fates::{Fate, Moved},
    reason::end,
    stop::Stop,
    tally::add,
};
use bytes::Bytes;
use dataplane_hde::{DecodeError, NoSources, Sources};
use proto_wire::{
    TreePath,
    frames::{FileAborted, FileEnd, ReceiverFrame},
    manifest::{Entry, Kind},
    piece::{
        BUNDLE_ROW_BYTES, BundleRow, Header, Known, MAX_BUNDLE_FILES, PieceKind, SMALL_FILE_BYTES, Source, read_bundle,
        read_known,
    },
};

/// Parts of segments that wait for their other parts, besides what the transport holds: as much as a sender may have under way.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// What a segment costs that waits, besides its parts.
const WAITING_OVERHEAD: usize = 512;
/// Segments that were asked for again: more is no accident.
const MAX_RESENDS: u64 = 1000;

/// Takes pieces, on any number of threads.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    waiting: Mutex<Waiting>,
    resends: AtomicU64,
    decoded_in: AtomicU64,
    decoded_out: AtomicU64,
}

/// Which segment a part belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Whose {
    kind: PieceKind,
    file: u64,
    segment: u64,
    attempt: u8,
}

#[derive(Debug, Default)]
struct Waiting {
    parts: HashMap<Whose, Vec<Option<Vec<u8>>>>,
    room: Room,
}

impl Incoming {
    /// Writes down on a span how much was decoded.
    pub(super) fn record(&self, span: &tracing::Span) {
        span.record("dwcp.hde.input_bytes", self.decoded_in.load(Relaxed));
        span.record("dwcp.hde.output_bytes", self.decoded_out.load(Relaxed));
    }

    /// Takes a piece; returns when it is written, or known not to be needed, with what is to be done with it then.
    pub(super) fn piece(&self, receiving: &Receiving, piece: &Bytes, place: &DecoderPlace) -> Result<After, Stop> {
        let mut after = After::default();
        let (header, part) = Header::parse(piece)?;
        let Some(encoded) = self.assemble(receiving, &header, part)? else { return Ok(after) };
        let mut worker = receiving.shared.decoders.take(place);
        let taken = self.segment(receiving, &header, &encoded, &mut worker, &mut after);
        receiving.shared.decoders.give(worker);
        taken.map(|()| after)
    }

    fn segment(
        &self,
        receiving: &Receiving,
        header: &Header,
        encoded: &[u8],
        worker: &mut Worker,
        after: &mut After,
    ) -> Result<(), Stop> {
        self.decoded_in.fetch_add(u64::try_from(encoded.len()).unwrap_or_default(), Relaxed);
        self.decoded_out.fetch_add(header.decoded_bytes.into(), Relaxed);
        match header.kind {
            PieceKind::Segment => self.aligned(receiving, header, encoded, worker, after),
            PieceKind::Bundle => bundle(receiving, header, encoded, worker, after),
            PieceKind::Known => self.known(receiving, header, encoded, worker, after),
        }
    }

    /// The whole encoded segment, once all of its parts are there.
    fn assemble(&self, receiving: &Receiving, header: &Header, part: Bytes) -> Result<Option<Bytes>, Stop> {
        if header.parts == 1 {
            return Ok(Some(part));
        }
        let key = Whose { kind: header.kind, file: header.file, segment: header.segment, attempt: header.attempt };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = waiting.parts.contains_key(&key);
        let cost = part.len() + if begun { 0 } else { WAITING_OVERHEAD };
        if waiting.room.bytes() + cost > MAX_WAITING_BYTES {
            return Err(Stop::violation("too many segments wait for their other parts"));
        }
        if !waiting.room.grow(&receiving.shared.assembling, cost, &receiving.shared) {
            let message = "too many segments of all transfers wait here for their other parts (limits.receive_budget)";
            return Err(Stop::temporary(end::BUSY, message));
        }
        let parts = waiting.parts.entry(key).or_insert_with(|| vec![None; usize::from(header.parts)]);
        let place = parts.get_mut(usize::from(header.part)).filter(|place| place.is_none());
        let Some(place) = place else { return Err(Stop::violation("a part of a segment came twice")) };
        // Copied, so that what waits does not hold the transport's memory.
        *place = Some(part.to_vec());
        let complete = waiting.parts.get(&key).is_some_and(|parts| parts.iter().all(Option::is_some));
        if !complete {
            return Ok(None);
        }
        let whole = waiting.parts.remove(&key).unwrap_or_default().into_iter().flatten().collect::<Vec<_>>().concat();
        waiting.room.shrink(whole.len() + WAITING_OVERHEAD);
        if u32::try_from(whole.len()) != Ok(header.encoded_bytes) {
            return Err(Stop::violation("the parts of a segment do not fit one another"));
        }
        Ok(Some(whole.into()))
    }

    fn aligned(
        &self,
        receiving: &Receiving,
        header: &Header,
        encoded: &[u8],
        worker: &mut Worker,
        after: &mut After,
    ) -> Result<(), Stop> {
        let Some(target) = begin(receiving, header)? else { return Ok(()) };
        let bytes = target.segments.len(header.segment).unwrap_or_default();
        let mut basis = Basis::of(receiving, &target.path);
        let room = worker.decoded.begin(bytes);
        let decoded = worker.decoder.decode(encoded, bytes, &mut basis, room);
        let mut reused = 0;
        let verified = match decoded {
            Ok(decoded) => {
                reused = decoded.basis_bytes;
                target.segments.value(header.segment, &worker.decoded) == header.value
            }
            // The old version changed, or went away: the bytes themselves are asked for.
            Err(DecodeError::Source(_)) => false,
            Err(error) => return Err(Stop::violation(error.to_string())),
        };
        if !verified {
            return self.resend(receiving, header.file, &target, header.segment, after);
        }
        let verified = Verified {
            segment: header.segment,
            value: header.value,
            contents: Contents::Bytes(&worker.decoded),
            reused,
        };
        write_segment(receiving, header.file, &target, &verified, after)
    }

    fn known(
        &self,
        receiving: &Receiving,
        header: &Header,
        list: &[u8],
        worker: &mut Worker,
        after: &mut After,
    ) -> Result<(), Stop> {
        if blake3::hash(list).as_bytes() != &header.value {
            return Err(Stop::temporary(end::CORRUPTED, "a list of segments did not verify"));
        }
        for Known { segment, source, value } in read_known(list)? {
            let header = Header { segment, value, ..*header };
            let Some(target) = begin(receiving, &header)? else { continue };
            let bytes = target.segments.len(segment).unwrap_or_default();
            let room = worker.decoded.zeros(bytes);
            let read = match source {
                Source::Zeros => Ok(()),
                Source::Basis { offset } => Basis::of(receiving, &target.path).basis(offset, room),
            };
            if read.is_err() || target.segments.value(segment, &worker.decoded) != value {
                self.resend(receiving, header.file, &target, segment, after)?;
                continue;
            }
            let (contents, reused) = match source {
                Source::Zeros => (Contents::Zeros(bytes), 0),
                Source::Basis { .. } => (Contents::Bytes(&worker.decoded), wide(bytes)),
            };
            write_segment(receiving, header.file, &target, &Verified { segment, value, contents, reused }, after)?;
        }
        Ok(())
    }

    fn resend(
        &self,
        receiving: &Receiving,
        file: u64,
        target: &Target,
        segment: u64,
        after: &mut After,
    ) -> Result<(), Stop> {
        if self.resends.fetch_add(1, Relaxed) >= MAX_RESENDS {
            return Err(Stop::temporary(end::CORRUPTED, "too many segments did not verify"));
        }
        tracing::warn!(transfer = %receiving.id, file, segment, "a segment did not verify and is asked for again");
        receiving.files().unclaim(file, target, segment);
        after.frames.push(ReceiverFrame::Resend { file, segment });
        Ok(())
    }

    /// All segments of a file have been sent.
    pub(super) fn end(receiving: &Receiving, end: &FileEnd) -> Result<After, Stop> {
        let mut after = After::default();
        if receiving.options.checksum && end.attempt == 0 && end.entry.is_none() {
            let entry = receiving.pages.entry(end.file).map_err(|error| receiving.own(&error))?;
            // Files of this size are sent without an end: this one is not sent at all.
            if let Some(entry) = entry.filter(|entry| entry.size() <= SMALL_FILE_BYTES) {
                return equal(receiving, end, &entry).map(|()| after);
            }
        }
        let whether = receiving.files().end(end)?;
        if receiving.is_left_out(end.file) {
            receiving.ended_elsewhere(end.file, end.into())?;
            return Ok(after);
        }
        settle(receiving, end.file, whether, &mut after)?;
        Ok(after)
    }

    /// A file cannot be read at the source.
    pub(super) fn abort(receiving: &Receiving, aborted: &FileAborted) -> Result<(), Stop> {
        let file = aborted.file;
        // One that cannot be written here either was asked for once.
        if !receiving.files().is_wanted(file) && !receiving.is_left_out(file) {
            return Err(Stop::violation(format!("file {file} was not asked for")));
        }
        let aborted = receiving.files().abort(file);
        if let Some((path, number)) = aborted.begun {
            receiving.remove_temporary(&path, number);
        }
        // The sender counts it among its own issues.
        receiving.pages.set_fate(file, Fate::LeftOut).map_err(|error| receiving.own(&error))?;
        receiving.left_out.lock().unwrap_or_else(PoisonError::into_inner).insert(file);
        receiving.files().done(file);
        Ok(())
    }
}

/// Claims a segment, and makes the temporary file with the first one; none where the segment is not needed.
fn begin(receiving: &Receiving, header: &Header) -> Result<Option<Target>, Stop> {
    let entry = || {
        let entry = receiving.pages.entry(header.file).map_err(|error| receiving.own(&error))?;
        entry.ok_or_else(|| Stop::violation(format!("there is no entry {}", header.file)))
    };
    let mut files = receiving.files();
    let next = || receiving.journal().number();
    let mut target = match files.claim(header, receiving.segment_bytes, entry, next)? {
        Claim::Drop => return Ok(None),
        Claim::Write(target, before) => {
            if let Some(number) = before {
                receiving.remove_temporary(&target.path, number);
            }
            target
        }
    };
    let expected = target.segments.len(header.segment).unwrap_or_default();
    if header.kind == PieceKind::Segment && usize::try_from(header.decoded_bytes) != Ok(expected) {
        return Err(Stop::violation(format!("segment {} of file {} has a wrong length", header.segment, header.file)));
    }
    receiving.count(target.grown)?;
    let Some(key) = &target.create else { return Ok(Some(target)) };
    // Made while the files are locked: whoever has the next segment finds it.
    let made = make(receiving, &target, header.attempt == 0 && !target.sparse);
    if let Ok(true) = made {
        target.laid_out = true;
        files.laid_out(header.file);
        receiving.is_laid_out(target.segments.file_bytes);
    }
    // Written down before its first segment can be.
    let begun = made.is_ok().then(|| receiving.journal().begin(target.number, key));
    drop(files);
    begun.transpose().map_err(|error| receiving.own(&error))?;
    match made {
        Ok(_laid_out) => Ok(Some(target)),
        Err(error) => {
            receiving.remove_temporary(&target.path, target.number);
            receiving.unwritable(header.file, &target.path, &error).map(|()| None)
        }
    }
}

/// Makes the temporary file; true where it has all of its room.
fn make(receiving: &Receiving, target: &Target, may_lay_out: bool) -> io::Result<bool> {
    let file = receiving.parent(&target.path)?.create(&temporary_name(receiving.id, target.number))?;
    let bytes = target.segments.file_bytes;
    if may_lay_out { lay_out(&file, bytes) } else { file.set_len(bytes).map(|()| false) }
}

/// A segment that verified.
#[derive(Debug)]
struct Verified<'a> {
    segment: u64,
    value: [u8; 32],
    contents: Contents<'a>,
    /// Bytes of it that were held here before.
    reused: u64,
}

fn write_segment(
    receiving: &Receiving,
    file: u64,
    target: &Target,
    verified: &Verified<'_>,
    after: &mut After,
) -> Result<(), Stop> {
    let &Verified { segment, value, contents, reused } = verified;
    let len = wide(contents.len());
    // Of a sparse file only its data was promised room.
    let more = if target.sparse { wide(contents.data()) } else { len };
    let taken = if target.laid_out { None } else { Some(receiving.take_room(more)?) };
    let offset = target.segments.offset(segment);
    let written = match contents {
        Contents::Zeros(_) if target.ground() == Ground::Holes => Ok(()),
        contents => receiving
            .parent(&target.path)
            .and_then(|parent| parent.write(&temporary_name(receiving.id, target.number)))
            .and_then(|file| match contents {
                Contents::Bytes(bytes) => {
                    write(&file, offset, bytes, target.ground(), Way::of(target.segments.file_bytes))
                }
                Contents::Zeros(len) => clear(&file, offset, len, target.ground()),
            }),
    };
    if let Err(error) = written {
        if !receiving.files().is_current(file, target.number) {
            return Ok(());
        }
        // What is in the journal stays for the next attempt where the file system is only full.
        return receiving.unwritable(file, &target.path, &error);
    }
    drop(taken);
    receiving.verified(len, reused);
    let bytes = wide(contents.data());
    let whether = receiving.files().written(file, target, (segment, value), bytes);
    settle(receiving, file, whether, after)
}

/// Hands a file on that is whole.
fn settle(receiving: &Receiving, file: u64, whether: Whether, after: &mut After) -> Result<(), Stop> {
    match whether {
        Whether::NotYet => Ok(()),
        Whether::Whole(path, number, moved) => {
            let temporary = temporary_name(receiving.id, number);
            after.whole.push(Whole { file, path, temporary, moved, dressed: false });
            Ok(())
        }
        Whether::Corrupted(path, number) => {
            // Gone, so that the next attempt does not go on with it.
            receiving.remove_temporary(&path, number);
            let message =
                format!("{} does not have the digest that the sender read", proto_model::escape(path.as_bytes()));
            Err(Stop::temporary(end::CORRUPTED, message))
        }
    }
}

fn bundle(
    receiving: &Receiving,
    header: &Header,
    encoded: &[u8],
    worker: &mut Worker,
    after: &mut After,
) -> Result<(), Stop> {
    let bytes = usize::try_from(header.decoded_bytes).unwrap_or(usize::MAX);
    let files = usize::try_from(header.segment).unwrap_or(usize::MAX);
    if files > MAX_BUNDLE_FILES || bytes < files * BUNDLE_ROW_BYTES {
        return Err(Stop::violation("a bundle is too small for its files"));
    }
    let room = worker.decoded.begin(bytes);
    let decoded = worker.decoder.decode(encoded, bytes, &mut NoSources, room);
    decoded.map_err(|error| Stop::violation(error.to_string()))?;
    if blake3::hash(&worker.decoded).as_bytes() != &header.value {
        return Err(Stop::temporary(end::CORRUPTED, "a bundle of small files did not verify"));
    }
    for (row, contents) in read_bundle(&worker.decoded, header.segment)? {
        small(receiving, &row, contents, after)?;
    }
    Ok(())
}

fn small(receiving: &Receiving, row: &BundleRow, contents: &[u8], after: &mut After) -> Result<(), Stop> {
    let file = row.file;
    let entry = receiving.pages.entry(file).map_err(|error| receiving.own(&error))?;
    let entry = entry.ok_or_else(|| Stop::violation(format!("there is no entry {file}")))?;
    if !matches!(entry.kind, Kind::File { .. }) {
        return Err(Stop::violation(format!("entry {file} is no file")));
    }
    let size = u64::from(row.size);
    if size > SMALL_FILE_BYTES || (row.attempt == 0 && size != entry.size()) {
        return Err(Stop::violation(format!("file {file} in a bundle has a size that it may not have")));
    }
    if blake3::hash(contents).as_bytes() != &row.root {
        return Err(Stop::temporary(end::CORRUPTED, "a small file did not verify"));
    }
    let moved = Moved { root: row.root, size, mode: row.mode, mtime: row.mtime };
    if receiving.is_left_out(file) {
        return receiving.not_made(file, Some(moved));
    }
    let before = receiving.files().begin_small(file, row.attempt)?;
    receiving.count(size.saturating_sub(entry.size()))?;
    if let Some(number) = before {
        receiving.remove_temporary(&entry.path, number);
    }
    let taken = receiving.take_room(size)?;
    let number = receiving.journal().number();
    let temporary = temporary_name(receiving.id, number);
    let written = receiving.parent(&entry.path).and_then(|parent| parent.create(&temporary));
    let dressed = |file: File| {
        file.write_all_at(contents, 0)?;
        set_file(&file, moved.mode, moved.mtime)
    };
    if let Err(error) = written.and_then(dressed) {
        receiving.remove_temporary(&entry.path, number);
        receiving.unwritable(file, &entry.path, &error)?;
        return receiving.not_made(file, Some(moved));
    }
    drop(taken);
    receiving.verified(size, 0);
    receiving.files().small_is_whole(file, &entry.path, number, size);
    after.whole.push(Whole { file, path: entry.path, temporary, moved, dressed: true });
    Ok(())
}

/// Keeps a small file of which the sender says that it has the same: compared once more, so that nothing is believed.
fn equal(receiving: &Receiving, end: &FileEnd, entry: &Entry) -> Result<(), Stop> {
    let (file, bytes) = (end.file, entry.size());
    if receiving.files().begin_small(file, 0)?.is_some() || !matches!(entry.kind, Kind::File { .. }) {
        return Err(Stop::violation(format!("file {file} came twice, or is none")));
    }
    let parent = receiving.parent(&entry.path);
    let same = parent.and_then(|parent| {
        let contents = read_small(&parent, entry.path.name(), bytes)?;
        Ok((blake3::hash(&contents).as_bytes() == &end.root).then_some(parent))
    });
    let Ok(Some(parent)) = same else {
        let path = proto_model::escape(entry.path.as_bytes());
        return Err(Stop::temporary(end::CORRUPTED, format!("{path} changed at the receiver while it was compared")));
    };
    drop(receiving.take_room(bytes)?);
    let moved = Moved { root: end.root, size: bytes, mode: entry.mode, mtime: entry.mtime };
    if let Err(error) = parent.read(entry.path.name()).and_then(|file| set_file(&file, entry.mode, entry.mtime)) {
        receiving.unwritable(file, &entry.path, &error)?;
        return receiving.not_made(file, Some(moved));
    }
    receiving.pages.set_fate(file, Fate::Moved(moved)).map_err(|error| receiving.own(&error))?;
    receiving.verified(bytes, bytes);
    add(&receiving.tally.files_done, 1);
    receiving.files().done(file);
    Ok(())
}

/// The old version of a file, opened when it is first asked for.
struct Basis<'a> {
    receiving: &'a Receiving,
    path: &'a TreePath,
    file: Option<File>,
}

impl<'a> Basis<'a> {
    fn of(receiving: &'a Receiving, path: &'a TreePath) -> Self {
        Self { receiving, path, file: None }
    }
}

impl Sources for Basis<'_> {
    fn history(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        NoSources.history(offset, room)
    }

    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(self.receiving.parent(self.path)?.read(self.path.name())?);
        }
        self.file.as_ref().map_or(Ok(()), |file| file.read_exact_at(room, offset))
    }
}
