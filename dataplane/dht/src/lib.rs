//! Where nodes are: signed records in a distributed hash table (BEP 5, BEP 44), private to the fleet.
//!
//! A [`Record`] says where a node can be reached. Its owner signs it ([`SignedRecord`]) and a [`Publisher`] keeps it in a
//! [`Directory`]: on the fleet's ring by [`DhtNode`], in tests in a [`MemoryDirectory`]. A [`Resolver`] finds records of others
//! in the directory and, a moment later, at a [`Fallback`] (the control plane), checks them, and keeps them for a while.
//! Strangers may store on the ring; what they store is never believed: a record counts only by its owner's signature, and who
//! belongs to the fleet is the roster's word, not the directory's.
//!
//! IPv4 only: mainline has no IPv6. IPv6 addresses may stand inside records, and a host without IPv4 lives by the fallback.

mod addresses;
mod cache;
mod connectable;
mod directory;
mod disagreements;
mod filter;
mod keep;
mod memory;
mod node;
mod publisher;
mod record;
mod resolver;
mod ring;
mod signed;
mod supervisor;

pub use connectable::{Connectable, connectable};
pub use directory::{Directory, Lookup, LookupEvent, LookupSender, PublishError, Stored, lookup_channel};
pub use disagreements::Disagreement;
pub use keep::{MemoryRecords, RecordStore, RecordStoreError};
pub use memory::MemoryDirectory;
pub use node::{DhtNode, Mode, NodeOptions, NodeStatus, StartError, ipv4_listen};
pub use publisher::{Announcement, Publisher, PublisherOptions};
pub use record::{
    FleetTag, MAX_ADDRESSES, MAX_RECORD_BYTES, MAX_RELAYS, MAX_TTL, Nat, NodeType, Record, RecordError,
    WANTED_RECORD_BYTES,
};
pub use resolver::{
    Fallback, FallbackAnswer, FallbackError, ResolveError, Resolved, Resolver, ResolverOptions, Source,
};
pub use ring::{RingLimits, RingNode, RingOptions};
pub use signed::{Acceptance, MAX_SEQ_AHEAD, MAX_SKEW, RecordSigner, SignedRecord, Unacceptable, VerifiedRecord};
