//! `dwcp-control-plane open-epoch`: for a database that was put back by PostgreSQL's own means.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use control_plane_pki::{SealError, SealKey};
use control_plane_store::{
    Actor, Options as StoreOptions,
    backup::{self, RestoreError as StoreRestoreError},
    epoch::Opening,
};
use foundation_runtime::{Clock, DirLock, DirLockError};
use nix::unistd::Uid;
use proto_model::Epoch;

use super::{options::EpochOptions, unfinished};
use crate::{
    options::Database,
    postgres::{self, Postgres},
};

/// Why no epoch was opened. Nothing is changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReopenError {
    /// There is no control plane, or not all of one.
    #[error("{dir} is not the data directory of a control plane", dir = dir.display())]
    NoDataDir {
        /// The folder.
        dir: PathBuf,
    },
    /// A server runs there.
    #[error(transparent)]
    Lock(#[from] DirLockError),
    /// The private PostgreSQL does not start.
    #[error(transparent)]
    Postgres(#[from] postgres::StartError),
    /// The seal key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreRestoreError),
    /// Standard output.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// Opens a new epoch in the present database, and says so on standard output.
///
/// # Errors
/// See [`ReopenError`].
pub async fn open_epoch(options: EpochOptions) -> Result<(), ReopenError> {
    let (clock, dir) = (Clock::system(), options.data_dir);
    let complete = dir.join("seal.key").exists() && !unfinished::is_marked(&dir);
    let (external, binaries) = match options.database {
        Database::External { url } => (Some(url), None),
        Database::Embedded { binaries } => (None, binaries),
    };
    if !complete || (external.is_none() && !postgres::exists(&dir)) {
        return Err(ReopenError::NoDataDir { dir });
    }
    let _lock = DirLock::acquire(&dir, Duration::ZERO, &clock, |_| ())?;
    let seal = SealKey::load(&dir.join("seal.key"))?;
    let (postgres, url) = match external {
        Some(url) => (None, url),
        None => {
            let cluster = postgres::Options { data_dir: dir.clone(), binaries };
            let postgres = Postgres::start(cluster, clock.clone()).await?;
            let url = postgres.url();
            (Some(postgres), url)
        }
    };
    let opening = Opening {
        epoch: options.epoch.map(Epoch::new),
        now: clock.utc(),
        actor: Actor::Socket(Uid::effective().as_raw()),
        detail: serde_json::Map::from_iter([("reason".to_owned(), "open-epoch".into())]),
    };
    let opened = backup::reopen(&StoreOptions::new(url), &seal, opening).await;
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    let opened = opened?;
    let text = format!(
        "√ epoch {} is open (before: {}); {} join tokens are void, {} transfers go on\n\
         Next: start the server; agents take the new epoch when they connect\n",
        opened.epoch, opened.before, opened.join_tokens, opened.transfers
    );
    Ok(io::stdout().write_all(text.as_bytes())?)
}
