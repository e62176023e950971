//! The servers over one database: which of them live, and what becomes of the sessions of one that does not.
//!
//! A server that has not been heard for [`GONE_AFTER`] is gone, and its sessions with it; any other server tidies up after it. Times of
//! that are PostgreSQL's own, so that servers' clocks do not matter.

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use prost::Message as _;
use proto_model::NodeUid;
use proto_rpc::agent as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Db, Error, Unaudited,
    observation::{self, Observed},
    rollouts::{self, Answer},
    sessions,
};

/// Four missed heartbeats of five seconds: shorter, and a slow disk would end the sessions of a server that lives.
pub const GONE_AFTER: std::time::Duration = std::time::Duration::from_secs(20);

/// Nodes of the DHT's ring that agents are told of: more than anybody needs to find the others.
const MAX_RING: i64 = 32;

/// A server over this database.
#[derive(Clone, Debug)]
pub struct Server {
    /// Of this process.
    pub id: Uuid,
    /// Its program's version.
    pub version: String,
    /// Its node in the DHT's ring.
    pub ring_address: Option<String>,
}

/// A session as its server holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Whose.
    pub node: NodeUid,
    /// Which.
    pub session: Uuid,
    /// Where it comes from.
    pub remote_address: String,
    /// When the agent was last heard.
    pub heard: DateTime<Utc>,
}

/// What a heartbeat found of this server's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// A newer session has their place.
    pub taken: Vec<Uuid>,
    /// They had lost their place, and have it again.
    pub entered_again: Vec<(NodeUid, Uuid)>,
}

/// Whether this server may say that others are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tidy {
    /// Its own heartbeats were stored in time, so those of others would have been too.
    Yes,
    /// The database, or this server, stood still: nobody's heartbeat means anything yet.
    NotYet,
}

/// Says that a server lives, and when the agents of its sessions were heard; takes away servers that are gone, and enters again those
/// of its sessions that were taken away while it could not be heard.
///
/// # Errors
/// The database failed.
pub async fn beat(db: &Db, server: Server, held: Vec<Held>, tidy: Tidy) -> Result<Beat, Error> {
    let id = server.id;
    let beat = db.observe("servers.beat", move |tx| async move { beat_in(tx, server, held).await }.boxed()).await?;
    if tidy == Tidy::NotYet {
        return Ok(beat);
    }
    for (node, session) in abandoned(db, id).await? {
        sessions::close(db, node, session).await?;
    }
    db.observe("sessions.tidy", |tx| {
        async move {
            sqlx::query(
                "DELETE FROM servers s WHERE heartbeat_time < now() - make_interval(secs => $1) \
                 AND NOT EXISTS (SELECT FROM node_sessions n WHERE n.server = s.id)",
            )
            .bind(GONE_AFTER.as_secs_f64())
            .execute(tx.connection())
            .await?;
            Ok(())
        }
        .boxed()
    })
    .await
    .map(|()| beat)
}

async fn beat_in(tx: &mut Unaudited, server: Server, held: Vec<Held>) -> Result<Beat, Error> {
    let now = tx.now();
    sqlx::query(
        "INSERT INTO servers (id, version, ring_address, start_time, heartbeat_time) VALUES ($1, $2, $3, $4, now()) \
         ON CONFLICT (id) DO UPDATE SET version = $2, ring_address = $3, heartbeat_time = now()",
    )
    .bind(server.id)
    .bind(&server.version)
    .bind(&server.ring_address)
    .bind(now)
    .execute(tx.connection())
    .await?;
    if held.is_empty() {
        return Ok(Beat::default());
    }
    let nodes: Vec<Uuid> = held.iter().map(|held| held.node.uuid()).collect();
    // In one order everywhere, so that two servers never wait for each other in a circle.
    sqlx::query("SELECT FROM nodes WHERE uid = ANY($1) ORDER BY uid FOR NO KEY UPDATE")
        .bind(&nodes)
        .execute(tx.connection())
        .await?;
    sqlx::query(
        "UPDATE nodes n SET last_seen_time = h.heard FROM unnest($1::uuid[], $2::timestamptz[]) AS h (node, heard) \
         WHERE n.uid = h.node AND (n.last_seen_time IS NULL OR n.last_seen_time < h.heard)",
    )
    .bind(&nodes)
    .bind(held.iter().map(|held| held.heard).collect::<Vec<_>>())
    .execute(tx.connection())
    .await?;
    let sessions: Vec<Uuid> = held.iter().map(|held| held.session).collect();
    let entered_again: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "INSERT INTO node_sessions (node, session, server, remote_address, connect_time) \
         SELECT h.node, h.session, $4, h.remote, $5 FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS h (node, session, remote) \
         JOIN nodes n ON n.uid = h.node AND n.revoke_time IS NULL ON CONFLICT DO NOTHING RETURNING node, session",
    )
    .bind(&nodes)
    .bind(&sessions)
    .bind(held.iter().map(|held| held.remote_address.clone()).collect::<Vec<_>>())
    .bind(server.id)
    .bind(now)
    .fetch_all(tx.connection())
    .await?;
    let taken: Vec<Uuid> = sqlx::query_scalar(
        "SELECT h.session FROM unnest($1::uuid[], $2::uuid[]) AS h (node, session) \
         WHERE NOT EXISTS (SELECT FROM node_sessions s WHERE s.node = h.node AND s.session = h.session)",
    )
    .bind(&nodes)
    .bind(&sessions)
    .fetch_all(tx.connection())
    .await?;
    let entered_again: Vec<_> =
        entered_again.into_iter().map(|(node, session)| (NodeUid::new(node), session)).collect();
    for (node, _) in &entered_again {
        rollouts::on_presence(tx, *node, Answer::Offline, Answer::Pending).await?;
    }
    for (node, _) in &entered_again {
        observation::observe(tx, *node, Observed { connected: Some(true), ..Observed::default() }).await?;
    }
    Ok(Beat { taken, entered_again })
}

