//! Against a naive tree that follows the recursion of RFC 6962 word by word.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::Frontier;

fn mth(leaves: &[Vec<u8>]) -> Hash {
    match leaves {
        [] => Hash::of_empty_tree(),
        [leaf] => leaf_hash(leaf),
        _ => {
            let k = leaves.len().next_power_of_two() / 2;
            node_hash(&mth(&leaves[..k]), &mth(&leaves[k..]))
        }
    }
}

fn path(m: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (mut proof, last) =
        if m < k { (path(m, &leaves[..k]), mth(&leaves[k..])) } else { (path(m - k, &leaves[k..]), mth(&leaves[..k])) };
    proof.push(last);
    proof
}

fn subproof(m: usize, leaves: &[Vec<u8>], whole: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if whole { Vec::new() } else { vec![mth(leaves)] };
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (mut proof, last) = if m <= k {
        (subproof(m, &leaves[..k], whole), mth(&leaves[k..]))
    } else {
        (subproof(m - k, &leaves[k..], false), mth(&leaves[..k]))
    };
    proof.push(last);
    proof
}

struct Log {
    leaves: Vec<Vec<u8>>,
    nodes: BTreeMap<NodeAddress, Hash>,
    frontier: Frontier,
}

fn log_of(count: usize) -> Log {
    let leaves: Vec<Vec<u8>> = (0..count).map(|i| format!("leaf {i}").into_bytes()).collect();
    let mut frontier = Frontier::new();
    let mut nodes = BTreeMap::new();
    for leaf in &leaves {
        nodes.extend(frontier.append(leaf_hash(leaf)));
    }
    Log { leaves, nodes, frontier }
}

/// Only what was asked for in advance is given out: a store fetches just that.
fn only<'a>(log: &'a Log, needs: &[NodeAddress]) -> impl FnMut(NodeAddress) -> Option<Hash> + use<'a> {
    let allowed: BTreeSet<NodeAddress> = needs.iter().copied().collect();
    move |address| allowed.contains(&address).then(|| log.nodes.get(&address).copied()).flatten()
}

fn sizes() -> impl Strategy<Value = (usize, usize)> {
    (1_usize..200).prop_flat_map(|size| (Just(size), 0..size))
}

proptest! {
    #[test]
    fn the_frontier_has_the_root_of_the_naive_tree(size in 0_usize..200) {
        let log = log_of(size);
        prop_assert_eq!(log.frontier.root(), mth(&log.leaves));
        let kept = Frontier::from_parts(log.frontier.size(), log.frontier.roots().to_vec()).unwrap();
        prop_assert_eq!(&kept, &log.frontier);
        let size = u64::try_from(size).unwrap();
        prop_assert_eq!(root_at(size, only(&log, &root_needs(size))).unwrap(), log.frontier.root());
    }

    #[test]
    fn inclusion_proofs_are_the_naive_ones_and_verify((size, index) in sizes(), broken in any::<prop::sample::Index>()) {
        let log = log_of(size);
        let (tree, leaf) = (u64::try_from(size).unwrap(), u64::try_from(index).unwrap());
        let needs = inclusion_needs(tree, leaf).unwrap();
        let mut proof = inclusion_proof(tree, leaf, only(&log, &needs)).unwrap();
        prop_assert_eq!(&proof, &path(index, &log.leaves));
        let root = log.frontier.root();
        let verified = |leaf: u64, text: &[u8], proof: &[Hash]| verify_inclusion(&root, tree, leaf, text, proof);
        prop_assert!(verified(leaf, &log.leaves[index], &proof).is_ok());
        prop_assert!(verified(leaf, b"other", &proof).is_err());
        if let Some(other) = (leaf + 1 < tree).then_some(leaf + 1) {
            prop_assert!(verified(other, &log.leaves[index], &proof).is_err());
        }
        proof.push(root);
        prop_assert!(verified(leaf, &log.leaves[index], &proof).is_err());
        proof.pop();
        if !proof.is_empty() {
            let at = broken.index(proof.len());
            proof[at].0[0] ^= 1;
            prop_assert!(verified(leaf, &log.leaves[index], &proof).is_err());
            proof.pop();
            prop_assert!(verified(leaf, &log.leaves[index], &proof).is_err());
        }
    }

    #[test]
    fn consistency_proofs_are_the_naive_ones_and_verify((second, first) in sizes(), broken in any::<prop::sample::Index>()) {
        let first = first + 1;
        let log = log_of(second);
        let (small, large) = (u64::try_from(first).unwrap(), u64::try_from(second).unwrap());
        let needs = consistency_needs(small, large).unwrap();
        let mut proof = consistency_proof(small, large, only(&log, &needs)).unwrap();
        prop_assert_eq!(&proof, &subproof(first, &log.leaves, true));
        let (small_root, large_root) = (mth(&log.leaves[..first]), log.frontier.root());
        prop_assert!(verify_consistency(small, &small_root, large, &large_root, &proof).is_ok());
        let mut forged = small_root;
        forged.0[31] ^= 1;
        prop_assert!(verify_consistency(small, &forged, large, &large_root, &proof).is_err());
        if small < large {
            prop_assert!(verify_consistency(small, &small_root, large, &forged, &proof).is_err());
        }
        proof.push(large_root);
        prop_assert!(verify_consistency(small, &small_root, large, &large_root, &proof).is_err());
        proof.pop();
        if !proof.is_empty() {
            let at = broken.index(proof.len());
            proof[at].0[0] ^= 1;
            prop_assert!(verify_consistency(small, &small_root, large, &large_root, &proof).is_err());
            proof.pop();
            prop_assert!(verify_consistency(small, &small_root, large, &large_root, &proof).is_err());
        }
    }

    #[test]
    fn no_proof_makes_the_verifiers_panic(
        sizes in any::<[u64; 2]>(),
        proof in prop::collection::vec(any::<[u8; 32]>().prop_map(Hash), 0..70),
    ) {
        let root = leaf_hash(b"");
        prop_assert!(verify_inclusion(&root, sizes[0], sizes[1], b"x", &proof).is_err());
        // Both roots equal: only equal sizes without a proof may pass.
        let passes = verify_consistency(sizes[0], &root, sizes[1], &root, &proof).is_ok();
        prop_assert!(!passes || sizes[0] == sizes[1]);
    }
}

#[test]
fn says_what_is_missing_and_what_is_out_of_range() {
    let log = log_of(7);
    assert_eq!(inclusion_proof(7, 7, only(&log, &[])).unwrap_err(), ProofError::OutOfRange { asked: 7, size: 7 });
    assert!(matches!(inclusion_proof(7, 3, |_| None), Err(ProofError::Missing { .. })));
    assert!(matches!(consistency_proof(8, 7, |_| None), Err(ProofError::OutOfRange { .. })));
}
