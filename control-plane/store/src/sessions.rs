//! Who is connected where, and what agents say of themselves: observed, not decided, so nothing of it is audited.
//!
//! A server that has not been heard for [`SERVER_GONE_AFTER`] is gone, and its sessions with it; any other server tidies up after it.
//! Times of that are PostgreSQL's own, so that servers' clocks do not matter.

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use prost::Message as _;
use proto_model::{AppliedConfig, ApplyStatus, Generation, HostFacts, NodeId, NodeName, NodeRef, NodeUid, PublicKey};
use proto_rpc::agent as wire;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    Db, Error, Unaudited, nodes,
    observation::{self, Observed},
    rollouts::{self, Answer},
};

/// Four missed heartbeats of five seconds: shorter, and a slow disk would end the sessions of a server that lives.
pub const SERVER_GONE_AFTER: std::time::Duration = std::time::Duration::from_secs(20);

/// Nodes of the DHT's ring that agents are told of: more than anybody needs to find the others.
const MAX_RING: i64 = 32;

/// What opens a session.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Whose.
    pub node: NodeUid,
    /// Its id, greater than that of an older one of this server.
    pub session: Uuid,
    /// The server that holds it.
    pub server: Uuid,
    /// Where it comes from, `IP:PORT`.
    pub remote_address: String,
    /// What the host reports.
    pub facts: HostFacts,
    /// Its own layer of configuration.
    pub host_layer: String,
    /// Where that comes from.
    pub host_layer_origin: String,
    /// What is in force there.
    pub applied: AppliedConfig,
    /// How far its clock is ahead, where it said its time.
    pub clock_skew_ms: Option<i64>,
}

/// Whether a session may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is open; the node's name.
    Member(NodeName),
    /// The node is out of the fleet.
    Revoked,
    /// There is no such node.
    Unknown,
}

/// A node's record, as it was put into the DHT, and where the control plane sees the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The key that signs it.
    pub public_key: PublicKey,
    /// BEP 44 `seq`.
    pub seq: i64,
    /// BEP 44 `v`, before bencoding; empty where the node has sent none.
    pub value: Vec<u8>,
    /// BEP 44 signature; empty where the node has sent none.
    pub signature: Vec<u8>,
    /// Not signed by the node.
    pub observed_addresses: Vec<String>,
}

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

/// Whether a session still has its node's place. Whatever a session writes of its node is fenced by it: a server that was stopped, or
/// that others took for gone, must not write over what the session after its own has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has.
    Held,
    /// Nobody has: its row was tidied away while its server could not be heard. [`beat`] enters it again.
    Lost,
    /// A newer session has it.
    Taken,
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

// ---------------------------------------------------------------------------------------------------------------------
// Sessions

/// Enters a session in the place of an older one.
///
/// # Errors
/// The database failed.
pub async fn open(db: &Db, opening: Opening) -> Result<Opened, Error> {
    db.observe("sessions.open", |tx| async move { open_in(tx, opening).await }.boxed()).await
}

async fn open_in(tx: &mut Unaudited, opening: Opening) -> Result<Opened, Error> {
    let Some(node) = nodes::lock(tx, &NodeRef::Uid(opening.node)).await? else { return Ok(Opened::Unknown) };
    if node.revoke_time.is_some() {
        return Ok(Opened::Revoked);
    }
    let now = tx.now();
    sqlx::query(
        "INSERT INTO node_sessions (node, session, server, remote_address, connect_time) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (node) DO UPDATE SET session = $2, server = $3, remote_address = $4, connect_time = $5",
    )
    .bind(opening.node.uuid())
    .bind(opening.session)
    .bind(opening.server)
    .bind(&opening.remote_address)
    .bind(now)
    .execute(tx.connection())
    .await?;
    sqlx::query(
        "INSERT INTO node_layers (node, host_layer, host_layer_origin, observed_addresses) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (node) DO UPDATE SET host_layer = $2, host_layer_origin = $3, observed_addresses = $4",
    )
    .bind(opening.node.uuid())
    .bind(&opening.host_layer)
    .bind(&opening.host_layer_origin)
    .bind(seen_at(&opening.remote_address, &opening.facts))
    .execute(tx.connection())
    .await?;
    rollouts::on_presence(tx, opening.node, Answer::Offline, Answer::Pending).await?;
    let observed = Observed {
        connected: Some(true),
        facts: Some(opening.facts),
        applied: Some(opening.applied),
        components: None,
        clock_skew_ms: opening.clock_skew_ms,
    };
    observation::observe(tx, opening.node, observed).await?;
    Ok(Opened::Member(node.name))
}

