//! Stretches of files for which a file system holds nothing: they are not read.

use std::{fs::File, os::fd::AsFd};

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
