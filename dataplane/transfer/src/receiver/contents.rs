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

/// What is where nothing was written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// A hole: zeros need not be written.
    Holes,
    /// Anything: an earlier attempt may have written there. Zeros become holes.
    Old,
    /// Room that was laid out, and stays the file's: zeros are written as such.
    Room,
}

/// Writes bytes at their place; stretches of zeros are, or become, holes where the file has none of its room yet.
pub(super) fn write(file: &File, offset: u64, bytes: &[u8], ground: Ground, way: Way) -> io::Result<()> {
    let mut start = 0;
    while start < bytes.len() {
        let data =
            bytes[start..].chunks(HOLE_BYTES).take_while(|chunk| !is_zero(chunk)).map(<[u8]>::len).sum::<usize>();
        way.write(file, offset + wide(start), &bytes[start..start + data])?;
        start += data;
        let hole = bytes[start..].chunks(HOLE_BYTES).take_while(|chunk| is_zero(chunk)).map(<[u8]>::len).sum::<usize>();
        if hole > 0 {
            clear(file, offset + wide(start), hole, ground)?;
        }
        start += hole;
    }
    Ok(())
}

/// Makes zeros.
pub(super) fn clear(file: &File, offset: u64, len: usize, ground: Ground) -> io::Result<()> {
    let how = match ground {
        Ground::Holes => return Ok(()),
        Ground::Old => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        // What is given back could be somebody else's before it is needed.
        Ground::Room => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    };
    match fallocate(file, how, offset, wide(len)) {
        Ok(()) => Ok(()),
        // Not every file system can.
        Err(_unknown) => file.write_all_at(&vec![0; len], offset),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn zeros_are_zeros_on_any_ground_and_give_back_no_room_that_was_laid_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = vec![7; 1 << 20];
        contents[64 << 10..256 << 10].fill(0);
        for (name, ground) in [("holes", Ground::Holes), ("old", Ground::Old), ("room", Ground::Room)] {
            let path = dir.path().join(name);
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            file.set_len(wide(contents.len())).unwrap();
            if ground != Ground::Holes {
                file.write_all_at(&vec![9; contents.len()], 0).unwrap();
            }
            file.sync_all().unwrap();
            let before = file.metadata().unwrap().blocks();
            write(&file, 0, &contents, ground, Way::Cached).unwrap();
            file.sync_all().unwrap();
            assert!(std::fs::read(&path).unwrap() == contents, "{name}");
            if ground == Ground::Room {
                assert!(file.metadata().unwrap().blocks() >= before, "{name}");
            }
        }
    }
}
