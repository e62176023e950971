//! Bytes on their way into the store: hashed while they are written, or, where the file system can, shared and then hashed.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
};

use proto_model::Digest;

/// How much is read at once: what the processor's cache holds.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;
/// Zeros are left out by stretches of so many: a hole needs whole blocks.
const HOLE_BYTES: usize = 4096;
/// How long a stretch is that is looked at whole.
const HOLE_STRETCH: usize = 64 << 10;

/// A file from its beginning, whatever its own position is, which others may move.
#[derive(Debug)]
pub(crate) struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl<'a> FromStart<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for FromStart<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(room, self.at)?;
        self.at += bytes(read);
        Ok(read)
    }
}

/// Shares a file's blocks with another; false where the file system cannot, or the two are not on the same one.
pub(crate) fn reflink(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

/// Copies all that comes and hashes it; `room` is asked before each stretch is written. Zeros become holes.
pub(crate) fn copy<E: From<io::Error>>(
    mut from: impl Read,
    to: &mut &File,
    mut room: impl FnMut(u64) -> Result<(), E>,
) -> Result<(Digest, u64), E> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut size = 0_u64;
    let mut ends_in_hole = false;
    loop {
        let filled = fill(&mut from, &mut buffer)?;
        let Some(read) = buffer.get(..filled).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
        size += bytes(read.len());
        for stretch in read.chunks(HOLE_STRETCH) {
            ends_in_hole = stretch.len() >= HOLE_BYTES && stretch.iter().all(|byte| *byte == 0);
            if ends_in_hole {
                to.seek(SeekFrom::Current(i64::try_from(stretch.len()).unwrap_or(i64::MAX)))?;
            } else {
                room(bytes(stretch.len()))?;
                to.write_all(stretch)?;
            }
        }
    }
    if ends_in_hole {
        to.set_len(size)?;
    }
    Ok((Digest::from_bytes(*hasher.finalize().as_bytes()), size))
}

/// Hashes all that comes.
pub(crate) fn hash(mut from: impl Read) -> io::Result<(Digest, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut size = 0_u64;
    loop {
        let filled = fill(&mut from, &mut buffer)?;
        let Some(read) = buffer.get(..filled).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
        size += bytes(read.len());
    }
    Ok((Digest::from_bytes(*hasher.finalize().as_bytes()), size))
}

pub(crate) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

pub(crate) fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