/// Where the control plane sees a node: the address of its session, with the ports that it says it listens on.
fn seen_at(remote: &str, facts: &HostFacts) -> Vec<String> {
    let Ok(remote) = remote.parse::<std::net::SocketAddr>() else { return Vec::new() };
    let mut ports: Vec<u16> = facts.quic_addresses.iter().map(std::net::SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|port| std::net::SocketAddr::new(remote.ip().to_canonical(), port).to_string()).collect()
}

/// Takes a session away, unless a newer one has its place.
///
/// # Errors
/// The database failed.
pub async fn close(db: &Db, node: NodeUid, session: Uuid) -> Result<(), Error> {
    db.observe("sessions.close", move |tx| async move { close_in(tx, node, session).await }.boxed()).await?;
    rollouts::settle(db).await
}

async fn close_in(tx: &mut Unaudited, node: NodeUid, session: Uuid) -> Result<(), Error> {
    // The node's row first, as everywhere.
    nodes::lock(tx, &NodeRef::Uid(node)).await?;
    let closed = sqlx::query("DELETE FROM node_sessions WHERE node = $1 AND session = $2")
        .bind(node.uuid())
        .bind(session)
        .execute(tx.connection())
        .await?;
    if closed.rows_affected() == 0 {
        return Ok(());
    }
    rollouts::on_presence(tx, node, Answer::Pending, Answer::Offline).await?;
    observation::observe(tx, node, Observed { connected: Some(false), ..Observed::default() }).await?;
    Ok(())
}

/// Whether a session has its node's place; the node's row is locked, so that it stays so until the transaction ends.
async fn place(tx: &mut Unaudited, node: NodeUid, session: Uuid) -> Result<Place, Error> {
    let holder: Option<Uuid> = sqlx::query_scalar("SELECT session FROM node_sessions WHERE node = $1")
        .bind(node.uuid())
        .fetch_optional(tx.connection())
        .await?;
    Ok(match holder {
        Some(holder) if holder == session => Place::Held,
        Some(_) => Place::Taken,
        None => Place::Lost,
    })
}

/// Stores what an agent observes of itself, where its session has its place.
///
/// # Errors
/// The database failed.
pub async fn observe(db: &Db, node: NodeUid, session: Uuid, observed: Observed) -> Result<Place, Error> {
    db.observe("sessions.observe", move |tx| {
        async move {
            if nodes::lock(tx, &NodeRef::Uid(node)).await?.is_none_or(|node| node.revoke_time.is_some()) {
                return Ok::<_, Error>(Place::Held);
            }
            let place = place(tx, node, session).await?;
            if place == Place::Held {
                observation::observe(tx, node, observed).await?;
            }
            Ok(place)
        }
        .boxed()
    })
    .await
}

/// Stores an answer to a desired configuration, where its session has its place, and lets the rollouts hear of it.
///
/// # Errors
/// The database failed.
pub async fn answer(
    db: &Db,
    node: NodeUid,
    session: Uuid,
    generation: Generation,
    applied: AppliedConfig,
    not_in_force: Vec<String>,
) -> Result<Place, Error> {
    let answer = db.observe("sessions.answer", move |tx| {
        async move {
            if nodes::lock(tx, &NodeRef::Uid(node)).await?.is_none_or(|node| node.revoke_time.is_some()) {
                return Ok::<_, Error>(Place::Held);
            }
            let place = place(tx, node, session).await?;
            if place == Place::Held {
                answer_in(tx, node, generation, applied, not_in_force).await?;
            }
            Ok(place)
        }
        .boxed()
    });
    let place: Place = answer.await?;
    rollouts::settle(db).await?;
    Ok(place)
}

async fn answer_in(
    tx: &mut Unaudited,
    node: NodeUid,
    generation: Generation,
    applied: AppliedConfig,
    not_in_force: Vec<String>,
) -> Result<(), Error> {
    sqlx::query("UPDATE node_layers SET not_in_force = $2 WHERE node = $1")
        .bind(node.uuid())
        .bind(not_in_force)
        .execute(tx.connection())
        .await?;
    let answer = match applied.status {
        ApplyStatus::Applied => Some(Answer::Applied),
        ApplyStatus::Rejected => Some(Answer::Rejected),
        ApplyStatus::Unknown | ApplyStatus::Pending => None,
    };
    if let Some(answer) = answer {
        rollouts::on_answer(tx, node, generation, answer, &applied.errors).await?;
    }
    observation::observe(tx, node, Observed { applied: Some(applied), ..Observed::default() }).await?;
    Ok(())
}

