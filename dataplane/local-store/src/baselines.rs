//! Versions of files that deltas may refer to.

use proto_model::Digest;
use sqlx::Row;

use crate::store::{LocalStore, StoreError};

/// A version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// The root's name.
    pub root: String,
    /// Below the root; bytes.
    pub path: Vec<u8>,
    /// BLAKE3 of the whole.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// How many deltas it stands on.
    pub chain: u32,
}

impl LocalStore {
    /// Keeps the version of a file that is in place now.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn put_baseline(&self, baseline: Baseline) -> Result<(), StoreError> {
        let now = self.now_s();
        self.write("keep baseline", move |db| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO baselines (root, path, digest, size, chain, created_at, last_used_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
                     ON CONFLICT (root, path) DO UPDATE SET digest = ?3, size = ?4, chain = ?5, last_used_at = ?6",
                )
                .bind(baseline.root)
                .bind(baseline.path)
                .bind(baseline.digest.to_string())
                .bind(i64::try_from(baseline.size).unwrap_or(i64::MAX))
                .bind(baseline.chain)
                .bind(now)
                .execute(db)
                .await
                .map(drop)
            })
        })
        .await
    }

    /// The version of a file that was last kept.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn baseline(&self, root: &str, path: &[u8]) -> Result<Option<Baseline>, StoreError> {
        let row = sqlx::query("SELECT digest, size, chain FROM baselines WHERE root = ?1 AND path = ?2")
            .bind(root)
            .bind(path)
            .fetch_optional(&self.pool().await?)
            .await?;
        row.map(|row| {
            let (digest, size): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Baseline {
                root: root.to_owned(),
                path: path.to_vec(),
                digest: digest.parse().map_err(|_bad| StoreError::Row("baselines.digest"))?,
                size: u64::try_from(size).unwrap_or(0),
                chain: row.try_get(2)?,
            })
        })
        .transpose()
    }
}
