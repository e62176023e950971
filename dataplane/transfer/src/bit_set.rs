//! A bit for each entry of a tree: 12 MB for a hundred million.

/// Grows with the highest bit that was set.
#[derive(Debug, Default)]
pub(crate) struct BitSet(Vec<u64>);

impl BitSet {
    /// Sets a bit; false where it was set.
    pub(crate) fn insert(&mut self, bit: u64) -> bool {
        let (word, mask) = place(bit);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & mask == 0;
        self.0[word] |= mask;
        new
    }

    /// Clears a bit; false where it was clear.
    pub(crate) fn remove(&mut self, bit: u64) -> bool {
        let (word, mask) = place(bit);
        let was = self.contains(bit);
        if was {
            self.0[word] &= !mask;
        }
        was
    }

    pub(crate) fn contains(&self, bit: u64) -> bool {
        let (word, mask) = place(bit);
        self.0.get(word).is_some_and(|bits| bits & mask != 0)
    }
}

fn place(bit: u64) -> (usize, u64) {
    (usize::try_from(bit / 64).unwrap_or(usize::MAX), 1 << (bit % 64))
}
