//! What this host published, and how the file system knows it: so that an unchanged file's digest is known without reading it.

use proto_model::Digest;
use sqlx::Row;

use crate::{
    rows::{paths_as_json, signed, unsigned},
    store::{LocalStore, StoreError},
};

/// Files that are remembered at most; those that were noted or asked for least recently go first. Some 300 bytes each.
pub const MAX_BASELINES: i64 = 500_000;

/// A file that was published here.
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
    /// Of its file system.
    pub device: u64,
    /// On that.
    pub inode: u64,
    /// When its contents were changed last, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// When anything of it was changed last.
    pub ctime_ns: i64,
    /// When this was noted, in milliseconds since the Unix epoch.
    pub noted_ms: i64,
}

const COLUMNS_OF_PATHS: &str = "SELECT path, digest, size, device, inode, mtime_ns, ctime_ns, noted_ms FROM baselines
     WHERE root = ?1 AND path IN (SELECT unhex(value) FROM json_each(?2))";
const COLUMNS_OF_DIGEST: &str = "SELECT path, digest, size, device, inode, mtime_ns, ctime_ns, noted_ms FROM baselines
     WHERE root = ?1 AND digest = ?2 ORDER BY noted_ms DESC LIMIT ?3";
const COLUMNS_OF_SIZES: &str = "SELECT path, digest, size, device, inode, mtime_ns, ctime_ns, noted_ms FROM baselines
     WHERE root = ?1 AND size BETWEEN ?2 AND ?3 ORDER BY noted_ms DESC LIMIT ?4";
const COLUMNS_OF_INODES: &str = "SELECT path, digest, size, device, inode, mtime_ns, ctime_ns, noted_ms FROM baselines
     WHERE root = ?1 AND inode IN (SELECT value FROM json_each(?2))";

impl LocalStore {
    /// Keeps what was published.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn put_baselines(&self, baselines: Vec<Baseline>) -> Result<(), StoreError> {
        let now = self.now_s();
        self.write("keep baselines", move |db| {
            Box::pin(async move {
                for baseline in baselines {
                    sqlx::query(
                        "INSERT INTO baselines (root, path, digest, size, chain, created_at, last_used_at,
                                                device, inode, mtime_ns, ctime_ns, noted_ms)
                         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5, ?6, ?7, ?8, ?9, ?10)
                         ON CONFLICT (root, path) DO UPDATE SET digest = ?3, size = ?4, chain = 0, last_used_at = ?5,
                             device = ?6, inode = ?7, mtime_ns = ?8, ctime_ns = ?9, noted_ms = ?10",
                    )
                    .bind(baseline.root)
                    .bind(baseline.path)
                    .bind(baseline.digest.to_string())
                    .bind(signed(baseline.size))
                    .bind(now)
                    .bind(baseline.device.cast_signed())
                    .bind(baseline.inode.cast_signed())
                    .bind(baseline.mtime_ns)
                    .bind(baseline.ctime_ns)
                    .bind(baseline.noted_ms)
                    .execute(&mut *db)
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// What is known of these paths, in no order.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn baselines(&self, root: &str, paths: &[&[u8]]) -> Result<Vec<Baseline>, StoreError> {
        let rows = sqlx::query(COLUMNS_OF_PATHS).bind(root).bind(paths_as_json(paths));
        let rows = rows.fetch_all(&self.pool().await?).await?;
        rows.iter().map(|row| read(root, row)).collect()
    }

    /// Files below a root that had this digest, those first that were noted last.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn baselines_of(&self, root: &str, digest: Digest, limit: u32) -> Result<Vec<Baseline>, StoreError> {
        let rows = sqlx::query(COLUMNS_OF_DIGEST).bind(root).bind(digest.to_string()).bind(limit);
        let rows = rows.fetch_all(&self.pool().await?).await?;
        rows.iter().map(|row| read(root, row)).collect()
    }

    /// Files below a root that were from `least` to `most` bytes long when they were noted, those first that were noted last.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn baselines_of_sizes(
        &self,
        root: &str,
        least: u64,
        most: u64,
        limit: u32,
    ) -> Result<Vec<Baseline>, StoreError> {
        let signed = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let rows = sqlx::query(COLUMNS_OF_SIZES).bind(root).bind(signed(least)).bind(signed(most)).bind(limit);
        let rows = rows.fetch_all(&self.pool().await?).await?;
        rows.iter().map(|row| read(root, row)).collect()
    }

    /// Files below a root that had these inodes when they were noted, whatever their paths, in no order.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn baselines_of_inodes(&self, root: &str, inodes: &[u64]) -> Result<Vec<Baseline>, StoreError> {
        let inodes: Vec<String> = inodes.iter().map(|inode| inode.cast_signed().to_string()).collect();
        let rows = sqlx::query(COLUMNS_OF_INODES).bind(root).bind(format!("[{}]", inodes.join(",")));
        let rows = rows.fetch_all(&self.pool().await?).await?;
        rows.iter().map(|row| read(root, row)).collect()
    }
}

fn read(root: &str, row: &sqlx::sqlite::SqliteRow) -> Result<Baseline, StoreError> {
    let digest: &str = row.try_get(1)?;
    let (device, inode): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
    Ok(Baseline {
        root: root.to_owned(),
        path: row.try_get(0)?,
        digest: digest.parse().map_err(|_bad| StoreError::Row("baselines.digest"))?,
        size: unsigned(row.try_get(2)?),
        device: device.cast_unsigned(),
        inode: inode.cast_unsigned(),
        mtime_ns: row.try_get(5)?,
        ctime_ns: row.try_get(6)?,
        noted_ms: row.try_get(7)?,
    })
}
