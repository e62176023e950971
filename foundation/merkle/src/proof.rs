//! Inclusion and consistency proofs (RFC 6962 sections 2.1.1 and 2.1.2), made of stored full subtrees and verified as RFC 9162 does.

use std::collections::BTreeSet;

use crate::{Hash, leaf_hash, node_hash};

/// The most hashes that a proof can have: a path through 64 levels, and one more for consistency. Longer ones are refused unread.
pub const MAX_PROOF_HASHES: usize = 65;

/// A full subtree: the one of 2^`level` leaves that begins at leaf `index` · 2^`level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    /// 0 for a leaf.
    pub level: u8,
    /// From the left, from 0.
    pub index: u64,
}

/// A proof cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The tree has no such leaf, or no such beginning.
    #[error("{asked} is outside of a tree of {size} leaves")]
    OutOfRange {
        /// What was asked for.
        asked: u64,
        /// The tree's size.
        size: u64,
    },
    /// What is stored is not whole.
    #[error("the hash of the full subtree at level {}, index {} is missing", address.level, address.index)]
    Missing {
        /// Which one.
        address: NodeAddress,
    },
}

/// A proof does not prove what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The sizes are impossible.
    #[error("{asked} is outside of a tree of {size} leaves")]
    OutOfRange {
        /// The leaf, or the smaller size.
        asked: u64,
        /// The tree's size.
        size: u64,
    },
    /// It has too many or too few hashes.
    #[error("the proof has {found} hashes, which does not fit the sizes")]
    WrongLength {
        /// How many it has.
        found: usize,
    },
    /// It leads to another root.
    #[error("the proof leads to another root")]
    WrongRoot,
}

/// A run of leaves that is one term of a proof: `start` is a multiple of the power of two that is at least its length.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    end: u64,
}

impl Run {
    fn len(self) -> u64 {
        self.end - self.start
    }

    /// Parted at RFC 6962's k, the largest power of two below the length, which is at least 2.
    fn halves(self) -> (Self, Self) {
        let middle = self.start + (1 << (self.len() - 1).ilog2());
        (Self { start: self.start, end: middle }, Self { start: middle, end: self.end })
    }

    /// The full subtrees that the run is made of, left to right.
    fn full_subtrees(self) -> Vec<NodeAddress> {
        let mut addresses = Vec::new();
        let mut start = self.start;
        while start < self.end {
            let left = self.end - start;
            let level = u8::try_from(left.ilog2()).expect("an exponent of a u64 is below 64");
            addresses.push(NodeAddress { level, index: start >> level });
            start += 1 << level;
        }
        addresses
    }

    fn hash(self, node: &mut impl FnMut(NodeAddress) -> Option<Hash>) -> Result<Hash, ProofError> {
        let mut folded = None;
        for address in self.full_subtrees().into_iter().rev() {
            let left = node(address).ok_or(ProofError::Missing { address })?;
            folded = Some(folded.map_or(left, |right| node_hash(&left, &right)));
        }
        Ok(folded.unwrap_or_else(Hash::of_empty_tree))
    }
}

/// The stored full subtrees that the root of the first `size` leaves is made of.
#[must_use]
pub fn root_needs(size: u64) -> Vec<NodeAddress> {
    Run { start: 0, end: size }.full_subtrees()
}

/// The root of the first `size` leaves.
///
/// # Errors
/// A hash that is needed is missing.
pub fn root_at(size: u64, mut node: impl FnMut(NodeAddress) -> Option<Hash>) -> Result<Hash, ProofError> {
    Run { start: 0, end: size }.hash(&mut node)
}

/// The stored full subtrees that an inclusion proof is made of, to be fetched at once.
///
/// # Errors
/// The tree has no such leaf.
pub fn inclusion_needs(size: u64, index: u64) -> Result<Vec<NodeAddress>, ProofError> {
    Ok(needs(&inclusion_runs(size, index)?))
}

/// The path from leaf `index` to the root of the first `size` leaves: PATH of RFC 6962, nearest the leaf first.
///
/// # Errors
/// The tree has no such leaf, or a hash that is needed is missing.
pub fn inclusion_proof(
    size: u64,
    index: u64,
    mut node: impl FnMut(NodeAddress) -> Option<Hash>,
) -> Result<Vec<Hash>, ProofError> {
    inclusion_runs(size, index)?.into_iter().map(|run| run.hash(&mut node)).collect()
}

/// The stored full subtrees that a consistency proof is made of, to be fetched at once.
///
/// # Errors
/// `first` is above `second`.
pub fn consistency_needs(first: u64, second: u64) -> Result<Vec<NodeAddress>, ProofError> {
    Ok(needs(&consistency_runs(first, second)?))
}

