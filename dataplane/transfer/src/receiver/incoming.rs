//! Takes pieces: puts segments together, decodes them, verifies them, writes them.

use std::{
    collections::HashMap,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use dataplane_hde::DecodeError;
use proto_wire::{
    frames::{FileAborted, FileEnd, ReceiverFrame},
    piece::{Header, PieceKind, SMALL_FILE_BYTES},
};

use super::{
    bundles,
    contents::{Contents, Ground, clear, wide, write},
    decoders::{DecoderPlace, Room, Worker},
    direct::{Way, lay_out},
    files::{Claim, Target, Whether, Whole, temporary_name},
    held_here::HeldHere,
    parked::{Parked, ParkedSegments},
    state::{After, Receiving},
};
use crate::{fates::Fate, reason::end, sender::uses_history, stop::Stop};

/// Parts of segments that wait for their other parts, besides what the transport holds: as much as a sender may have under way.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// What a segment costs that waits, besides its parts.
const WAITING_OVERHEAD: usize = 512;
/// Segments that were asked for again, besides each of them once: more is no accident.
const MAX_RESENDS: u64 = 1000;

/// Takes pieces, on any number of threads.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    waiting: Mutex<Waiting>,
    parked: Mutex<ParkedSegments>,
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
    parts: HashMap<Whose, Parts>,
    room: Room,
}

/// A segment of which some parts are there.
#[derive(Debug)]
struct Parts {
    /// As long as all of them; what did not come yet takes no memory.
    bytes: Vec<u8>,
    /// A bit for each that is there.
    there: u32,
}

impl Incoming {
    /// Writes down on a span how much was decoded.
    pub(super) fn record(&self, span: &tracing::Span) {
        span.record("dwcp.hde.input_bytes", self.decoded_in.load(Relaxed));
        span.record("dwcp.hde.output_bytes", self.decoded_out.load(Relaxed));
    }

    /// Takes a piece; returns when it is written, or known not to be needed, or waits for others, with what is to be done with it then.
    pub(super) fn piece(&self, receiving: &Receiving, piece: &Bytes, place: &DecoderPlace) -> Result<After, Stop> {
        let (header, part) = Header::parse(piece)?;
        let Some(encoded) = self.assemble(receiving, &header, part)? else { return Ok(After::default()) };
        let is_early = header.kind == PieceKind::Segment && uses_history(&encoded);
        let encoded = Parked { header, encoded };
        let encoded = if is_early { self.unless_early(receiving, encoded)? } else { Ok(encoded) };
        match encoded {
            Ok(whole) => self.whole(receiving, &whole, place),
            Err(after) => Ok(after),
        }
    }

    /// Takes a segment, all parts of it.
    pub(super) fn whole(&self, receiving: &Receiving, whole: &Parked, place: &DecoderPlace) -> Result<After, Stop> {
        let (mut after, mut worker) = (After::default(), receiving.shared.decoders.take(place));
        let taken = self.segment(receiving, &whole.header, &whole.encoded, &mut worker, &mut after);
        receiving.shared.decoders.give(worker);
        let waits = |header: &Header| receiving.files().waits(header);
        self.parked().look(whole.header.file, waits);
        taken.map(|()| after)
    }

    /// A segment that refers to earlier ones, unless it has to wait for these; then what is to be done instead.
    fn unless_early(&self, receiving: &Receiving, whole: Parked) -> Result<Result<Parked, After>, Stop> {
        // Whoever writes an earlier one looks after it has written: under this lock neither misses the other.
        let mut parked = self.parked();
        let waits = |header: &Header| receiving.files().waits(header);
        if !waits(&whole.header) {
            return Ok(Ok(whole));
        }
        let (file, segment) = (whole.header.file, whole.header.segment);
        let mut after = After::default();
        if !parked.park(whole, &receiving.shared)? {
            // Those of files that are over need their room no more.
            parked.look_at_all(waits);
            self.ask_again(receiving, file, segment, &mut after)?;
        }
        Ok(Err(after))
    }

