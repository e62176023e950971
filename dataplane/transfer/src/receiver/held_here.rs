//! What a segment may be made of that is held here.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use dataplane_hde::{FileAt, HeldSources, LAG, Sources};
use proto_wire::TreePath;

use super::{
    files::{Target, temporary_name},
    state::Receiving,
};

/// The old version of a file, or the file that is like it, and what there is of the new one; each opened when it is first asked for. The old
/// one is read through a small cache: any number of short copies costs few calls.
pub(super) struct HeldHere<'a> {
    receiving: &'a Receiving,
    file: u64,
    path: &'a TreePath,
    old: Option<HeldSources>,
    new: Option<File>,
    /// The temporary name of the new one, and how much of it may be read.
    written: Option<(Vec<u8>, u64)>,
}

impl<'a> HeldHere<'a> {
    pub(super) fn of(receiving: &'a Receiving, file: u64, path: &'a TreePath) -> Self {
        Self { receiving, file, path, old: None, new: None, written: None }
    }

    /// For a segment that may refer to earlier ones.
    pub(super) fn of_segment(receiving: &'a Receiving, (file, segment): (u64, u64), target: &'a Target) -> Self {
        let end = (segment + 1).checked_sub(LAG).map_or(0, |segments| target.segments.offset(segments));
        let written = (end > 0).then(|| (temporary_name(receiving.id, target.number), end));
        Self { written, ..Self::of(receiving, file, &target.path) }
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
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (name, end) = self.written.as_ref().ok_or_else(beyond)?;
        let length = u64::try_from(room.len()).map_err(|_long| beyond())?;
        if offset.checked_add(length).is_none_or(|last| last > *end) {
            return Err(beyond());
        }
        if self.new.is_none() {
            self.new = Some(self.receiving.parent(self.path)?.write(name)?);
        }
        self.new.as_ref().map_or(Ok(()), |file| file.read_exact_at(room, offset))
    }
}
