//! A file that is begun, and where its segments go.

use std::mem;

use proto_wire::{
    TreePath,
    manifest::{Entry, Mtime},
    piece::Header,
};

use super::super::contents::Ground;
use crate::{
    fates::Moved,
    file_hash::{FileHasher, Segments},
    intervals::Intervals,
    journal::{FileKey, FileNumber},
    stop::Stop,
};

/// Runs of segments of one file: what a window can leave open, many times over.
pub(super) const MAX_RUNS: usize = 65_536;

/// A file that is begun.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) entry: Entry,
    pub(super) attempt: u8,
    pub(super) number: FileNumber,
    pub(super) segments: Segments,
    /// Whether what was never written is zero: not so in what an earlier attempt left.
    pub(super) fresh: bool,
    /// Whether the temporary file is there.
    pub(super) created: bool,
    /// Whether it has all of its room.
    pub(super) laid_out: bool,
    /// Being written, or written.
    pub(super) claimed: Intervals,
    pub(super) written: Intervals,
    pub(super) hasher: FileHasher,
    /// Written, and not yet in the journal.
    pub(super) dirty: Vec<(u64, [u8; 32])>,
    pub(super) dirty_bytes: u64,
    pub(super) end: Option<Ended>,
    /// Its digest, where all of it was made of what is held here.
    pub(super) made: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) root: [u8; 32],
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
}

/// What a segment turned out to be.
#[derive(Debug)]
pub(in crate::receiver) enum Claim {
    /// It is to be written; where reading the file began anew, what was received of it before is to be removed.
    Write(Target, Option<FileNumber>),
    /// It belongs to an attempt, or a file, that is over.
    Drop,
}

/// Where a segment goes.
#[derive(Clone, Debug)]
pub(in crate::receiver) struct Target {
    pub(in crate::receiver) path: TreePath,
    pub(in crate::receiver) number: FileNumber,
    pub(in crate::receiver) segments: Segments,
    pub(in crate::receiver) fresh: bool,
    /// Whether the temporary file has all of its room: none is to be taken for what is written.
    pub(in crate::receiver) laid_out: bool,
    /// Whether only a part of its bytes was promised room.
    pub(in crate::receiver) sparse: bool,
    /// Whether the temporary file is to be made, and what the journal is to say of it.
    pub(in crate::receiver) create: Option<FileKey>,
    /// Bytes that a second reading has more than the manifest says: nobody has promised them yet.
    pub(in crate::receiver) grown: u64,
}

impl Target {
    /// What is where nothing was written yet.
    pub(in crate::receiver) fn ground(&self) -> Ground {
        match (self.laid_out, self.fresh) {
            (true, _) => Ground::Room,
            (false, true) => Ground::Holes,
            (false, false) => Ground::Old,
        }
    }
}

impl Active {
    pub(super) fn new(entry: Entry, attempt: u8, number: FileNumber, segments: Segments) -> Self {
        Self {
            entry,
            attempt,
            number,
            segments,
            fresh: true,
            created: false,
            laid_out: false,
            claimed: Intervals::default(),
            written: Intervals::default(),
            hasher: FileHasher::new(segments),
            dirty: Vec::new(),
            dirty_bytes: 0,
            end: None,
            made: None,
        }
    }

    pub(super) fn moved(&self, end: Ended) -> Moved {
        Moved { root: end.root, size: self.segments.file_bytes, mode: end.mode, mtime: end.mtime }
    }

    /// None where it came before, in a second reading: what was asked for again of the first one comes with that, too.
    pub(super) fn claim(&mut self, header: &Header) -> Result<Option<Target>, Stop> {
        let file = header.file;
        if self.made.is_some() {
            return Err(Stop::violation(format!("file {file} comes, though it was made here")));
        }
        if header.file_bytes != self.segments.file_bytes {
            return Err(Stop::violation(format!("pieces of file {file} differ in its size")));
        }
        if self.segments.len(header.segment).is_none() {
            return Err(Stop::violation(format!("file {file} has no segment {}", header.segment)));
        }
        if !self.claimed.insert(header.segment) {
            if self.attempt > 0 {
                return Ok(None);
            }
            return Err(Stop::violation(format!("segment {} of file {file} came twice", header.segment)));
        }
        if self.claimed.runs() > MAX_RUNS {
            return Err(Stop::violation(format!("file {file} comes in too many separate parts")));
        }
        let create = !mem::replace(&mut self.created, true);
        let mtime = self.entry.mtime;
        let key =
            || FileKey::new(self.entry.path.clone(), self.segments.file_bytes, mtime, self.segments.segment_bytes);
        Ok(Some(Target {
            path: self.entry.path.clone(),
            number: self.number,
            segments: self.segments,
            fresh: self.fresh,
            laid_out: self.laid_out,
            sparse: self.entry.holes > 0,
            create: create.then(key),
            grown: 0,
        }))
    }
}
