//! What a sender sees of a sync's source before a run: where nothing changed since the last one, there is nothing to say to the receiver.

use std::{io, ops::ControlFlow};

use chrono::{DateTime, TimeDelta, Utc};
use foundation_runtime::durable;
use proto_model::{Digest, SyncGrant, TransferError, TransferId};
use proto_wire::{Signed, manifest::Kind, sync, sync::SyncSource};

use super::mount::SourceMount;
use crate::{
    exclude::Excludes,
    reason::end,
    service::{Shared, Transfers},
    source::{Sources, Top},
    stop::Stop,
    walk::{Found, walk},
};

/// A file system's times may be as coarse as this: what changed shortly before a look may change again and look the same.
const COARSE: TimeDelta = TimeDelta::seconds(2);

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Over paths, kinds, sizes, modes and times of all that would be sent; what is compared by contents is not seen here.
    pub digest: Digest,
    /// What the source is.
    pub source: SyncSource,
    /// Whether an equal look later on means that nothing changed: all could be seen, and nothing changed just now.
    pub is_settled: bool,
    /// The mount that it lies on, where that is known.
    pub mount: Option<SourceMount>,
    /// The newest order to replace what others changed: whoever gave it also means a source whose mount is missing.
    pub overwrite: u64,
}

impl Transfers {
    /// The standing grant of a sync that this node sends, if it is good now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn standing(&self, grant: &Signed) -> Result<SyncGrant, TransferError> {
        let checked = crate::receiver::check_sync_grant(&self.0, grant, self.0.clock.utc(), |_| true);
        let standing = checked.map_err(|stop| stop.to_error())?;
        if standing.grant.source.key != self.0.key {
            return Err(TransferError::new(end::GRANT_INVALID, "the grant names another node as the sender"));
        }
        Ok(standing)
    }

    /// Whether a transfer that is received here is a run of a sync: its sender reports it.
    #[must_use]
    pub fn is_sync_run(&self, transfer: TransferId) -> bool {
        self.0.syncs.is_run(transfer)
    }

    /// Damaged records of syncs that are received here, which were set aside. Blocks on the disk.
    #[must_use]
    pub fn damaged_syncs(&self) -> Vec<std::path::PathBuf> {
        self.0.syncs.damaged()
    }

    /// Looks at the source of a sync. Blocks on the disk.
    ///
    /// # Errors
    /// The grant is none, or the source cannot be opened.
    pub fn look(&self, grant: &Signed) -> Result<Look, TransferError> {
        look(&self.0, grant).map_err(|stop| stop.to_error())
    }
}

fn look(shared: &Shared, signed: &Signed) -> Result<Look, Stop> {
    let begun = shared.clock.utc();
    let bundle = shared.trust.bundle();
    let standing = sync::open(bundle.grant_key.verifying_key(), signed)
        .map_err(|error| Stop::final_(end::GRANT_INVALID, error.to_string()))?;
    let (sync, overwrite) = (standing.sync(), standing.overwrite);
    let grant = standing.grant;
    let excludes = Excludes::new(&grant.options.exclude);
    let excludes = excludes.map_err(|error| Stop::final_(end::BAD_PATTERN, error.to_string()))?;
    let sources = Sources::open(&shared.roots.load(), &grant.source_paths)?;
    let source = match sources.tops.first() {
        Some(Top::File { .. }) => SyncSource::OneFile,
        Some(Top::Folder { .. }) => SyncSource::FolderByName,
        Some(Top::Contents { .. }) | None => SyncSource::Contents,
    };
    let mount = sources.tops.first().and_then(SourceMount::of);
    let own = |error: &io::Error| shared.own("sender", error);
    // Names that are too many for the memory.
    let folder = shared.syncs.path().join(format!("{sync}.look"));
    durable::create_dir(&folder, 0o700).map_err(|error| own(&error))?;
    let mut seen = Seen { hasher: blake3::Hasher::new(), newest: DateTime::<Utc>::MIN_UTC, all: true, failed: None };
    walk(&sources, &excludes, folder.clone(), &mut |found| seen.take(found, shared));
    // What stays is taken away by the next look.
    drop(std::fs::remove_dir_all(&folder));
    if let Some(stop) = seen.failed {
        return Err(stop);
    }
    let is_settled = seen.all && !grant.options.checksum && seen.newest < begun - COARSE;
    Ok(Look { digest: Digest::from_bytes(*seen.hasher.finalize().as_bytes()), source, is_settled, mount, overwrite })
}

struct Seen {
    hasher: blake3::Hasher,
    newest: DateTime<Utc>,
    all: bool,
    failed: Option<Stop>,
}

impl Seen {
    fn take(&mut self, found: Found, shared: &Shared) -> ControlFlow<()> {
        if shared.tasks.is_cancelled() {
            self.failed = Some(crate::receiver::stopping());
            return ControlFlow::Break(());
        }
        let entry = match found {
            Found::Entry(entry, _) => entry,
            // What is left out now may be sent later, without a change that shows.
            Found::Issue(_) => {
                self.all = false;
                return ControlFlow::Continue(());
            }
            Found::Failed(error) => {
                self.failed = Some(shared.own("sender", &error));
                return ControlFlow::Break(());
            }
        };
        let (kind, text): (u8, &[u8]) = match &entry.kind {
            Kind::File { .. } => (1, &[]),
            Kind::Folder => (2, &[]),
            Kind::Symlink { target } => (3, target),
        };
        for part in [entry.path.as_bytes(), text] {
            self.hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            self.hasher.update(part);
        }
        self.hasher.update(&[kind]);
        self.hasher.update(&entry.size().to_le_bytes());
        self.hasher.update(&entry.mode.to_le_bytes());
        self.hasher.update(&entry.mtime.seconds.to_le_bytes());
        self.hasher.update(&entry.mtime.nanos.to_le_bytes());
        let time = DateTime::from_timestamp(entry.mtime.seconds, entry.mtime.nanos);
        self.newest = self.newest.max(time.unwrap_or(DateTime::<Utc>::MAX_UTC));
        ControlFlow::Continue(())
    }
}
