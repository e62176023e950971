//! One segment: read, hashed, encoded, sent.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use dataplane_hde::{Basis, Encoding, Version, Whole};
use proto_wire::{
    hde::Head,
    piece::{HEADER_BYTES, Header, PieceKind, Source},
};

use super::{
    buffers::Buffer,
    course::Course,
    encoders::{BEFORE_BYTES, Worker},
    known::KnownSegment,
    state::Sending,
};
use crate::{file_hash::Segments, holes::is_hole};

/// A segment that is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) file: u64,
    pub(super) source: Arc<File>,
    pub(super) segments: Segments,
    pub(super) segment: u64,
    pub(super) attempt: u8,
    pub(super) version: Arc<Version>,
    /// Without a basis: for when what the receiver holds turned out to be something else.
    pub(super) plain: Arc<Version>,
    pub(super) course: Arc<Course>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Prepared {
    /// It travels; before it there is room for the header.
    Encoded { header: Header, encoded: Buffer, uses_history: bool },
    /// The receiver makes it of what it holds, and is to be told so; so many are to be told.
    Known { value: [u8; 32], untold: usize },
}

/// Reads, hashes and encodes a segment.
pub(super) fn prepare(sending: &Sending, worker: &mut Worker, task: &Task) -> io::Result<Prepared> {
    let mut turn = Turn { task, encoded: false };
    let len = task.segments.len(task.segment).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let offset = task.segments.offset(task.segment);
    let read = worker.read.bytes();
    read.resize(BEFORE_BYTES + len, 0);
    let bytes = &mut read[BEFORE_BYTES..];
    if is_hole(&task.source, offset, len) {
        bytes.fill(0);
        let value = task.segments.value(task.segment, bytes);
        return Ok(known(task, Source::Zeros, value));
    }
    let reading = sending.tally.reading.begin();
    task.source.read_exact_at(bytes, offset)?;
    drop(reading);
    let _encoding = sending.tally.encoding.begin();
    let value = task.segments.value(task.segment, bytes);
    let (encoding, encoded) = encode(sending, worker, &mut turn)?;
    sending.count(&encoding);
    if !matches!(task.version.basis(), Basis::Nothing) {
        sending.refers(task.file, task.segment, (encoding.referenced_bytes, encoding.literal_bytes));
    }
    if let Some(whole) = encoding.whole {
        let source = match whole {
            Whole::Zeros => Source::Zeros,
            Whole::Basis { offset } => Source::Basis { offset },
        };
        return Ok(known(task, source, value));
    }
    let header = Header {
        kind: PieceKind::Segment,
        part: 0,
        parts: 1,
        attempt: task.attempt,
        encoded_bytes: 0,
        decoded_bytes: u32::try_from(len).map_err(io::Error::other)?,
        file: task.file,
        segment: task.segment,
        file_bytes: task.segments.file_bytes,
        value,
    };
    let uses_history = encoded.as_ref().get(HEADER_BYTES..).is_some_and(uses_history);
    Ok(Prepared::Encoded { header, encoded, uses_history })
}

fn encode(sending: &Sending, worker: &mut Worker, turn: &mut Turn<'_>) -> io::Result<(Encoding, Buffer)> {
    let task = turn.task;
    let without =
        if task.course.is_trial(task.segment) { Some(worker.measure(&task.plain, task.segment)) } else { None };
    let as_planned = !sending.distrusts(task.file) && (task.course.uses_history() || !task.version.has_history());
    let version = if as_planned { &task.version } else { &task.plain };
    let encoded = worker.encode(version, task.segment).map_err(io::Error::other)?;
    turn.encoded = as_planned;
    if let Some(without) = without.transpose().map_err(io::Error::other)?.filter(|_| as_planned) {
        task.course.tried(encoded.0.output_bytes, without);
    }
    Ok(encoded)
}

fn known(task: &Task, source: Source, value: [u8; 32]) -> Prepared {
    let untold = task.course.is_known(KnownSegment { segment: task.segment, source, value });
    Prepared::Known { value, untold }
}

/// Whether an encoded segment can be decoded only where earlier ones are held.
pub(crate) fn uses_history(encoded: &[u8]) -> bool {
    Head::parse(encoded).is_ok_and(|(head, _)| head.flags.history)
}

/// A segment in its turn: whatever becomes of it, those that may refer to it have theirs.
struct Turn<'a> {
    task: &'a Task,
    encoded: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.encoded {
            self.task.version.skip(self.task.segment);
        }
        self.task.course.is_encoded(self.task.segment);
    }
}
