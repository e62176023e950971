//! The names of one folder in the order of the walk, in little more than their bytes: a million of them take some 25 MB.

use std::io;

use proto_wire::tree_path::{MAX_NAME_BYTES, order};

use crate::confine::{Folder, Listed};

/// Bits of a place that hold a name's length, and below them the one for folders.
const LEN_BITS: u32 = 16;

/// Names, and how far they were taken.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    /// Where a name begins, how long it is, whether it is a folder's.
    places: Vec<u64>,
    taken: usize,
}

impl Packed {
    /// The names of a folder, in order.
    pub(crate) fn list(folder: &Folder) -> io::Result<Self> {
        let mut packed = Self::default();
        for listed in folder.names()? {
            packed.push(&listed?)?;
        }
        packed.sort();
        Ok(packed)
    }

    fn push(&mut self, listed: &Listed) -> io::Result<()> {
        let (start, len) = (u64::try_from(self.bytes.len()), u64::try_from(listed.name.len()));
        let (Ok(start), Ok(len)) = (start, len) else { return Err(io::Error::from(io::ErrorKind::OutOfMemory)) };
        // Linux has no longer ones; 2^47 bytes of names do not fit any memory.
        if listed.name.len() > 4 * MAX_NAME_BYTES || start >= 1 << (63 - LEN_BITS) {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        }
        self.bytes.extend_from_slice(&listed.name);
        self.places.push(start << (LEN_BITS + 1) | len << 1 | u64::from(listed.is_folder));
        Ok(())
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.places.sort_unstable_by(|left, right| order(get(bytes, *left), get(bytes, *right)));
    }
}

fn get(bytes: &[u8], place: u64) -> (&[u8], bool) {
    let start = usize::try_from(place >> (LEN_BITS + 1)).unwrap_or(usize::MAX);
    let len = usize::try_from(place >> 1 & ((1 << LEN_BITS) - 1)).unwrap_or(usize::MAX);
    let end = start.saturating_add(len);
    (bytes.get(start..end).unwrap_or_default(), place & 1 == 1)
}

impl Iterator for Packed {
    type Item = Listed;

    fn next(&mut self) -> Option<Listed> {
        let place = self.places.get(self.taken).copied()?;
        self.taken += 1;
        let (name, is_folder) = get(&self.bytes, place);
        Some(Listed { name: name.to_vec(), is_folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_in_the_order_of_paths() {
        let mut packed = Packed::default();
        for (name, is_folder) in [("b", false), ("a", true), ("a-", false), ("a0", false), ("", false)] {
            packed.push(&Listed { name: name.into(), is_folder }).unwrap();
        }
        packed.sort();
        let names: Vec<_> = packed.map(|listed| (String::from_utf8(listed.name).unwrap(), listed.is_folder)).collect();
        let expected = [("", false), ("a-", false), ("a", true), ("a0", false), ("b", false)];
        assert_eq!(names, expected.map(|(name, is_folder)| (name.to_owned(), is_folder)));
    }
}
