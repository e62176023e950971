//! Segments that need not travel, in runs.
//!
//! ```text
//! u64 the first segment's number   u32 how many   u64 where the first begins at the receiver, or all ones for zeros   32 bytes value
//! ```
//!
//! The value is that of the segment, or, of several, BLAKE3 over their values one after another. What the segments of a run are made of
//! lies at the receiver one after another, too.

use super::{BadPiece, MAX_FILE_BYTES, take};

/// Bytes of a run.
pub const KNOWN_BYTES: usize = 52;
/// Runs of a list: what fits one piece.
pub const MAX_KNOWN: usize = (1 << 20) / KNOWN_BYTES;
/// Segments of a run: all of them are asked for again where the run does not verify.
pub const MAX_RUN: u32 = 256;
/// Segments of a list, all runs together: what is read and verified for one piece.
pub const MAX_KNOWN_SEGMENTS: u64 = 4096;

const ZEROS: u64 = u64::MAX;

/// Where the receiver finds a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// All of it is zero.
    Zeros,
    /// In its old version of the file.
    Basis {
        /// From this offset.
        offset: u64,
    },
}

/// Segments that need not travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The number of the first one in the file.
    pub segment: u64,
    /// How many.
    pub count: u32,
    /// Where the receiver finds the first one.
    pub source: Source,
    /// What proves them.
    pub value: [u8; 32],
}

/// Writes a list of runs.
pub fn write_known(list: &[Known], out: &mut Vec<u8>) {
    for known in list {
        let offset = match known.source {
            Source::Zeros => ZEROS,
            Source::Basis { offset } => offset,
        };
        out.extend_from_slice(&known.segment.to_le_bytes());
        out.extend_from_slice(&known.count.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&known.value);
    }
}

/// Reads a list of runs.
///
/// # Errors
/// [`BadPiece`] where it is no list, or one beyond its bounds.
pub fn read_known(mut list: &[u8]) -> Result<Vec<Known>, BadPiece> {
    if list.is_empty() || !list.len().is_multiple_of(KNOWN_BYTES) || list.len() / KNOWN_BYTES > MAX_KNOWN {
        return Err(BadPiece::Range("the length of the list"));
    }
    let (mut known, mut segments) = (Vec::with_capacity(list.len() / KNOWN_BYTES), 0_u64);
    while !list.is_empty() {
        let segment = u64::from_le_bytes(take(&mut list)?);
        let count = u32::from_le_bytes(take(&mut list)?);
        let source = match u64::from_le_bytes(take(&mut list)?) {
            ZEROS => Source::Zeros,
            offset if offset <= MAX_FILE_BYTES => Source::Basis { offset },
            _ => return Err(BadPiece::Range("the offset")),
        };
        segments += u64::from(count);
        if !(1..=MAX_RUN).contains(&count)
            || segments > MAX_KNOWN_SEGMENTS
            || segment.checked_add(count.into()).is_none()
        {
            return Err(BadPiece::Range("a run of segments"));
        }
        known.push(Known { segment, count, source, value: take(&mut list)? });
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_of_known_segments_comes_back_and_is_bounded() {
        let run = |count| Known { segment: 2, count, source: Source::Basis { offset: 77 }, value: [2; 32] };
        let list = [Known { segment: 1, count: 1, source: Source::Zeros, value: [1; 32] }, run(MAX_RUN)];
        let written = |list: &[Known]| {
            let mut bytes = Vec::new();
            write_known(list, &mut bytes);
            bytes
        };
        assert_eq!(read_known(&written(&list)).unwrap(), list);
        assert!(read_known(&written(&list)[1..]).is_err());
        for wrong in [run(0), run(MAX_RUN + 1), Known { segment: u64::MAX, ..run(1) }] {
            assert!(read_known(&written(&[wrong])).is_err(), "{wrong:?}");
        }
        assert!(read_known(&written(&[run(MAX_RUN); 17])).is_err());
    }

    proptest! {
        #[test]
        fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(read_known(&bytes));
        }
    }
}
