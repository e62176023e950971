//! The hub of connected agents: one session each, what they should know, and what they report.
//!
//! * [`Fleet`] is the handle: it serves sessions and answers who is connected.
//! * [`message`] is what is said in a session, as parsed nouns.
//!
//! Desired state goes down as "the newest of each kind"; there is no queue that could grow. What comes up is written at most once a
//! second where it only informs, and at once where it decides something.

mod fleet;
mod hub;
pub mod message;
mod options;
mod outbox;
mod pending;
mod roster;
mod sender;
mod session;
mod snapshot;
mod strangers;

pub use fleet::Fleet;
pub use options::{MAX_SESSIONS, Options};
pub use snapshot::{Snapshot, SnapshotLayer};
pub use strangers::{AheadOfUs, UnknownMember};

/// Nodes in one question for addresses.
pub const MAX_LOOKUP_NODES: usize = 100;
