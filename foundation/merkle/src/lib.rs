//! The Merkle tree of RFC 6962 and the signed heads of C2SP: pure, without storage.
//!
//! Whoever keeps a log keeps the hashes of full subtrees as [`Frontier::append`] returns them, by level and index; every proof is made
//! of those. A head is signed as a checkpoint (C2SP tlog-checkpoint over C2SP signed-note, Ed25519).
//!
//! The sizes are bounded by `u64`; a proof has at most 64 hashes for inclusion and 65 for consistency.

pub mod checkpoint;
mod frontier;
mod hash;
mod proof;

pub use checkpoint::{Checkpoint, CheckpointError, VerifierKey};
pub use frontier::{Frontier, FrontierError};
pub use hash::{Hash, HashError, leaf_hash, node_hash};
pub use proof::{
    MAX_PROOF_HASHES, NodeAddress, ProofError, VerifyError, consistency_needs, consistency_proof, inclusion_needs,
    inclusion_proof, root_at, root_needs, verify_consistency, verify_inclusion,
};