/// The sessions of servers that are gone.
async fn abandoned(db: &Db, own: Uuid) -> Result<Vec<(NodeUid, Uuid)>, Error> {
    let select = sqlx::query_as(
        "SELECT n.node, n.session FROM node_sessions n JOIN servers s ON s.id = n.server \
         WHERE s.id <> $1 AND s.heartbeat_time < now() - make_interval(secs => $2)",
    )
    .bind(own)
    .bind(GONE_AFTER.as_secs_f64());
    let rows: Vec<(Uuid, Uuid)> =
        db.read(move |connection| async move { Ok(select.fetch_all(connection).await?) }.boxed()).await?;
    Ok(rows.into_iter().map(|(node, session)| (NodeUid::new(node), session)).collect())
}

/// Takes a server away that is stopping, after its sessions.
///
/// # Errors
/// The database failed.
pub async fn retire(db: &Db, server: Uuid) -> Result<(), Error> {
    let select = sqlx::query_as("SELECT node, session FROM node_sessions WHERE server = $1").bind(server);
    let left: Vec<(Uuid, Uuid)> =
        db.read(move |connection| async move { Ok(select.fetch_all(connection).await?) }.boxed()).await?;
    for (node, session) in left {
        sessions::close(db, NodeUid::new(node), session).await?;
    }
    db.observe("servers.retire", move |tx| {
        async move {
            sqlx::query("DELETE FROM servers WHERE id = $1").bind(server).execute(tx.connection()).await?;
            Ok(())
        }
        .boxed()
    })
    .await
}

/// How many agents are connected, over all servers.
///
/// # Errors
/// The database failed.
pub async fn connected(db: &Db) -> Result<u64, Error> {
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM node_sessions");
    let connected = db.read(move |connection| async move { Ok(count.fetch_one(connection).await?) }.boxed()).await?;
    Ok(connected.unsigned_abs())
}

/// The ring of nodes that store DHT records: the servers' own, and relays that an operator allows.
///
/// # Errors
/// The database failed.
pub async fn ring(db: &Db) -> Result<Vec<String>, Error> {
    db.read(|connection| read_ring(connection).boxed()).await
}

async fn read_ring(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    let mut ring: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT ring_address FROM servers WHERE ring_address IS NOT NULL ORDER BY 1 LIMIT $1",
    )
    .bind(MAX_RING)
    .fetch_all(&mut *connection)
    .await?;
    let relays: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT facts FROM nodes WHERE relay AND revoke_time IS NULL ORDER BY create_time, uid LIMIT $1",
    )
    .bind(MAX_RING)
    .fetch_all(connection)
    .await?;
    for facts in relays {
        let facts = wire::HostFacts::decode(facts.as_slice()).unwrap_or_default();
        if facts.offers_relay {
            ring.extend(facts.dht_addresses);
        }
    }
    ring.dedup();
    ring.truncate(usize::try_from(MAX_RING).expect("a small number"));
    Ok(ring)
}
