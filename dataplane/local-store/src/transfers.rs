//! Transfers that this agent took part in: for people to look at; the journal of each lies beside, in its folder.

use proto_model::TransferId;
use sqlx::Row;

use crate::store::{LocalStore, StoreError};

/// One end of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTransfer {
    /// Which.
    pub transfer_id: TransferId,
    /// `sender` or `receiver`.
    pub role: String,
    /// As in the API, for example `RUNNING`.
    pub state: String,
    /// The other node's id or name.
    pub peer_id: String,
    /// What is read, or written to, escaped.
    pub path: String,
    /// Bytes of all files, as far as known.
    pub bytes_total: u64,
    /// Bytes done.
    pub bytes_done: u64,
    /// Why it failed, if it did.
    pub message: String,
    /// When it began here, seconds since the Unix epoch.
    pub started_at: i64,
    /// When it ended here.
    pub finished_at: Option<i64>,
}

impl LocalStore {
    /// Keeps how far a transfer is.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn put_transfer(&self, transfer: StoredTransfer) -> Result<(), StoreError> {
        let now = self.now_s();
        self.write("keep transfer", move |db| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO transfers (transfer_id, role, state, peer_id, path, bytes_total, bytes_done, message,
                                            started_at, updated_at, finished_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                     ON CONFLICT (transfer_id, role) DO UPDATE SET state = ?3, bytes_total = ?6, bytes_done = ?7, message = ?8,
                         updated_at = ?10, finished_at = ?11",
                )
                .bind(transfer.transfer_id.to_string())
                .bind(transfer.role)
                .bind(transfer.state)
                .bind(transfer.peer_id)
                .bind(transfer.path)
                .bind(i64::try_from(transfer.bytes_total).unwrap_or(i64::MAX))
                .bind(i64::try_from(transfer.bytes_done).unwrap_or(i64::MAX))
                .bind(transfer.message)
                .bind(transfer.started_at)
                .bind(now)
                .bind(transfer.finished_at)
                .execute(db)
                .await
                .map(drop)
            })
        })
        .await
    }

    /// Transfers, those first that changed last, at most `limit`.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn transfers(&self, limit: u32) -> Result<Vec<StoredTransfer>, StoreError> {
        let rows = sqlx::query(
            "SELECT transfer_id, role, state, peer_id, path, bytes_total, bytes_done, message, started_at, finished_at
             FROM transfers ORDER BY updated_at DESC LIMIT ?1",
        )
        .bind(limit)
        .fetch_all(&self.pool().await?)
        .await?;
        rows.iter()
            .map(|row| {
                let id: &str = row.try_get(0)?;
                let (total, done): (i64, i64) = (row.try_get(5)?, row.try_get(6)?);
                Ok(StoredTransfer {
                    transfer_id: id.parse().map_err(|_bad| StoreError::Row("transfers.transfer_id"))?,
                    role: row.try_get(1)?,
                    state: row.try_get(2)?,
                    peer_id: row.try_get(3)?,
                    path: row.try_get(4)?,
                    bytes_total: u64::try_from(total).unwrap_or(0),
                    bytes_done: u64::try_from(done).unwrap_or(0),
                    message: row.try_get(7)?,
                    started_at: row.try_get(8)?,
                    finished_at: row.try_get(9)?,
                })
            })
            .collect()
    }
}
