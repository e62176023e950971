//! Bytes at rest.

use std::{fmt, fs::File, io, os::unix::fs::FileExt, sync::Arc};

/// Bytes at rest, read at any place by several threads.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `room` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Where they cannot be read, or are fewer than `room` asks for.
    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()>;
}

/// A file, read by `pread`: it is never mapped, so one that becomes shorter is an error and not a signal.
#[derive(Debug)]
pub struct FileAt {
    file: File,
    size: u64,
}

impl FileAt {
    /// The file as long as it is now.
    ///
    /// # Errors
    /// Where its size cannot be read.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
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

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        u64::try_from(self.len()).unwrap_or(u64::MAX)
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        let held = usize::try_from(offset).ok().and_then(|at| self.get(at..)).and_then(|held| held.get(..room.len()));
        room.copy_from_slice(held.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn size(&self) -> u64 {
        self.as_ref().size()
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        self.as_ref().read_at(offset, room)
    }
}
