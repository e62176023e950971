//! Runs of standing syncs: what a receiver keeps of each, by what it lets a run in (D16), and what a sender looks at before it begins one.

mod book;
mod look;
mod mount;
mod published;
mod run;

pub(crate) use book::Book;
pub use book::SyncOrder;
pub use look::Look;
pub use mount::SourceMount;
pub(crate) use published::read_any_record;
pub(crate) use run::{CHANGED, SyncRun};
