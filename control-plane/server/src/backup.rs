//! `backup`, `restore`, `open-epoch`: what stands between a fleet and the loss of its control plane's host.
//!
//! A backup is one file: all rows of the database as of one moment, and the files of the data directory that cannot be made again,
//! sealed under a passphrase. A restore verifies all of it before it changes anything, enters the rows in one transaction together with
//! the new epoch, and until its last step lies under a mark with which no server starts. docs/backup.md is for operators.

mod archive;
mod create;
mod manifest;
pub(crate) mod options;
mod passphrase;
mod progress;
mod reopen;
mod restore;
mod sealed;
pub(crate) mod unfinished;

pub use archive::ArchiveError;
pub use create::{BackupError, create};
pub use options::{BackupOptions, EpochOptions, RestoreOptions};
pub use passphrase::PassphraseError;
pub use reopen::{ReopenError, open_epoch};
pub use restore::{RestoreError, restore};
pub use sealed::SealedError;
