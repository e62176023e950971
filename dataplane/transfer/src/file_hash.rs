//! The BLAKE3 of a file from the chaining values of its segments, in whatever order they come (D19).
//!
//! Values fold together as soon as both halves of a subtree are there, so what is kept is about the logarithm of the number
//! of segments for each stretch that is complete.

use std::collections::BTreeMap;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use dataplane_hde::MAX_SEGMENT_BYTES;

/// A file of at least so many bytes is divided into longer segments …
const LARGE_BYTES: u64 = 64 << 20;
/// … of so many times the bytes. They compress better, and there are enough of them to be encoded at once; of a smaller file
/// several threads are quicker with more segments.
const LONGER: u32 = 4;

/// How the files of a transfer are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    /// Of most files: a power of two.
    pub(crate) segment_bytes: u32,
    /// Whether both ends know that large files have longer ones.
    pub(crate) grows: bool,
}

impl Division {
    /// How a file of so many bytes is divided.
    pub(crate) fn of(self, file_bytes: u64) -> Segments {
        let is_large = self.grows && file_bytes >= LARGE_BYTES;
        let segment_bytes = if is_large { self.longest() } else { self.segment_bytes };
        Segments { file_bytes, segment_bytes }
    }

    /// The longest segment that a file may have.
    pub(crate) fn longest(self) -> u32 {
        let longest = if self.grows { self.segment_bytes.saturating_mul(LONGER) } else { self.segment_bytes };
        longest.min(MAX_SEGMENT_BYTES).max(self.segment_bytes)
    }
}

/// How a file is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segments {
    /// The file's bytes; not zero.
    pub(crate) file_bytes: u64,
    /// A power of two, at least one chunk of BLAKE3 (1,024 bytes).
    pub(crate) segment_bytes: u32,
}

impl Segments {
    pub(crate) fn count(self) -> u64 {
        self.file_bytes.div_ceil(u64::from(self.segment_bytes))
    }

    pub(crate) fn offset(self, segment: u64) -> u64 {
        segment * u64::from(self.segment_bytes)
    }

    /// The segment's bytes; none where there is no such segment.
    pub(crate) fn len(self, segment: u64) -> Option<usize> {
        let offset = segment.checked_mul(self.segment_bytes.into()).filter(|offset| *offset < self.file_bytes)?;
        usize::try_from((self.file_bytes - offset).min(self.segment_bytes.into())).ok()
    }

    /// The value of a segment: its chaining value, or the root where it is all there is.
    pub(crate) fn value(self, segment: u64, bytes: &[u8]) -> [u8; 32] {
        if self.count() == 1 {
            return *blake3::hash(bytes).as_bytes();
        }
        // The offset is a multiple of the segment's size, which is one of 1,024; and no segment is empty.
        blake3::Hasher::new().set_input_offset(self.offset(segment)).update(bytes).finalize_non_root()
    }
}

/// Folds values into the root.
#[derive(Debug)]
pub(crate) struct FileHasher {
    count: u64,
    nodes: BTreeMap<(u32, u64), ChainingValue>,
    root: Option<[u8; 32]>,
}

impl FileHasher {
    pub(crate) fn new(segments: Segments) -> Self {
        Self { count: segments.count(), nodes: BTreeMap::new(), root: None }
    }

    /// Adds a segment's value; each only once.
    pub(crate) fn add(&mut self, segment: u64, value: [u8; 32]) {
        if self.count == 1 {
            self.root = Some(value);
            return;
        }
        let (mut level, mut index, mut value) = (0, segment, value);
        let mut width = self.count;
        loop {
            let alone = index.is_multiple_of(2) && index + 1 == width;
            if !alone {
                let Some(other) = self.nodes.remove(&(level, index ^ 1)) else {
                    self.nodes.insert((level, index), value);
                    return;
                };
                let (left, right) = if index.is_multiple_of(2) { (value, other) } else { (other, value) };
                if width == 2 {
                    self.root = Some(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes());
                    return;
                }
                value = merge_subtrees_non_root(&left, &right, Mode::Hash);
            }
            // A node without a right sibling goes up as it is.
            (level, index, width) = (level + 1, index / 2, width.div_ceil(2));
        }
    }

    /// The root, once all values are there.
    pub(crate) fn root(&self) -> Option<[u8; 32]> {
        self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn large_files_have_longer_segments_where_both_ends_know_it_and_none_is_longer_than_may_be() {
        let grows = |segment_bytes| Division { segment_bytes, grows: true };
        let of = |division: Division, file_bytes| division.of(file_bytes).segment_bytes;
        assert_eq!([of(grows(1 << 20), (64 << 20) - 1), of(grows(1 << 20), 64 << 20)], [1 << 20, 4 << 20]);
        assert_eq!(
            [of(grows(64 << 10), 1 << 30), of(grows(2 << 20), 1 << 30), of(grows(4 << 20), 1 << 30)],
            [256 << 10, 4 << 20, 4 << 20]
        );
        assert_eq!(of(Division { grows: false, ..grows(1 << 20) }, 1 << 30), 1 << 20);
    }

    proptest! {
        #[test]
        fn any_order_gives_what_b3sum_prints(
            (count, order) in (1_u64..40).prop_flat_map(|count| {
                (Just(count), Just((0..count).collect::<Vec<_>>()).prop_shuffle())
            }),
            last in 1_u64..=2048,
        ) {
            let segments = Segments { file_bytes: (count - 1) * 2048 + last, segment_bytes: 2048 };
            let bytes: Vec<u8> = (0..segments.file_bytes).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
            let mut hasher = FileHasher::new(segments);
            for segment in order {
                prop_assert_eq!(hasher.root(), None);
                let start = usize::try_from(segments.offset(segment)).unwrap();
                let part = &bytes[start..start + segments.len(segment).unwrap()];
                hasher.add(segment, segments.value(segment, part));
            }
            prop_assert_eq!(hasher.root(), Some(*blake3::hash(&bytes).as_bytes()));
            prop_assert_eq!(segments.len(count), None);
        }
    }
}
