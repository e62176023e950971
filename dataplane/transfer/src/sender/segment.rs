//! One segment: read, hashed, encoded, sent.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use dataplane_hde::{Basis, Version, Whole};
use proto_wire::piece::{Header, PieceKind, Source};

use super::{
    buffers::Buffer,
    known::KnownSegment,
    state::{BEFORE_BYTES, Sending, Worker},
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
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Prepared {
    /// It travels; before it there is room for the header.
    Encoded { header: Header, encoded: Buffer },
    /// The receiver makes it of what it holds.
    Known(KnownSegment),
}

/// Reads, hashes and encodes a segment.
pub(super) fn prepare(sending: &Sending, worker: &mut Worker, task: &Task) -> io::Result<Prepared> {
    let len = task.segments.len(task.segment).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let offset = task.segments.offset(task.segment);
    let read = worker.read.bytes();
    read.resize(BEFORE_BYTES + len, 0);
    let bytes = &mut read[BEFORE_BYTES..];
    if is_hole(&task.source, offset, len) {
        bytes.fill(0);
        let value = task.segments.value(task.segment, bytes);
        return Ok(Prepared::Known(KnownSegment { segment: task.segment, source: Source::Zeros, value }));
    }
    let reading = sending.tally.reading.begin();
    task.source.read_exact_at(bytes, offset)?;
    drop(reading);
    let _encoding = sending.tally.encoding.begin();
    let value = task.segments.value(task.segment, bytes);
    let distrusted = sending.distrusts(task.file);
    if distrusted {
        task.version.skip(task.segment);
    }
    let version = if distrusted { &task.plain } else { &task.version };
    let (encoding, encoded) = worker.encode(version, task.segment, &sending.buffers).map_err(io::Error::other)?;
    sending.count(&encoding);
    if !matches!(task.version.basis(), Basis::Nothing) {
        sending.has_basis(task.file, encoding.literal_bytes);
    }
    if let Some(whole) = encoding.whole {
        let source = match whole {
            Whole::Zeros => Source::Zeros,
            Whole::Basis { offset } => Source::Basis { offset },
        };
        return Ok(Prepared::Known(KnownSegment { segment: task.segment, source, value }));
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
    Ok(Prepared::Encoded { header, encoded })
}
