//! Whole small files, many together.
//!
//! ```text
//! u32  bytes of the table
//! the table, for each file:
//!   varint  its number in the manifest, as the zigzag difference from the one before (the first one's: from the header's)
//!   u8      1: other than the manifest says, 2: its old version is in the basis
//!   where the first is set:  varint size   varint mode   u64 seconds   u32 nanoseconds   u8 attempt
//! an HDE container of the contents, one after another, in the table's order
//! ```
//!
//! The basis of the container is what the receiver holds of those files that say so, one after another in the table's order. The value
//! in the header is BLAKE3 over the table and the contents.

use super::{BadPiece, MAX_ENTRIES, take};
use crate::manifest::Mtime;

/// Files of a bundle: a table of 3 KiB where all is as the manifest says.
pub const MAX_BUNDLE_FILES: usize = 1024;
/// Files of at most this size travel whole, in bundles: a smaller bound would waste streams, a larger one would begin such files
/// anew after each break.
pub const SMALL_FILE_BYTES: u64 = 128 << 10;
/// The longest row of the table.
pub const MAX_ROW_BYTES: usize = 10 + 1 + 5 + 2 + 8 + 4 + 1;
/// Old versions that one bundle may refer to, all together: what a decoder holds in memory for it.
pub const MAX_BUNDLE_BASIS_BYTES: u64 = 4 << 20;

const CHANGED: u8 = 1;
const BASIS: u8 = 2;

/// A small file in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleRow {
    /// Its number in the manifest.
    pub file: u64,
    /// Whether the receiver's old version of it is in the basis.
    pub basis: bool,
    /// As it was read, where that is not as the manifest says.
    pub as_read: Option<AsRead>,
}

/// A small file as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsRead {
    /// Its bytes.
    pub size: u32,
    /// Its permission bits.
    pub mode: u32,
    /// When it was last changed.
    pub mtime: Mtime,
    /// How often reading it began anew.
    pub attempt: u8,
}

/// Appends all before the container: the table and its length. `first` is the file of the header.
pub fn write_bundle(rows: &[BundleRow], first: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut before = first;
    for row in rows {
        let difference = row.file.wrapping_sub(before).cast_signed();
        before = row.file;
        varint(((difference << 1) ^ (difference >> 63)).cast_unsigned(), out);
        let changed = if row.as_read.is_some() { CHANGED } else { 0 };
        out.push(changed | if row.basis { BASIS } else { 0 });
        if let Some(read) = &row.as_read {
            varint(read.size.into(), out);
            varint(read.mode.into(), out);
            out.extend_from_slice(&read.mtime.seconds.to_le_bytes());
            out.extend_from_slice(&read.mtime.nanos.to_le_bytes());
            out.push(read.attempt);
        }
    }
    let bytes = u32::try_from(out.len() - start - 4).expect("a table is at most MAX_BUNDLE_FILES rows");
    out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// A bundle that is not decoded: its rows, its table as it stands there, and the container.
pub type ReadBundle<'a> = (Vec<BundleRow>, &'a [u8], &'a [u8]);

/// Reads all before the container, of a bundle of `count` files whose header names `first`.
///
/// # Errors
/// [`BadPiece`] where the table is not of its form.
pub fn read_bundle(bundle: &[u8], count: u64, first: u64) -> Result<ReadBundle<'_>, BadPiece> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 || count > MAX_BUNDLE_FILES {
        return Err(BadPiece::Range("the number of files"));
    }
    let mut rest = bundle;
    let bytes = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).unwrap_or(usize::MAX);
    let (table, container) = rest.split_at_checked(bytes).ok_or(BadPiece::Short)?;
    let (mut left, mut before) = (table, first);
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let row = read_row(&mut left, before)?;
        before = row.file;
        rows.push(row);
    }
    if left.is_empty() { Ok((rows, table, container)) } else { Err(BadPiece::Range("the length of the table")) }
}

