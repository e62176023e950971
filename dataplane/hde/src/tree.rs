//! The BLAKE3 of bytes from those of their parts.

use std::{io, thread};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::read_at::ReadAt;

/// Parts that are read and hashed at once, where nothing else divides the bytes: they stay in the processor's cache.
pub(crate) const PART_BYTES: u64 = 256 << 10;

/// The value of one part: its chaining value, or its BLAKE3 where it is all there is. `offset` is a multiple of the parts' size,
/// which is a power of two of at least 1,024.
pub(crate) fn part_value(bytes: &[u8], offset: u64, alone: bool) -> [u8; 32] {
    if alone {
        return *blake3::hash(bytes).as_bytes();
    }
    blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// Folds the values of parts, in their order, into the root.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    count: u64,
    stack: Vec<ChainingValue>,
}

impl Tree {
    pub(crate) fn push(&mut self, value: [u8; 32]) {
        // As many subtrees are complete as the count has bits; the last one is left open, for it may be the root.
        while self.stack.len() > usize::try_from(self.count.count_ones()).unwrap_or(0) {
            self.merge();
        }
        self.stack.push(value);
        self.count += 1;
    }

    fn merge(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }

    /// The root of all; of nothing that of no bytes.
    pub(crate) fn root(mut self) -> [u8; 32] {
        while self.stack.len() > 2 {
            self.merge();
        }
        match self.stack[..] {
            [left, right] => *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
            [only] => only,
            _ => *blake3::hash(&[]).as_bytes(),
        }
    }
}

/// The BLAKE3 of all bytes.
pub(crate) fn root(bytes: &dyn ReadAt, threads: usize) -> io::Result<[u8; 32]> {
    let parts = bytes.size().div_ceil(PART_BYTES);
    let each = parts.div_ceil(u64::try_from(threads.max(1)).unwrap_or(1)).max(1);
    let values = |range: std::ops::Range<u64>| -> io::Result<Vec<[u8; 32]>> {
        let mut room = vec![0; usize::try_from(PART_BYTES).unwrap_or(0)];
        range
            .map(|part| {
                let offset = part * PART_BYTES;
                let length = usize::try_from((bytes.size() - offset).min(PART_BYTES)).unwrap_or(0);
                bytes.read_at(offset, &mut room[..length])?;
                Ok(part_value(&room[..length], offset, parts == 1))
            })
            .collect()
    };
    let mut tree = Tree::default();
    thread::scope(|scope| -> io::Result<()> {
        let ranges = (0..parts).step_by(usize::try_from(each).unwrap_or(1)).map(|first| first..parts.min(first + each));
        let running: Vec<_> = ranges.map(|range| scope.spawn(|| values(range))).collect();
        for thread in running {
            let values = thread.join().map_err(|_panic| io::Error::other("a thread that hashes"))??;
            values.into_iter().for_each(|value| tree.push(value));
        }
        Ok(())
    })?;
    Ok(tree.root())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_what_b3sum_prints() {
        for length in [0, 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 7, 5 << 20, 8 << 20] {
            let bytes: Vec<u8> = (0..length).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
            for threads in [1, 3] {
                assert_eq!(root(&bytes, threads).unwrap(), *blake3::hash(&bytes).as_bytes(), "{length}");
            }
        }
    }
}
