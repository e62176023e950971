//! Writes past the kernel's page cache. A received file is not read again here, so a copy of it in the cache costs processor
//! time and memory, and pushes out what others read; and what is to be durable at once gains nothing by waiting there.

use std::{fs::File, io, ops::Deref, os::unix::fs::FileExt};

use rustix::{
    fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl, fstatfs},
    io::Errno,
};

/// Places, lengths and memory are a multiple of this: what the devices in use want, or a multiple of it.
const ALIGNMENT: usize = 4096;
/// Smaller files go through the cache: somebody may read them soon, and the kernel puts many of them into few writes.
const FROM_FILE_BYTES: u64 = 8 << 20;
/// Shorter stretches are not worth a write of their own.
const FROM_BYTES: usize = 64 << 10;

/// What file systems call themselves that lay room out by noting extents: ext4, XFS, Btrfs and F2FS. Others may fill it with
/// zeros (those in memory, exFAT, NTFS, and what emulates it over a network), for minutes, while all other files of the transfer wait.
const WITH_EXTENTS: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

/// Gives a new file its length. True where it was given all of its room, too: in one piece as far as there is one, and what does
/// not fit is found out now.
pub(super) fn lay_out(file: &File, bytes: u64) -> io::Result<bool> {
    if Way::of(bytes) == Way::Direct && WITH_EXTENTS.contains(&fstatfs(file)?.f_type) {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(true),
            Err(full @ (Errno::NOSPC | Errno::DQUOT)) => return Err(full.into()),
            // Not every file system can; it is written all the same.
            Err(_unknown) => {}
        }
    }
    file.set_len(bytes).map(|()| false)
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the page cache.
    Cached,
    /// Past it, where that is possible.
    Direct,
}

impl Way {
    /// For a file of this size.
    pub(super) fn of(file_bytes: u64) -> Self {
        if file_bytes >= FROM_FILE_BYTES { Self::Direct } else { Self::Cached }
    }

    /// Writes all of it.
    pub(super) fn write(self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % ALIGNMENT);
        let start = usize::try_from(offset).unwrap_or(1);
        let fits = blocks.len() >= FROM_BYTES && start.is_multiple_of(ALIGNMENT) && is_aligned(blocks);
        if self == Self::Direct && fits && past_cache(file, offset, blocks)? {
            return file.write_all_at(rest, offset + u64::try_from(blocks.len()).unwrap_or_default());
        }
        file.write_all_at(bytes, offset)
    }
}

/// Writes whole blocks past the cache; false where that cannot be.
fn past_cache(file: &File, offset: u64, blocks: &[u8]) -> io::Result<bool> {
    let flags = fcntl_getfl(file)?;
    // Not every file system knows it.
    if fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(false);
    }
    let written = file.write_all_at(blocks, offset);
    fcntl_setfl(file, flags)?;
    match written {
        Ok(()) => Ok(true),
        Err(error) if is_for_cache(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a write may succeed through the cache: the device has larger blocks, or the file system knows the flag and not the write.
fn is_for_cache(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
}

/// Bytes that begin where a direct write may.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Forgets what it holds. So many bytes may be appended to what this gives, and stay where they are put.
    pub(super) fn begin(&mut self, room: usize) -> &mut Vec<u8> {
        self.bytes.clear();
        self.bytes.reserve(room + ALIGNMENT);
        self.start = self.bytes.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        self.bytes.resize(self.start, 0);
        &mut self.bytes
    }

    /// The same, with so many zeros, to be written over.
    pub(super) fn zeros(&mut self, len: usize) -> &mut [u8] {
        self.begin(len);
        self.bytes.resize(self.start + len, 0);
        &mut self.bytes[self.start..]
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_begins_at_a_block() {
        let mut aligned = Aligned::default();
        for len in [1, 4096, 1 << 20, 100, 4 << 20] {
            aligned.begin(len).extend(std::iter::repeat_n(7, len));
            assert!(is_aligned(&aligned) && *aligned == *vec![7; len]);
            aligned.zeros(len).fill(8);
            assert!(is_aligned(&aligned) && *aligned == *vec![8; len]);
        }
    }

    #[test]
    fn only_file_systems_with_extents_lay_a_file_out_and_all_give_it_its_length() {
        for dir in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
            for bytes in [1, FROM_FILE_BYTES] {
                let file = File::create(dir.path().join("file")).unwrap();
                let extents = WITH_EXTENTS.contains(&fstatfs(&file).unwrap().f_type);
                let laid_out = lay_out(&file, bytes).unwrap();
                // One of an older kind (ext3) says that it cannot.
                assert!(!laid_out || (extents && bytes >= FROM_FILE_BYTES), "{bytes}");
                assert_eq!(file.metadata().unwrap().len(), bytes);
            }
        }
    }

    #[test]
    fn what_cannot_be_written_past_the_cache_is_written_through_it() {
        let is = |errno: Errno| is_for_cache(&errno.into());
        assert!(is(Errno::INVAL) && is(Errno::OPNOTSUPP) && is(Errno::NOTSUP));
        assert!(!is(Errno::NOSPC) && !is(Errno::DQUOT) && !is(Errno::IO));
    }

    #[test]
    fn both_ways_write_the_same_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<u8> = (0..(1 << 20) + 77).map(|n: usize| u8::try_from(n % 251).unwrap()).collect();
        let mut aligned = Aligned::default();
        aligned.begin(contents.len()).extend_from_slice(&contents);
        for (offset, bytes) in [(0, &*aligned), (1 << 20, &aligned[..1 << 20]), (3, &*aligned), (4096, &aligned[1..])] {
            let [direct, cached] = [("direct", Way::Direct), ("cached", Way::Cached)].map(|(name, way)| {
                let path = dir.path().join(format!("{name}-{offset}"));
                let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
                file.set_len(4 << 20).unwrap();
                way.write(&file, offset, bytes).unwrap();
                std::fs::read(path).unwrap()
            });
            assert!(direct == cached, "at {offset}");
        }
    }
}
