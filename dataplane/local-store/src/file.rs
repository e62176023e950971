//! The file itself: opening, checking, setting aside, and whether it is still there.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{least_version, store::StoreError};

/// How long a statement waits for another's transaction, the operator's `VACUUM` among them.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// One writes at a time anyway; the others read.
const CONNECTIONS: u32 = 4;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/agent");

/// Which file a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) pool: SqlitePool,
    pub(crate) id: FileId,
}

/// Opens the file, checked and migrated; one that is broken is set aside and made anew.
pub(crate) async fn open(path: &Path) -> Result<OpenFile, StoreError> {
    match try_open(path).await {
        Ok(file) => Ok(file),
        Err(reason) if reason.is_damage() => {
            let aside = beside(path, ".broken");
            tracing::warn!(file = %path.display(), aside = %aside.display(), reason = %Chain(&reason), "the local store is broken; set aside and made anew");
            fs::rename(path, &aside).map_err(StoreError::File)?;
            remove_logs(path)?;
            try_open(path).await
        }
        Err(reason) => Err(reason),
    }
}

/// Removes what SQLite keeps beside a file that is gone.
pub(crate) fn remove_logs(path: &Path) -> Result<(), StoreError> {
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(beside(path, suffix)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::File(error)),
        }
    }
    Ok(())
}

async fn try_open(path: &Path) -> Result<OpenFile, StoreError> {
    // Made here, not by SQLite, so that it is nobody else's to read; SQLite gives its logs the same mode.
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(StoreError::File)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(BUSY_TIMEOUT * 2)
        .connect_with(options)
        .await?;
    let checked = check_and_migrate(&pool).await;
    if let Err(error) = checked {
        pool.close().await;
        return Err(error);
    }
    let id = FileId::of(path).ok_or_else(|| StoreError::File(io::Error::from(io::ErrorKind::NotFound)))?;
    Ok(OpenFile { pool, id })
}

async fn check_and_migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let findings: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(10)").fetch_all(pool).await?;
    if findings != ["ok"] {
        return Err(StoreError::Damaged(findings.join("; ")));
    }
    least_version::require(pool).await?;
    // A newer program may have left migrations that this one does not know (D29).
    let migrator = Migrator { migrations: MIGRATIONS.migrations.clone(), ignore_missing: true, ..Migrator::DEFAULT };
    migrator.run(pool).await.map_err(|error| StoreError::Migration(Box::new(error)))?;
    // Another program may have come in between.
    least_version::require(pool).await
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// An error with what caused it.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(out, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
