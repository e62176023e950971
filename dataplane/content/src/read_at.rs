//! Bytes at rest.

use std::{fmt, fs::File, io, os::unix::fs::FileExt as _};

/// Bytes at rest, read at any place by several threads.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills the room with the bytes from `offset` on.
    ///
    /// # Errors
    /// What the file system answers; `UnexpectedEof` where there are not so many.
    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()>;
}

/// An open file, of the size that it had when it was looked at.
#[derive(Debug)]
pub struct FileAt {
    file: File,
    size: u64,
}

impl FileAt {
    /// This file; what is appended later is not seen.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for FileAt {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(room, offset)
    }
}