/// Keeps a node's record, unless a newer one is kept or it is not the node's own.
///
/// # Errors
/// The database failed.
pub async fn put_record(db: &Db, node: NodeUid, record: NodeRecord) -> Result<(), Error> {
    db.observe("sessions.record", move |tx| {
        async move {
            let Some(member) = nodes::find(tx, &NodeRef::Uid(node)).await? else { return Ok(()) };
            if member.public_key != record.public_key {
                tracing::warn!(node = %member.name, "Refused a node record: it is signed by another key than the node's");
                return Ok(());
            }
            let now = tx.now();
            sqlx::query(
                "INSERT INTO node_records (node, public_key, seq, value, signature, update_time) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (node) DO UPDATE \
                 SET public_key = $2, seq = $3, value = $4, signature = $5, update_time = $6 \
                 WHERE node_records.public_key <> $2 OR node_records.seq <= $3",
            )
            .bind(node.uuid())
            .bind(record.public_key.as_bytes().as_slice())
            .bind(record.seq)
            .bind(record.value)
            .bind(record.signature)
            .bind(now)
            .execute(tx.connection())
            .await?;
            Ok(())
        }
        .boxed()
    }).await
}

/// The records of those nodes that are in the fleet, by the id of their present key.
///
/// # Errors
/// The database failed.
pub async fn records(db: &Db, ids: &[NodeId]) -> Result<Vec<NodeRecord>, Error> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
    db.read(move |connection| read_records(connection, ids).boxed()).await
}

async fn read_records(connection: &mut PgConnection, ids: Vec<Vec<u8>>) -> Result<Vec<NodeRecord>, Error> {
    let rows = sqlx::query(
        "SELECT n.public_key, n.facts, l.observed_addresses, r.seq, r.value, r.signature FROM nodes n \
         LEFT JOIN node_layers l ON l.node = n.uid \
         LEFT JOIN node_records r ON r.node = n.uid AND r.public_key = n.public_key \
         WHERE n.node_id = ANY($1) AND n.revoke_time IS NULL",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let records = rows.iter().map(|row| {
        let key: &[u8] = row.try_get("public_key")?;
        let facts = wire::HostFacts::decode(row.try_get::<&[u8], _>("facts")?).unwrap_or_default();
        let mut observed_addresses: Vec<String> =
            row.try_get::<Option<_>, _>("observed_addresses")?.unwrap_or_default();
        observed_addresses.extend(facts.quic_addresses);
        observed_addresses.dedup();
        Ok(NodeRecord {
            public_key: PublicKey::try_from(key).map_err(|_bad| Error::Damaged("node"))?,
            seq: row.try_get::<Option<_>, _>("seq")?.unwrap_or_default(),
            value: row.try_get::<Option<_>, _>("value")?.unwrap_or_default(),
            signature: row.try_get::<Option<_>, _>("signature")?.unwrap_or_default(),
            observed_addresses,
        })
    });
    records.collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// Servers

/// Says that a server lives, and when the agents of its sessions were heard; takes away servers that are gone, and enters again those
/// of its sessions that were taken away while it could not be heard.
///
/// # Errors
/// The database failed.
pub async fn beat(db: &Db, server: Server, held: Vec<Held>, tidy: Tidy) -> Result<Beat, Error> {
    let id = server.id;
    let beat = db.observe("sessions.beat", move |tx| async move { beat_in(tx, server, held).await }.boxed()).await?;
    if tidy == Tidy::NotYet {
        return Ok(beat);
    }
    for (node, session) in abandoned(db, id).await? {
        close(db, node, session).await?;
    }
    db.observe("sessions.tidy", |tx| {
        async move {
            sqlx::query(
                "DELETE FROM servers s WHERE heartbeat_time < now() - make_interval(secs => $1) \
                 AND NOT EXISTS (SELECT FROM node_sessions n WHERE n.server = s.id)",
            )
            .bind(SERVER_GONE_AFTER.as_secs_f64())
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
    .bind(SERVER_GONE_AFTER.as_secs_f64());
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
        close(db, NodeUid::new(node), session).await?;
    }
    db.observe("sessions.retire", move |tx| {
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