/// The proof that the tree of `first` leaves is the beginning of that of `second`: PROOF of RFC 6962; empty where there is nothing
/// to prove (from nothing, or to itself).
///
/// # Errors
/// `first` is above `second`, or a hash that is needed is missing.
pub fn consistency_proof(
    first: u64,
    second: u64,
    mut node: impl FnMut(NodeAddress) -> Option<Hash>,
) -> Result<Vec<Hash>, ProofError> {
    consistency_runs(first, second)?.into_iter().map(|run| run.hash(&mut node)).collect()
}

fn needs(runs: &[Run]) -> Vec<NodeAddress> {
    runs.iter().flat_map(|run| run.full_subtrees()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn inclusion_runs(size: u64, index: u64) -> Result<Vec<Run>, ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { asked: index, size });
    }
    let mut runs = Vec::new();
    let mut here = Run { start: 0, end: size };
    while here.len() > 1 {
        let (left, right) = here.halves();
        let (next, sibling) = if index < left.end { (left, right) } else { (right, left) };
        runs.push(sibling);
        here = next;
    }
    runs.reverse();
    Ok(runs)
}

fn consistency_runs(first: u64, second: u64) -> Result<Vec<Run>, ProofError> {
    if first > second {
        return Err(ProofError::OutOfRange { asked: first, size: second });
    }
    if first == 0 || first == second {
        return Ok(Vec::new());
    }
    let mut runs = Vec::new();
    let mut here = Run { start: 0, end: second };
    // SUBPROOF(m, D, b): b is true while the run that the first tree ends in still begins at 0.
    while here.end != first {
        let (left, right) = here.halves();
        let (next, sibling) = if first <= left.end { (left, right) } else { (right, left) };
        runs.push(sibling);
        here = next;
    }
    if here.start != 0 {
        runs.push(here);
    }
    runs.reverse();
    Ok(runs)
}

/// Checks that `leaf` is leaf `index` of the tree of `size` leaves with this root (RFC 9162, 2.1.3.2).
///
/// # Errors
/// It is not, or the proof does not show it.
pub fn verify_inclusion(root: &Hash, size: u64, index: u64, leaf: &[u8], proof: &[Hash]) -> Result<(), VerifyError> {
    if index >= size {
        return Err(VerifyError::OutOfRange { asked: index, size });
    }
    let wrong_length = VerifyError::WrongLength { found: proof.len() };
    let (mut place, mut last) = (index, size - 1);
    let mut hash = leaf_hash(leaf);
    for sibling in proof {
        if last == 0 {
            return Err(wrong_length);
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            // A node at the right edge without a sibling rises unchanged.
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(wrong_length);
    }
    if hash == *root { Ok(()) } else { Err(VerifyError::WrongRoot) }
}

/// Checks that the tree of `first` leaves is the beginning of that of `second` (RFC 9162, 2.1.4.2).
///
/// # Errors
/// It is not, or the proof does not show it.
pub fn verify_consistency(
    first: u64,
    first_root: &Hash,
    second: u64,
    second_root: &Hash,
    proof: &[Hash],
) -> Result<(), VerifyError> {
    if first > second {
        return Err(VerifyError::OutOfRange { asked: first, size: second });
    }
    if first == 0 || first == second {
        return verify_trivial(first, first_root, second_root, proof);
    }
    let wrong_length = VerifyError::WrongLength { found: proof.len() };
    // Where the first tree is a full subtree, its own root is the first term and is left out of the proof.
    let (start, path) =
        if first.is_power_of_two() { (first_root, proof) } else { proof.split_first().ok_or(wrong_length)? };
    let shift = (first - 1).trailing_ones();
    let (mut place, mut last) =
        ((first - 1).checked_shr(shift).unwrap_or(0), (second - 1).checked_shr(shift).unwrap_or(0));
    let (mut first_hash, mut second_hash) = (*start, *start);
    for sibling in path {
        if last == 0 {
            return Err(wrong_length);
        }
        if place & 1 == 1 || place == last {
            first_hash = node_hash(sibling, &first_hash);
            second_hash = node_hash(sibling, &second_hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            second_hash = node_hash(&second_hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(wrong_length);
    }
    if first_hash == *first_root && second_hash == *second_root { Ok(()) } else { Err(VerifyError::WrongRoot) }
}

/// Every tree begins with the empty one, and is its own beginning: there is nothing to prove but the roots themselves.
fn verify_trivial(first: u64, first_root: &Hash, second_root: &Hash, proof: &[Hash]) -> Result<(), VerifyError> {
    if !proof.is_empty() {
        return Err(VerifyError::WrongLength { found: proof.len() });
    }
    let expected = if first == 0 { Hash::of_empty_tree() } else { *second_root };
    if *first_root == expected { Ok(()) } else { Err(VerifyError::WrongRoot) }
}

#[cfg(test)]
mod tests;
