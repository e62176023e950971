//! The right edge of a growing tree: one hash for each full subtree, largest first; enough to append and to know the root.

use crate::{Hash, NodeAddress, node_hash};

/// The full subtrees that a tree of some size is made of: one for each binary digit of the size that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

/// These hashes cannot be the frontier of a tree of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves has {wanted} full subtrees, not {found}")]
pub struct FrontierError {
    /// The tree's size.
    pub size: u64,
    /// How many full subtrees such a tree has.
    pub wanted: u32,
    /// How many were given.
    pub found: usize,
}

impl Frontier {
    /// The frontier of the tree without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A frontier that was kept.
    ///
    /// # Errors
    /// The number of hashes does not fit the size.
    pub fn from_parts(size: u64, roots: Vec<Hash>) -> Result<Self, FrontierError> {
        let wanted = size.count_ones();
        if usize::try_from(wanted) != Ok(roots.len()) {
            return Err(FrontierError { size, wanted, found: roots.len() });
        }
        Ok(Self { size, roots })
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the full subtrees, largest first: what is to be kept.
    #[must_use]
    pub fn roots(&self) -> &[Hash] {
        &self.roots
    }

    /// Appends a leaf by its hash. Returns every full subtree that is complete with it, the leaf itself first: what proofs will ask for.
    pub fn append(&mut self, leaf: Hash) -> Vec<(NodeAddress, Hash)> {
        let mut address = NodeAddress { level: 0, index: self.size };
        let mut hash = leaf;
        let mut complete = vec![(address, hash)];
        // Adding one to the size carries through its trailing ones: each carry joins two subtrees of one size.
        for _ in 0..self.size.trailing_ones() {
            let left = self.roots.pop().expect("the frontier has one hash for each set digit of the size");
            hash = node_hash(&left, &hash);
            address = NodeAddress { level: address.level + 1, index: address.index / 2 };
            complete.push((address, hash));
        }
        self.roots.push(hash);
        self.size += 1;
        complete
    }

    /// The root: MTH of RFC 6962.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.roots.iter().rev();
        let Some(last) = smallest_first.next() else { return Hash::of_empty_tree() };
        smallest_first.fold(*last, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf_hash;

    #[test]
    fn roots_are_those_of_the_reference_tree() {
        // Leaves and roots of Certificate Transparency's reference implementation.
        let leaves: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let mut frontier = Frontier::new();
        for leaf in leaves {
            frontier.append(leaf_hash(leaf));
        }
        assert_eq!(frontier.root().to_string(), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn refuses_parts_that_do_not_fit() {
        assert!(Frontier::from_parts(5, vec![leaf_hash(b"a")]).is_err());
        assert!(Frontier::from_parts(4, vec![leaf_hash(b"a")]).is_ok());
    }
}
