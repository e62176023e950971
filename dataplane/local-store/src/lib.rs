//! The agent's local store: `agent.db`, an SQLite file that the operator may look into, copy, vacuum or remove while the agent
//! runs (RN-7, D31).
//!
//! Nothing in it is the only copy of what matters. A broken file is set aside at start, a removed one is noticed by its inode,
//! and both are made anew. Transactions are short, begin as writers (`BEGIN IMMEDIATE`) and run to their end even when their
//! caller goes away.

mod baselines;
mod cleaning;
mod content_references;
mod file;
mod least_version;
mod peer_baselines;
mod peers;
mod records;
mod rows;
mod store;
mod transfers;
mod user_profiles;

pub use baselines::{Baseline, MAX_BASELINES};
pub use cleaning::{BASELINE_DAYS, Cleaned, MAX_TRANSFERS, PEER_DAYS, TRANSFER_DAYS};
pub use peer_baselines::{MAX_PEER_BASELINES, PeerBaseline};
pub use peers::{KnownPeer, PeerMetadata};
pub use records::KeptRecord;
pub use store::{FILE_NAME, LocalStore, StoreError};
pub use transfers::StoredTransfer;
pub use user_profiles::UserProfile;
