//! What is written and not yet durable, file by file.

use std::mem;

use proto_wire::TreePath;

use super::{Active, Files};
use crate::journal::FileNumber;

/// A file's segments that are not in the journal.
#[derive(Debug)]
pub(in crate::receiver) struct Dirty {
    pub(in crate::receiver) path: TreePath,
    pub(in crate::receiver) number: FileNumber,
    pub(in crate::receiver) segments: Vec<(u64, [u8; 32])>,
    /// What is not durable of it.
    pub(in crate::receiver) bytes: u64,
}

impl Files {
    /// What is written and not yet in the journal, of unfinished files; or also of those that wait to be put in place.
    pub(in crate::receiver) fn take_dirty(&mut self, of_all: bool) -> Vec<Dirty> {
        let unfinished = self.active.values_mut().filter(|active| !active.dirty.is_empty()).map(Active::take_dirty);
        let mut dirty: Vec<Dirty> = unfinished.collect();
        self.backlog.not_unfinished(dirty.iter().map(|dirty| dirty.bytes).sum());
        if of_all {
            let waiting = self.finishing.values_mut().filter(|waiting| !waiting.segments.is_empty());
            dirty.extend(waiting.map(Dirty::take));
        }
        dirty
    }

    /// A large file waits to be put in place.
    pub(super) fn finishing(&mut self, file: u64, active: &mut Active) {
        self.finishing.insert(file, active.take_dirty());
    }

    /// So does a small one, which is in no journal.
    pub(in crate::receiver) fn small_is_whole(&mut self, file: u64, path: &TreePath, number: FileNumber, bytes: u64) {
        self.backlog.came_whole(bytes);
        self.finishing.insert(file, Dirty { path: path.clone(), number, segments: Vec::new(), bytes });
    }

    /// It is in place, or left out.
    pub(super) fn finished(&mut self, file: u64) {
        if let Some(dirty) = self.finishing.remove(&file) {
            self.backlog.settled(dirty.bytes);
        }
    }
}

impl Dirty {
    fn take(&mut self) -> Self {
        let (segments, bytes) = (mem::take(&mut self.segments), mem::take(&mut self.bytes));
        Self { path: self.path.clone(), number: self.number, segments, bytes }
    }
}

impl Active {
    fn take_dirty(&mut self) -> Dirty {
        let (segments, bytes) = (mem::take(&mut self.dirty), mem::take(&mut self.dirty_bytes));
        Dirty { path: self.entry.path.clone(), number: self.number, segments, bytes }
    }
}
