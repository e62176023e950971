//! What a segment may be made of that is held here.

use std::{fs::File, io, os::unix::fs::FileExt};

use dataplane_hde::{NoSources, Sources};
use proto_wire::TreePath;

use super::state::Receiving;

/// The old version of a file, opened when it is first asked for.
pub(super) struct HeldHere<'a> {
    receiving: &'a Receiving,
    path: &'a TreePath,
    old: Option<File>,
}

impl<'a> HeldHere<'a> {
    pub(super) fn of(receiving: &'a Receiving, path: &'a TreePath) -> Self {
        Self { receiving, path, old: None }
    }
}

impl Sources for HeldHere<'_> {
    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        if self.old.is_none() {
            self.old = Some(self.receiving.parent(self.path)?.read(self.path.name())?);
        }
        self.old.as_ref().map_or(Ok(()), |file| file.read_exact_at(room, offset))
    }

    fn history(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        NoSources.history(offset, room)
    }
}
