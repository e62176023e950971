//! What a segment may be made of that is held here.

use std::{io, sync::Arc};

use dataplane_hde::{FileAt, HeldSources, NoSources, Sources};
use proto_wire::TreePath;

use super::state::Receiving;

/// The old version of a file, opened when it is first asked for, or the file that is like it; read through a small cache: any number of short copies costs few calls.
pub(super) struct HeldHere<'a> {
    receiving: &'a Receiving,
    file: u64,
    path: &'a TreePath,
    old: Option<HeldSources>,
}

impl<'a> HeldHere<'a> {
    pub(super) fn of(receiving: &'a Receiving, file: u64, path: &'a TreePath) -> Self {
        Self { receiving, file, path, old: None }
    }
}

impl Sources for HeldHere<'_> {
    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        if self.old.is_none() {
            let held = match self.receiving.files().similar(self.file) {
                Some(similar) => similar,
                None => Arc::new(FileAt::new(self.receiving.parent(self.path)?.read(self.path.name())?)?),
            };
            self.old = Some(HeldSources::new(Some(held), None));
        }
        self.old.as_mut().map_or(Ok(()), |old| old.basis(offset, room))
    }

    fn history(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        NoSources.history(offset, room)
    }
}
