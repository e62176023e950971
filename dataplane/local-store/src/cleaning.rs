//! Removes what nobody will ask for again.

use crate::{
    baselines::MAX_BASELINES,
    store::{LocalStore, StoreError},
};

/// Peers that were not seen for so many days are forgotten: longer than any absence after which a node is expected back.
pub const PEER_DAYS: i64 = 90;
/// Ended transfers are listed for so many days.
pub const TRANSFER_DAYS: i64 = 30;
/// Ended transfers beyond this number are forgotten earlier.
pub const MAX_TRANSFERS: i64 = 10_000;
/// Baselines that were not used for so many days are forgotten.
pub const BASELINE_DAYS: i64 = 90;

const DAY_S: i64 = 24 * 3600;

/// How many rows were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Peers, and what they said.
    pub peers: u64,
    /// Transfers.
    pub transfers: u64,
    /// Baselines.
    pub baselines: u64,
}

impl LocalStore {
    /// Removes old rows; happens hourly by itself.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn clean(&self) -> Result<Cleaned, StoreError> {
        let now = self.now_s();
        let before = |days: i64| now - days * DAY_S;
        let (peers, transfers, baselines) = (before(PEER_DAYS), before(TRANSFER_DAYS), before(BASELINE_DAYS));
        self.write("clean", move |db| {
            Box::pin(async move {
                let mut cleaned = Cleaned::default();
                for old in [
                    "DELETE FROM known_peers WHERE last_seen < ?1",
                    "DELETE FROM metadata_cache WHERE max(cached_at, expires_at) < ?1",
                    "DELETE FROM peer_metadata WHERE max(updated_at, expires_at) < ?1",
                ] {
                    cleaned.peers += sqlx::query(old).bind(peers).execute(&mut *db).await?.rows_affected();
                }
                let old = "DELETE FROM transfers WHERE finished_at IS NOT NULL AND (updated_at < ?1 OR rowid NOT IN
                           (SELECT rowid FROM transfers ORDER BY updated_at DESC LIMIT ?2))";
                let done = sqlx::query(old).bind(transfers).bind(MAX_TRANSFERS).execute(&mut *db).await?;
                cleaned.transfers = done.rows_affected();
                let old = sqlx::query(
                    "DELETE FROM baselines WHERE last_used_at < ?1 OR rowid IN
                     (SELECT rowid FROM baselines ORDER BY last_used_at DESC LIMIT -1 OFFSET ?2)",
                )
                .bind(baselines)
                .bind(MAX_BASELINES);
                cleaned.baselines = old.execute(&mut *db).await?.rows_affected();
                Ok(cleaned)
            })
        })
        .await
    }
}
