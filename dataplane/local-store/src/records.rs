//! Signed records of peers, and the sequence number of our own.

use proto_model::PublicKey;
use sqlx::Row;

use crate::store::{LocalStore, StoreError};

/// A peer's record as it was signed (BEP 44).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// Whose.
    pub public_key: PublicKey,
    /// Its `seq`.
    pub seq: i64,
    /// Its `v`, before bencoding.
    pub value: Vec<u8>,
    /// Its `sig`.
    pub signature: [u8; 64],
    /// Until when it holds, seconds since the Unix epoch.
    pub expires_at: i64,
}

const OWN_NODE_RECORD: &str = "node";

impl LocalStore {
    /// Keeps a record, unless one with a higher `seq` is kept.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn keep_record(&self, record: KeptRecord) -> Result<(), StoreError> {
        let now = self.now_s();
        self.write("keep record", move |db| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO metadata_cache (peer_id, public_key, seq, value, signature, cached_at, expires_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (peer_id) DO UPDATE SET seq = ?3, value = ?4, signature = ?5, cached_at = ?6, expires_at = ?7
                     WHERE seq <= ?3",
                )
                .bind(record.public_key.node_id().to_string())
                .bind(record.public_key.to_string())
                .bind(record.seq)
                .bind(record.value)
                .bind(record.signature.to_vec())
                .bind(now)
                .bind(record.expires_at)
                .execute(db)
                .await
                .map(drop)
            })
        })
        .await
    }

    /// The record with the highest `seq` that was kept of `key`, also when it has run out.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn record(&self, key: PublicKey) -> Result<Option<KeptRecord>, StoreError> {
        let row = sqlx::query("SELECT seq, value, signature, expires_at FROM metadata_cache WHERE peer_id = ?1")
            .bind(key.node_id().to_string())
            .fetch_optional(&self.pool().await?)
            .await?;
        row.map(|row| {
            let signature: &[u8] = row.try_get(2)?;
            Ok(KeptRecord {
                public_key: key,
                seq: row.try_get(0)?,
                value: row.try_get(1)?,
                signature: signature.try_into().map_err(|_bad| StoreError::Row("metadata_cache.signature"))?,
                expires_at: row.try_get(3)?,
            })
        })
        .transpose()
    }

    /// The `seq` that was last given to our own node record.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn own_seq(&self) -> Result<Option<i64>, StoreError> {
        let seq = sqlx::query_scalar("SELECT seq FROM own_records WHERE name = ?1").bind(OWN_NODE_RECORD);
        Ok(seq.fetch_optional(&self.pool().await?).await?)
    }

    /// Keeps it; it never goes back.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn keep_own_seq(&self, seq: i64) -> Result<(), StoreError> {
        self.write("keep seq", move |db| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO own_records (name, seq) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET seq = max(seq, ?2)",
                )
                .bind(OWN_NODE_RECORD)
                .bind(seq)
                .execute(db)
                .await
                .map(drop)
            })
        })
        .await
    }
}
