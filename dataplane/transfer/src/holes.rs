//! Stretches of files for which a file system holds nothing: they are not read.

use std::{fs::File, os::fd::AsFd};

use dataplane_hde::block_digests;
use rustix::{fs::SeekFrom, io::Errno};

/// Whether the file system holds nothing there.
pub(crate) fn is_hole(file: &File, offset: u64, len: usize) -> bool {
    let end = offset + u64::try_from(len).unwrap_or_default();
    match rustix::fs::seek(file.as_fd(), SeekFrom::Data(offset)) {
        Ok(data) => data >= end,
        // No data up to the end of the file. Other errors: the file system does not know holes.
        Err(error) => error == Errno::NXIO,
    }
}

/// The digest of a block of zeros, made once.
#[derive(Debug)]
pub(crate) struct Zeros {
    block: Vec<u8>,
    digest: Vec<u8>,
}

impl Zeros {
    pub(crate) fn new(block_bytes: u32) -> Self {
        let block = vec![0; usize::try_from(block_bytes.max(1)).unwrap_or(usize::MAX)];
        let mut digest = Vec::new();
        block_digests(&block, block_bytes, &mut digest);
        Self { block, digest }
    }

    /// What `block_digests` says of so many zeros.
    pub(crate) fn digests(&self, len: usize, digests: &mut Vec<u8>) {
        for _ in 0..len / self.block.len() {
            digests.extend_from_slice(&self.digest);
        }
        let rest = len % self.block.len();
        if rest > 0 {
            block_digests(&self.block[..rest], u32::MAX, digests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_holes_are_those_of_zeros() {
        for len in [0, 1, 1 << 16, (1 << 20) - 1, 1 << 20] {
            let (mut made, mut read) = (Vec::new(), Vec::new());
            Zeros::new(1 << 16).digests(len, &mut made);
            block_digests(&vec![0; len], 1 << 16, &mut read);
            assert_eq!(made, read, "{len}");
        }
    }
}
