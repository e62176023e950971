//! Who is connected where, and what agents say of themselves: observed, not decided, so nothing of it is audited.

use futures::FutureExt as _;
use proto_model::{AppliedConfig, ApplyStatus, Generation, HostFacts, NodeName, NodeRef, NodeUid};
use uuid::Uuid;

use crate::{
    Db, Error, Unaudited, nodes,
    observation::{self, Observed},
    rollouts::{self, Answer},
};

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

/// Whether a session still has its node's place. Whatever a session writes of its node is fenced by it: a server that was stopped, or
/// that others took for gone, must not write over what the session after its own has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has.
    Held,
    /// Nobody has: its row was tidied away while its server could not be heard. [`crate::servers::beat`] enters it again.
    Lost,
    /// A newer session has it.
    Taken,
}

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
