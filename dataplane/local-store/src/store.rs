//! The store: who may read and write when.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use foundation_runtime::{Clock, OnEnd, TaskGroup};
use futures::future::BoxFuture;
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::RwLock;

use crate::file::{self, FileId, OpenFile};

/// The store's name in the agent's folder.
pub const FILE_NAME: &str = "agent.db";

/// How often the log is folded into the file, so that a copy of the file alone is nearly whole.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// How often old rows are removed.
const CLEANING_INTERVAL: Duration = Duration::from_secs(3600);

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be made, set aside or removed.
    #[error("the local store's file cannot be used")]
    File(#[source] io::Error),
    /// SQLite refused.
    #[error("the local store refused")]
    Sqlite(#[from] sqlx::Error),
    /// The check at start found something.
    #[error("the local store is damaged: {0}")]
    Damaged(String),
    /// The tables cannot be made.
    #[error("the local store's tables cannot be made")]
    Migration(#[source] Box<sqlx::migrate::MigrateError>),
    /// A newer program made the tables, and says that this one cannot work with them.
    #[error("the local store needs dwcp-agent {least} or newer; this is {own}: start that one, or move {file} away, which fills again", file = FILE_NAME)]
    TooOld {
        /// The least version.
        least: String,
        /// This program's.
        own: &'static str,
    },
    /// A row is not what this program writes.
    #[error("a row of the local store cannot be read: {0}")]
    Row(&'static str),
    /// The program is going down.
    #[error("the program is shutting down")]
    ShuttingDown,
}

impl StoreError {
    /// Whether only a new file helps. SQLite: 11 is CORRUPT, 26 NOTADB.
    pub(crate) fn is_damage(&self) -> bool {
        let of = |error: &sqlx::Error| {
            let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
            code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
        };
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => of(error),
            Self::Migration(error) => match error.as_ref() {
                sqlx::migrate::MigrateError::Execute(error) => of(error),
                // A migration that was changed, or broke half-way: the file fills again.
                sqlx::migrate::MigrateError::VersionMismatch(_) | sqlx::migrate::MigrateError::Dirty(_) => true,
                _ => false,
            },
            Self::File(_) | Self::TooOld { .. } | Self::Row(_) | Self::ShuttingDown => false,
        }
    }
}

/// The agent's local store. Clones are the same store.
#[derive(Clone)]
pub struct LocalStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    clock: Clock,
    tasks: TaskGroup,
    file: RwLock<OpenFile>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("LocalStore").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl LocalStore {
    /// Opens `DIR/agent.db`, which is made where it is missing and set aside where it is broken; cares for it until the task
    /// group ends.
    ///
    /// # Errors
    /// Where the folder or the file cannot be used.
    pub async fn open(dir: &Path, clock: Clock, tasks: &TaskGroup) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        if FileId::of(&path).is_none() {
            // Logs without their file would be read into the new one.
            file::remove_logs(&path)?;
        }
        let file = RwLock::new(file::open(&path).await?);
        let this = Self(Arc::new(Inner { path, clock, tasks: tasks.clone(), file }));
        let care = this.clone();
        tasks.spawn("local store", OnEnd::Expected, async move { care.care().await });
        Ok(this)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Folds the log into the file: then the file alone is complete.
    ///
    /// # Errors
    /// Where SQLite refuses; a reader that is at work is no error, the rest follows later.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let pool = self.pool().await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&pool).await?;
        Ok(())
    }

    /// Folds the log and closes the file; the store opens it again if it is still used.
    pub async fn close(&self) {
        if let Err(reason) = self.checkpoint().await {
            tracing::debug!(%reason, "the local store's log stays beside its file");
        }
        self.0.file.read().await.pool.close().await;
    }

    pub(crate) fn now_s(&self) -> i64 {
        self.0.clock.unix_ms() / 1000
    }

    /// Connections to the file that the path names now.
    pub(crate) async fn pool(&self) -> Result<SqlitePool, StoreError> {
        {
            let file = self.0.file.read().await;
            if FileId::of(&self.0.path) == Some(file.id) && !file.pool.is_closed() {
                return Ok(file.pool.clone());
            }
        }
        self.reopen().await
    }

    /// Somebody removed the file, or put another in its place: what this process holds open belongs to nobody any more.
    async fn reopen(&self) -> Result<SqlitePool, StoreError> {
        let mut file = self.0.file.write().await;
        let now = FileId::of(&self.0.path);
        if now == Some(file.id) && !file.pool.is_closed() {
            return Ok(file.pool.clone());
        }
        if now != Some(file.id) {
            tracing::warn!(file = %self.0.path.display(), "the local store was removed or replaced; opening it anew");
            file.pool.close().await;
            // They belong to the old file; the new one would be read with them.
            file::remove_logs(&self.0.path)?;
        }
        *file = file::open(&self.0.path).await?;
        Ok(file.pool.clone())
    }

    /// Runs one short transaction, to its end also when the caller goes away.
    pub(crate) async fn write<T, W>(&self, name: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        let this = self.clone();
        let task = self.0.tasks.run(name, async move {
            let pool = this.pool().await?;
            let result = transaction(&pool, work).await;
            if result.as_ref().err().is_some_and(StoreError::is_damage) {
                // Checked, and set aside, when it is next opened: at once.
                this.0.file.read().await.pool.close().await;
            }
            result
        });
        task.await.map_err(|_ended| StoreError::ShuttingDown)?
    }

    async fn care(self) {
        let mut checkpoint = tokio::time::interval(CHECKPOINT_INTERVAL);
        let mut cleaning = tokio::time::interval(CLEANING_INTERVAL);
        loop {
            let done = tokio::select! {
                () = self.0.tasks.cancelled() => break,
                _ = checkpoint.tick() => self.checkpoint().await,
                _ = cleaning.tick() => self.clean().await.map(drop),
            };
            if let Err(reason) = done {
                tracing::warn!(%reason, "the local store could not be cared for");
            }
        }
        self.close().await;
    }
}

async fn transaction<T, W>(pool: &SqlitePool, work: W) -> Result<T, StoreError>
where
    W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
{
    let mut connection = pool.acquire().await?;
    let result = async {
        // A transaction that begins as a reader and then writes fails at once when another writes, whatever the time-out.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let value = work(&mut transaction).await?;
        transaction.commit().await?;
        Ok(value)
    }
    .await;
    if result.is_err() {
        // On a disk that fails SQLite ends a transaction by itself, unseen by the driver, which would begin no other on this connection.
        connection.close_on_drop();
    }
    result
}

#[cfg(test)]
mod tests;
