//! One transfer, whole: walk, manifest, encode, carry, verify, put in place, resume.
//!
//! [`Transfers`] is all that a host moves. Its sender walks what a grant lets it read, tells the receiver what there is, and
//! sends what the receiver asks for; its receiver acts only on a grant, or on what the root's owner accepts, asks only for what
//! it does not hold, verifies every byte before anybody can see it under its final name, and goes on where a transfer broke
//! off. Both ends hold the manifest on disk and everything else within named bounds.
//!
//! [`Benches`] measures the path to a peer by the same sessions and pieces.
//!
//! What carries the frames and pieces is a [`Link`]: a channel of AMST. Who finds the peer is a [`Connector`].

mod amst_link;
mod attribution;
mod bench;
mod bit_set;
mod confine;
mod dictionaries;
mod ends;
mod exclude;
mod fates;
mod file_hash;
mod holes;
mod intervals;
mod journal;
mod link;
mod offset;
mod orders;
mod packed;
mod page_store;
pub mod parsers;
mod reason;
mod receiver;
mod report;
mod roots;
mod sender;
mod service;
mod source;
mod stop;
mod sync;
mod tally;
mod upkeep;
mod versions;
mod walk;

pub use bench::{BenchPlace, BenchRight, Benches, CheckedBench, HostAdvice, opens_bench};
pub use dictionaries::DictionaryTotals;
pub use link::{Connector, ControlIn, ControlOut, Link, LinkError, PathOf, PiecesIn, PiecesOut};
pub use orders::Order;
pub use receiver::Received;
pub use roots::Roots;
pub use sender::{SendAuthority, SendJob, Sent};
pub use service::{Options, Settings, Transfers};
pub use sync::{Look, SourceMount, SyncOrder};
