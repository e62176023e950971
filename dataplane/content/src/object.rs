//! [`Object`].

use std::{fs::File, io, os::unix::fs::FileExt as _};

use dataplane_hde::ReadAt;
use proto_model::Digest;

use crate::{open_objects::Place, stat::FileStat};

/// An open object: it can be read to its end also when it is collected meanwhile.
#[derive(Debug)]
pub struct Object {
    digest: Digest,
    file: File,
    size: u64,
    _place: Place,
}

impl Object {
    pub(crate) fn new(digest: Digest, file: File, place: Place) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { digest, file, size, _place: place })
    }

    /// What it is.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its bytes, to be read only.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn stat(&self) -> io::Result<FileStat> {
        Ok(FileStat::from(&self.file.metadata()?))
    }
}

impl ReadAt for Object {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(room, offset)
    }
}
