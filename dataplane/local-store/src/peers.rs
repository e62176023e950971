//! Peers that were met, and what they say about themselves.

use proto_model::{NodeId, PublicKey};
use sqlx::Row;

use crate::store::{LocalStore, StoreError};

/// A peer that was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its key; the node id follows from it.
    pub public_key: PublicKey,
    /// Where it was met: the fleet's id.
    pub topic: String,
    /// When it was seen last, seconds since the Unix epoch.
    pub last_seen: i64,
}

/// What a peer says about itself, readable by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMetadata {
    /// Who.
    pub node_id: NodeId,
    /// `public`, `private` or `relay`.
    pub node_type: String,
    /// The relay in use, if it uses one.
    pub connected_relay: Option<NodeId>,
    /// Its name in the fleet, where known.
    pub name: Option<String>,
    /// Its addresses, `IP:PORT` each.
    pub addresses: Vec<String>,
    /// Of the record that says so.
    pub seq: i64,
    /// When that was issued, seconds since the Unix epoch.
    pub issued_at: i64,
    /// Until when it holds.
    pub expires_at: i64,
}

impl LocalStore {
    /// Keeps that a peer was seen.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn saw_peer(&self, peer: KnownPeer) -> Result<(), StoreError> {
        self.write("keep peer", move |db| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO known_peers (peer_id, public_key, topic, last_seen) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (peer_id) DO UPDATE SET topic = ?3, last_seen = max(last_seen, ?4)",
                )
                .bind(peer.public_key.node_id().to_string())
                .bind(peer.public_key.to_string())
                .bind(peer.topic)
                .bind(peer.last_seen)
                .execute(db)
                .await
                .map(drop)
            })
        })
        .await
    }

    /// The peers that were seen last, at most `limit`.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn known_peers(&self, limit: u32) -> Result<Vec<KnownPeer>, StoreError> {
        let rows = sqlx::query("SELECT public_key, topic, last_seen FROM known_peers ORDER BY last_seen DESC LIMIT ?1")
            .bind(limit)
            .fetch_all(&self.pool().await?)
            .await?;
        rows.iter()
            .map(|row| {
                let key: &str = row.try_get(0)?;
                let public_key = key.parse().map_err(|_bad| StoreError::Row("known_peers.public_key"))?;
                Ok(KnownPeer { public_key, topic: row.try_get(1)?, last_seen: row.try_get(2)? })
            })
            .collect()
    }

    /// Forgets a peer: it left the fleet.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn forget_peer(&self, node_id: NodeId) -> Result<(), StoreError> {
        self.write("forget peer", move |db| {
            Box::pin(async move {
                let id = node_id.to_string();
                sqlx::query("DELETE FROM known_peers WHERE peer_id = ?1").bind(&id).execute(&mut *db).await?;
                sqlx::query("DELETE FROM peer_metadata WHERE node_id = ?1").bind(&id).execute(&mut *db).await?;
                sqlx::query("DELETE FROM metadata_cache WHERE peer_id = ?1").bind(&id).execute(db).await.map(drop)
            })
        })
        .await
    }

    /// Keeps what a peer says; what has a lower `seq` than what is kept changes nothing.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn put_peer_metadata(&self, peer: PeerMetadata) -> Result<(), StoreError> {
        let now = self.now_s();
        self.write("keep metadata", move |db| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO peer_metadata (node_id, node_type, using_relay, connected_relay, name, addresses, seq,
                                                issued_at, expires_at, updated_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                     ON CONFLICT (node_id) DO UPDATE SET node_type = ?2, using_relay = ?3, connected_relay = ?4,
                         name = coalesce(?5, name), addresses = ?6, seq = ?7, issued_at = ?8, expires_at = ?9, updated_at = ?10
                     WHERE seq <= ?7",
                )
                .bind(peer.node_id.to_string())
                .bind(peer.node_type)
                .bind(peer.connected_relay.is_some())
                .bind(peer.connected_relay.map(|relay| relay.to_string()))
                .bind(peer.name)
                .bind(serde_json::Value::from(peer.addresses).to_string())
                .bind(peer.seq)
                .bind(peer.issued_at)
                .bind(peer.expires_at)
                .bind(now)
                .execute(db)
                .await
                .map(drop)
            })
        })
        .await
    }

    /// What peers say, those first that said it last, at most `limit`.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn peer_metadata(&self, limit: u32) -> Result<Vec<PeerMetadata>, StoreError> {
        let rows = sqlx::query(
            "SELECT node_id, node_type, connected_relay, name, addresses, seq, issued_at, expires_at
             FROM peer_metadata ORDER BY updated_at DESC LIMIT ?1",
        )
        .bind(limit)
        .fetch_all(&self.pool().await?)
        .await?;
        rows.iter().map(peer_metadata).collect()
    }
}

fn peer_metadata(row: &sqlx::sqlite::SqliteRow) -> Result<PeerMetadata, StoreError> {
    let id = |text: &str| text.parse::<NodeId>().map_err(|_bad| StoreError::Row("peer_metadata.node_id"));
    let relay: Option<&str> = row.try_get(2)?;
    let addresses: &str = row.try_get(4)?;
    Ok(PeerMetadata {
        node_id: id(row.try_get(0)?)?,
        node_type: row.try_get(1)?,
        connected_relay: relay.map(id).transpose()?,
        name: row.try_get(3)?,
        addresses: serde_json::from_str(addresses).map_err(|_bad| StoreError::Row("peer_metadata.addresses"))?,
        seq: row.try_get(5)?,
        issued_at: row.try_get(6)?,
        expires_at: row.try_get(7)?,
    })
}
