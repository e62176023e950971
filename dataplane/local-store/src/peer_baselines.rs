//! Versions that peers acknowledged, and which objects of the content store they need.

use proto_model::{Digest, NodeUid};
use sqlx::{Row, SqliteConnection};

use crate::{
    rows::{paths_as_json, signed, unsigned},
    store::{LocalStore, StoreError},
};

/// Versions that are remembered at most, of all peers; the oldest go first. Some 300 bytes each.
pub const MAX_PEER_BASELINES: i64 = 500_000;

/// A version that a peer acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerBaseline {
    /// Who.
    pub peer: NodeUid,
    /// The name of the root there.
    pub root: String,
    /// Below that root; bytes.
    pub path: Vec<u8>,
    /// BLAKE3 of the whole.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// How many versions lie between it and the last one that went whole.
    pub chain: u32,
    /// How many versions running, this one the last, gained too little from the one before.
    pub poor: u32,
    /// When, in milliseconds since the Unix epoch.
    pub acknowledged_ms: i64,
}

impl LocalStore {
    /// Keeps versions, and of each place no more than so many. Gives the digests of those that went.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn put_peer_baselines(
        &self,
        baselines: Vec<PeerBaseline>,
        versions: u32,
    ) -> Result<Vec<Digest>, StoreError> {
        let dropped = self.write("keep a peer's baselines", move |db| {
            Box::pin(async move {
                let mut dropped = Vec::new();
                for baseline in baselines {
                    dropped.extend(put(&mut *db, baseline, versions).await?);
                }
                Ok(dropped)
            })
        });
        digests(dropped.await?)
    }

    /// The versions of these places, the newest of each first.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn peer_baselines(
        &self,
        peer: NodeUid,
        root: &str,
        paths: &[&[u8]],
    ) -> Result<Vec<PeerBaseline>, StoreError> {
        let rows = sqlx::query(
            "SELECT path, digest, size, chain, poor, acknowledged_ms FROM peer_baselines
             WHERE peer = ?1 AND root = ?2 AND path IN (SELECT unhex(value) FROM json_each(?3))
             ORDER BY path, acknowledged_ms DESC",
        )
        .bind(peer.to_string())
        .bind(root)
        .bind(paths_as_json(paths))
        .fetch_all(&self.pool().await?)
        .await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let digest: &str = row.try_get(1)?;
            Ok(PeerBaseline {
                peer,
                root: root.to_owned(),
                path: row.try_get(0)?,
                digest: digest.parse().map_err(|_bad| StoreError::Row("peer_baselines.digest"))?,
                size: unsigned(row.try_get(2)?),
                chain: row.try_get(3)?,
                poor: row.try_get(4)?,
                acknowledged_ms: row.try_get(5)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// How many versions are kept, of all peers.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn count_peer_baselines(&self) -> Result<u64, StoreError> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM peer_baselines").fetch_one(&self.pool().await?).await?;
        Ok(unsigned(count))
    }

    /// Forgets the versions that were acknowledged before a time, in milliseconds, and those beyond [`MAX_PEER_BASELINES`].
    /// Gives their digests.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn drop_peer_baselines_before(&self, before_ms: i64) -> Result<Vec<Digest>, StoreError> {
        let dropped = self.write("forget old baselines", move |db| {
            Box::pin(async move {
                let mut dropped: Vec<String> =
                    sqlx::query_scalar("DELETE FROM peer_baselines WHERE acknowledged_ms < ?1 RETURNING digest")
                        .bind(before_ms)
                        .fetch_all(&mut *db)
                        .await?;
                let surplus = "DELETE FROM peer_baselines WHERE (peer, root, path, digest) IN
                     (SELECT peer, root, path, digest FROM peer_baselines ORDER BY acknowledged_ms DESC LIMIT -1 OFFSET ?1)
                     RETURNING digest";
                dropped.extend(
                    sqlx::query_scalar::<_, String>(surplus).bind(MAX_PEER_BASELINES).fetch_all(&mut *db).await?,
                );
                Ok(dropped)
            })
        });
        digests(dropped.await?)
    }

    /// The objects of the oldest versions that together take so many bytes, but for those that a name needs.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn oldest_peer_baselines(&self, bytes: u64) -> Result<Vec<Digest>, StoreError> {
        let oldest: Vec<(String, i64)> = sqlx::query_as(
            "SELECT digest, size FROM peer_baselines WHERE NOT EXISTS
                 (SELECT 1 FROM content_references WHERE content_references.digest = peer_baselines.digest)
             ORDER BY acknowledged_ms LIMIT 1000",
        )
        .fetch_all(&self.pool().await?)
        .await?;
        let (mut found, mut sum) = (Vec::new(), 0_u64);
        for (digest, size) in oldest {
            if sum >= bytes {
                break;
            }
            if !found.contains(&digest) {
                // On a file system each takes at least a block.
                sum = sum.saturating_add(unsigned(size).max(4096));
                found.push(digest);
            }
        }
        digests(found)
    }
}

async fn put(db: &mut SqliteConnection, one: PeerBaseline, versions: u32) -> Result<Vec<String>, sqlx::Error> {
    let (peer, root, path) = (one.peer.to_string(), one.root, one.path);
    sqlx::query(
        "INSERT INTO peer_baselines (peer, root, path, digest, size, chain, poor, acknowledged_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (peer, root, path, digest) DO UPDATE SET chain = ?6, poor = ?7, acknowledged_ms = ?8",
    )
    .bind(&peer)
    .bind(&root)
    .bind(&path)
    .bind(one.digest.to_string())
    .bind(signed(one.size))
    .bind(one.chain)
    .bind(one.poor)
    .bind(one.acknowledged_ms)
    .execute(&mut *db)
    .await?;
    let surplus = "DELETE FROM peer_baselines WHERE peer = ?1 AND root = ?2 AND path = ?3 AND digest NOT IN
         (SELECT digest FROM peer_baselines WHERE peer = ?1 AND root = ?2 AND path = ?3
          ORDER BY acknowledged_ms DESC LIMIT ?4) RETURNING digest";
    sqlx::query_scalar(surplus).bind(peer).bind(root).bind(path).bind(versions).fetch_all(db).await
}

fn digests(texts: Vec<String>) -> Result<Vec<Digest>, StoreError> {
    let parse = |text: String| text.parse().map_err(|_bad| StoreError::Row("peer_baselines.digest"));
    texts.into_iter().map(parse).collect()
}