fn read_row(table: &mut &[u8], before: u64) -> Result<BundleRow, BadPiece> {
    let zigzag = read_varint(table)?;
    let difference = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
    let [flags] = take(table)?;
    let row = BundleRow {
        file: before.wrapping_add(difference),
        basis: flags & BASIS != 0,
        as_read: if flags & CHANGED != 0 { Some(read_as_read(table)?) } else { None },
    };
    let ok = row.file < MAX_ENTRIES && flags & !(CHANGED | BASIS) == 0;
    if ok { Ok(row) } else { Err(BadPiece::Range("a row of the bundle")) }
}

fn read_as_read(table: &mut &[u8]) -> Result<AsRead, BadPiece> {
    let number =
        |table: &mut &[u8]| u32::try_from(read_varint(table)?).map_err(|_large| BadPiece::Range("a row of the bundle"));
    let read = AsRead {
        size: number(table)?,
        mode: number(table)?,
        mtime: Mtime { seconds: i64::from_le_bytes(take(table)?), nanos: u32::from_le_bytes(take(table)?) },
        attempt: u8::from_le_bytes(take(table)?),
    };
    let ok = read.mode & !0o777 == 0 && read.mtime.nanos < 1_000_000_000 && read.attempt <= 1;
    if ok { Ok(read) } else { Err(BadPiece::Range("a row of the bundle")) }
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

/// Only the shortest form of a number is one, so that a table has one form.
fn read_varint(bytes: &mut &[u8]) -> Result<u64, BadPiece> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(bytes)?;
        let part = u64::from(byte & 0x7f);
        if (part << shift) >> shift != part || (byte == 0 && shift > 0) {
            break;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(BadPiece::Range("a row of the bundle"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = BundleRow> {
        let as_read = (any::<u32>(), 0..=0o777_u32, any::<i64>(), 0..1_000_000_000_u32, 0..=1_u8);
        let as_read = as_read.prop_map(|(size, mode, seconds, nanos, attempt)| AsRead {
            size,
            mode,
            mtime: Mtime { seconds, nanos },
            attempt,
        });
        (0..MAX_ENTRIES, any::<bool>(), prop::option::of(as_read)).prop_map(|(file, basis, as_read)| BundleRow {
            file,
            basis,
            as_read,
        })
    }

    proptest! {
        #[test]
        fn a_bundle_comes_back_as_it_went(rows in prop::collection::vec(row(), 1..40), first in 0..MAX_ENTRIES) {
            let mut bytes = Vec::new();
            write_bundle(&rows, first, &mut bytes);
            prop_assert!(bytes.len() <= 4 + rows.len() * MAX_ROW_BYTES);
            bytes.extend_from_slice(b"container");
            let count = u64::try_from(rows.len()).unwrap();
            let (read, table, container) = read_bundle(&bytes, count, first).unwrap();
            prop_assert_eq!(&read, &rows);
            prop_assert_eq!(table.len(), bytes.len() - 4 - container.len());
            prop_assert_eq!(container, b"container");
            prop_assert!(read_bundle(&bytes, count + 1, first).is_err());
            prop_assert!(count == 1 || read_bundle(&bytes, count - 1, first).is_err());
        }

        #[test]
        fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count: u64, first in 0..MAX_ENTRIES) {
            if let Ok((rows, table, _)) = read_bundle(&bytes, count % 6, first) {
                let mut again = Vec::new();
                write_bundle(&rows, first, &mut again);
                prop_assert_eq!(&again[4..], table, "a table has one form");
            }
        }
    }

    #[test]
    fn what_is_as_the_manifest_says_takes_two_bytes_a_file() {
        let rows: Vec<_> = (5..1005).map(|file| BundleRow { file, basis: true, as_read: None }).collect();
        let mut bytes = Vec::new();
        write_bundle(&rows, 5, &mut bytes);
        assert_eq!(bytes.len(), 2004);
        assert!(read_bundle(&bytes, u64::MAX, 5).is_err() && read_bundle(&bytes, 0, 5).is_err());
    }
}