    fn parked(&self) -> MutexGuard<'_, ParkedSegments> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment that need not wait any more.
    pub(super) fn next_ready(&self) -> Option<Parked> {
        self.parked().next_ready()
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
            PieceKind::Bundle => bundles::take(receiving, header, encoded, worker, after),
            PieceKind::Leaning => bundles::take_leaning(receiving, header, encoded, worker, after),
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
        let len = usize::try_from(header.encoded_bytes).unwrap_or(usize::MAX);
        let parts = waiting.parts.entry(key).or_insert_with(|| Parts { bytes: vec![0; len], there: 0 });
        if parts.bytes.len() != len {
            return Err(Stop::violation("the parts of a segment do not fit one another"));
        }
        if parts.there & 1 << header.part != 0 {
            return Err(Stop::violation("a part of a segment came twice"));
        }
        parts.there |= 1 << header.part;
        // Copied, so that what waits does not hold the transport's memory. Within its length, as the header was checked.
        parts.bytes[header.part_offset()..][..part.len()].copy_from_slice(&part);
        if parts.there.count_ones() < u32::from(header.parts) {
            return Ok(None);
        }
        let whole = waiting.parts.remove(&key).map(|parts| parts.bytes).unwrap_or_default();
        waiting.room.shrink(len + WAITING_OVERHEAD);
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
        let mut held = HeldHere::of_segment(receiving, (header.file, header.segment), &target);
        let room = worker.decoded.begin(bytes);
        let decoded = worker.decoder.decode(encoded, bytes, &mut held, room);
        let mut reused = 0;
        let verified = match decoded {
            Ok(decoded) => {
                reused = decoded.basis_bytes;
                target.segments.value(header.segment, &worker.decoded) == header.value
            }
            Err(error) => {
                may_be_basis(receiving, header.file, &error, uses_history(encoded))?;
                false
            }
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

    pub(super) fn resend(
        &self,
        receiving: &Receiving,
        file: u64,
        target: &Target,
        segment: u64,
        after: &mut After,
    ) -> Result<(), Stop> {
        {
            let mut files = receiving.files();
            // What it refers to goes with the first reading, and all of the second one comes.
            if !files.is_current(file, target.number) {
                return Ok(());
            }
            files.unclaim(file, target, segment);
        }
        tracing::warn!(transfer = %receiving.id, file, segment, "a segment did not verify and is asked for again");
        self.ask_again(receiving, file, segment, after)
    }

    fn ask_again(&self, receiving: &Receiving, file: u64, segment: u64, after: &mut After) -> Result<(), Stop> {
        let segments = receiving.tally.bytes_total.load(Relaxed) / u64::from(receiving.division.segment_bytes);
        if self.resends.fetch_add(1, Relaxed) >= MAX_RESENDS.saturating_add(segments) {
            return Err(Stop::temporary(end::CORRUPTED, "too many segments did not verify"));
        }
        after.frames.push(ReceiverFrame::Resend { file, segment });
        Ok(())
    }

    /// All segments of a file have been sent.
    pub(super) fn end(receiving: &Receiving, end: &FileEnd) -> Result<After, Stop> {
        let mut after = After::default();
        let compared = receiving.files().is_offered(end.file);
        if compared && end.attempt == 0 && end.entry.is_none() {
            let entry = receiving.pages.entry(end.file).map_err(|error| receiving.own(&error))?;
            // Files of this size are sent without an end: this one is not sent at all.
            if let Some(entry) = entry.filter(|entry| entry.size() <= SMALL_FILE_BYTES) {
                return bundles::equal(receiving, end, &entry, after);
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

/// Whether what cannot be decoded may be so because the old version is not what it was said to be: then the bytes themselves are asked
/// for. Else the sender does not keep to the protocol.
pub(super) fn may_be_basis(receiving: &Receiving, file: u64, error: &DecodeError, refers: bool) -> Result<(), Stop> {
    let certain = match error {
        DecodeError::Container(_) | DecodeError::Length { .. } => true,
        DecodeError::Source(_) => false,
        DecodeError::Literals => !refers && !receiving.files().is_offered(file),
    };
    if certain { Err(Stop::violation(error.to_string())) } else { Ok(()) }
}

/// Claims a segment, and makes the temporary file with the first one; none where the segment is not needed.
pub(super) fn begin(receiving: &Receiving, header: &Header) -> Result<Option<Target>, Stop> {
    let entry = || {
        let entry = receiving.pages.entry(header.file).map_err(|error| receiving.own(&error))?;
        entry.ok_or_else(|| Stop::violation(format!("there is no entry {}", header.file)))
    };
    let mut files = receiving.files();
    let next = || receiving.journal().number();
    let mut target = match files.claim(header, receiving.division, entry, next)? {
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
    let written = put(receiving, file, target, segment, contents)?;
    if written {
        hold(receiving, file, target, &Holding::new((segment, value), contents, reused), after)
    } else {
        Ok(())
    }
}

/// Writes what a segment holds; false where it is not needed any more.
pub(super) fn put(
    receiving: &Receiving,
    file: u64,
    target: &Target,
    segment: u64,
    contents: Contents<'_>,
) -> Result<bool, Stop> {
    // Of a sparse file only its data was promised room.
    let more = if target.sparse { wide(contents.data()) } else { wide(contents.len()) };
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
    drop(taken);
    match written {
        Ok(()) => Ok(true),
        Err(_) if !receiving.files().is_current(file, target.number) => Ok(false),
        // What is in the journal stays for the next attempt where the file system is only full.
        Err(error) => receiving.unwritable(file, &target.path, &error).map(|()| false),
    }
}

/// What is noted of a segment that verified and is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    pub(super) segment: (u64, [u8; 32]),
    len: u64,
    data: u64,
    reused: u64,
}

impl Holding {
    pub(super) fn new(segment: (u64, [u8; 32]), contents: Contents<'_>, reused: u64) -> Self {
        Self { segment, len: wide(contents.len()), data: wide(contents.data()), reused }
    }
}

/// Notes that a segment is held.
pub(super) fn hold(
    receiving: &Receiving,
    file: u64,
    target: &Target,
    held: &Holding,
    after: &mut After,
) -> Result<(), Stop> {
    receiving.verified(held.len, held.reused);
    let whether = receiving.files().written(file, target, held.segment, held.data);
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
