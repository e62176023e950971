//! The local content store: whole objects by the BLAKE3 of their bytes, and the versions of files that deltas refer to.
//!
//! [`ContentStore`] keeps objects as files of its own below `DIR/content`, none of which appears under its name before it is
//! whole and durable, and none of which is served once it is known to be damaged. It is bounded by bytes, and leaves free on
//! its file system what the host wants left. [`References`] say who needs an object; what nobody needs is collected.
//! [`Baselines`] know which version of which file a peer acknowledged, and which this host published. All of it can be lost
//! without harm: then whole versions travel again.

mod baselines;
mod batch;
mod collect;
mod copy;
mod folders;
mod follow;
mod index;
mod object;
mod open_objects;
pub mod policy;
mod references;
mod room;
mod shards;
mod stat;
mod store;
mod verify;

pub use baselines::{Acknowledged, Baselines, Held, Kept, KeptNow, Place, Published, Settings};
pub use batch::{Added, Batch};
pub use collect::Collected;
pub use index::MAX_INDEX_BYTES;
pub use object::Object;
pub use references::{References, ReferencesError};
pub use stat::FileStat;
pub use store::{ContentError, ContentStore, Limits, Stats};
pub use verify::{Verdict, Verified};
