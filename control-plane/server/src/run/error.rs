//! Why a server does not run, or no longer.

use std::{io, path::PathBuf};

use control_plane_pki::SealError;
use control_plane_store::{Error as StoreError, KeysError, MigrateError};
use foundation_runtime::PortsError;

use crate::{
    admin_files::AdminFilesError, anchor::AnchorError, data_dir::DataDirError, listen::ListenError, postgres,
    tls::TlsError,
};

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The chosen ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The private PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] postgres::StartError),
    /// The database.
    #[error("the database cannot be used")]
    Database(#[from] StoreError),
    /// The schema.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The seal key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The fleet's keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The administrator's files.
    #[error(transparent)]
    AdminFiles(#[from] AdminFilesError),
    /// The audit log's anchor.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The DHT node.
    #[error(transparent)]
    Dht(#[from] dataplane_dht::StartError),
    /// Reflection.
    #[error("the services' descriptions cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A file.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// The signals.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// A part that the server cannot do without ended.
    #[error("the task {0} ended unexpectedly")]
    Task(&'static str),
}
