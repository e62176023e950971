//! What segments hold, written so that zeros take no room.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::{FallocateFlags, fallocate};

use super::direct::Way;

/// Zeros that are not written where the file has none but zeros: a block of most file systems.
const HOLE_BYTES: usize = 4096;

/// What a segment holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Contents<'a> {
    Bytes(&'a [u8]),
    /// So many zeros.
    Zeros(usize),
}

impl Contents<'_> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Zeros(len) => len,
        }
    }

    /// Bytes that are written: holes are not.
    pub(super) fn data(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.chunks(HOLE_BYTES).filter(|chunk| !is_zero(chunk)).map(<[u8]>::len).sum(),
            Self::Zeros(_) => 0,
        }
    }
}

pub(super) fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn is_zero(chunk: &[u8]) -> bool {
    chunk.iter().all(|byte| *byte == 0)
}

/// Writes bytes at their place; stretches of zeros are, or become, holes.
pub(super) fn write(file: &File, offset: u64, bytes: &[u8], has_holes: bool, way: Way) -> io::Result<()> {
    let mut start = 0;
    while start < bytes.len() {
        let data =
            bytes[start..].chunks(HOLE_BYTES).take_while(|chunk| !is_zero(chunk)).map(<[u8]>::len).sum::<usize>();
        way.write(file, offset + wide(start), &bytes[start..start + data])?;
        start += data;
        let hole = bytes[start..].chunks(HOLE_BYTES).take_while(|chunk| is_zero(chunk)).map(<[u8]>::len).sum::<usize>();
        // What an earlier attempt left there may be anything, and what was laid out takes room.
        if hole > 0 && !has_holes {
            clear(file, offset + wide(start), hole)?;
        }
        start += hole;
    }
    Ok(())
}

/// Makes a hole, or zeros where the file system knows no holes.
pub(super) fn clear(file: &File, offset: u64, len: usize) -> io::Result<()> {
    let punched = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, punched, offset, wide(len)) {
        Ok(()) => Ok(()),
        Err(_unknown) => file.write_all_at(&vec![0; len], offset),
    }
}
