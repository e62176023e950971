//! How a host gets in: a join token redeemed by one conditional update, a name, a certificate, a signed roster entry, an audit
//! record; in one transaction. And how it renews its certificate.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use control_plane_pki::{CaError, FleetCa, JoinSecret};
use prost::Message as _;
use proto_model::{HostFacts, NodeName, NodeRef, NodeUid, PublicKey};
use proto_rpc::agent;
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    Actor, Error, Event, Keys, Tx,
    error::violates,
    join_tokens::{self, JoinToken, JoinTokenState},
    node::column,
    nodes::{self, Node, NodeState},
    roster,
};

/// How far a host's clock may be from ours when it renews (D4).
pub const RENEW_SKEW: TimeDelta = TimeDelta::minutes(5);

/// A host that wants in.
#[derive(Debug)]
pub struct Candidate {
    /// Its token.
    pub secret: JoinSecret,
    /// PKCS #10 over its key, DER.
    pub csr: Vec<u8>,
    /// The name wished for, where the token gives none.
    pub name: Option<NodeName>,
    /// What it reports of itself.
    pub facts: HostFacts,
    /// Where it comes from, for the audit log.
    pub remote: String,
}

/// A host that is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrolled {
    /// The node.
    pub node: Node,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
}

/// A host that wants a new certificate.
#[derive(Debug)]
pub struct Renewal {
    /// The node.
    pub uid: NodeUid,
    /// PKCS #10 over the same key, DER.
    pub csr: Vec<u8>,
    /// When the request was made, Unix milliseconds.
    pub time_ms: i64,
    /// Ed25519 over `proto_wire::renew::message`.
    pub signature: [u8; 64],
}

/// A host is not let in.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
    /// The certificate request is none, or not over an Ed25519 key.
    #[error("the certificate request cannot be used")]
    Request(#[source] CaError),
    /// The key in it is a weak one.
    #[error("the certificate request's key cannot be used")]
    WeakKey,
    /// No token has this secret.
    #[error("the join token is not known")]
    UnknownToken,
    /// The token is no longer good.
    #[error("the join token is no longer good")]
    TokenRefused {
        /// Why.
        state: JoinTokenState,
        /// Which.
        resource: String,
    },
    /// The token gives no name, and neither does the host.
    #[error("a name is needed")]
    NameMissing,
    /// Another node has the name, or a deleted one reserves it.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name.
        name: NodeName,
    },
    /// The key is or was another node's.
    #[error("the key belongs or belonged to another node")]
    KeyUsed,
}

/// A certificate is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
    /// The certificate request is none, or not over an Ed25519 key.
    #[error("the certificate request cannot be used")]
    Request(#[source] CaError),
    /// There is no such node, it was deleted, or this is not its key, or not signed with it.
    #[error("the node is not known by this key")]
    Refused,
    /// The request is too old or from the future.
    #[error("the request's time is more than 5 minutes from the server's clock")]
    Skew,
}

/// Lets a host in. The same token with the same key gives the same answer again, and changes nothing.
///
/// # Errors
/// The token, the name or the key is refused, or the database failed.
pub async fn enrol(tx: &mut Tx, keys: &Keys, candidate: Candidate) -> Result<Enrolled, EnrolError> {
    let key = FleetCa::request_key(&candidate.csr).map_err(EnrolError::Request)?;
    let key = PublicKey::from_bytes(&key).map_err(|_weak| EnrolError::WeakKey)?;
    if let Some(enrolled) = enrolled_before(tx, &candidate.secret, &key).await? {
        tx.discard();
        return Ok(enrolled);
    }
    let Some(token) = join_tokens::redeem(tx, &candidate.secret).await? else {
        return refused_or_enrolled(tx, &candidate.secret, &key).await;
    };
    // Who waited for the token's row may have been overtaken by a twin of itself.
    if let Some(enrolled) = enrolled_before(tx, &candidate.secret, &key).await? {
        tx.discard();
        return Ok(enrolled);
    }
    let name = token.node_name.clone().or(candidate.name).ok_or(EnrolError::NameMissing)?;
    require_new_key(tx, &key).await?;
    let holder = nodes::lock(tx.unaudited(), &NodeRef::Name(name.clone())).await?;
    let replaced = match holder {
        None => None,
        // Only a token that an operator made for this name may take it (D2).
        Some(_) if token.node_name.is_none() => return Err(EnrolError::NameTaken { name }),
        Some(holder) if holder.revoke_time.is_some() => {
            nodes::release_name(tx, holder.uid).await?;
            None
        }
        Some(holder) => Some(holder),
    };
    let place = Place { name, key, facts: candidate.facts, csr: candidate.csr };
    let rebuilt = replaced.is_some();
    let enrolled = match replaced {
        Some(node) => replace_key(tx, keys, node, &token, place).await?,
        None => insert(tx, keys, &token, place).await?,
    };
    let node = &enrolled.node;
    sqlx::query("INSERT INTO enrolments (token, public_key, node, create_time) VALUES ($1, $2, $3, $4)")
        .bind(token.id)
        .bind(key.as_bytes().as_slice())
        .bind(node.uid.uuid())
        .bind(node.update_time)
        .execute(tx.connection())
        .await
        .map_err(Error::from)?;
    tx.act_as(Actor::Node(node.name.to_string()));
    tx.audit(
        Event::new("node.enroll", node.resource_name())
            .with("uid", node.uid.to_string())
            .with("node_id", node.node_id().to_string())
            .with("token", token.resource_name())
            .with("remote", candidate.remote)
            .with("rebuilt", rebuilt)
            .with("labels", node.labels.to_string())
            .with("relay", node.relay),
    );
    Ok(enrolled)
}

/// Gives a node a new certificate over its present key.
///
/// # Errors
/// The node or its signature is refused, the clocks differ too much, or the database failed.
pub async fn renew(tx: &mut Tx, keys: &Keys, renewal: Renewal) -> Result<Enrolled, RenewError> {
    let now = tx.now();
    if (now.timestamp_millis() - renewal.time_ms).abs() > RENEW_SKEW.num_milliseconds() {
        return Err(RenewError::Skew);
    }
    let node = nodes::lock(tx.unaudited(), &NodeRef::Uid(renewal.uid)).await?;
    let mut node = node.filter(|node| node.revoke_time.is_none()).ok_or(RenewError::Refused)?;
    let message = proto_wire::renew::message(renewal.uid.uuid().as_bytes(), renewal.time_ms, &renewal.csr);
    if !node.public_key.verifies(&message, &renewal.signature) {
        return Err(RenewError::Refused);
    }
    let certificate = keys.ca().issue_node(node.uid.uuid(), &renewal.csr, now).map_err(RenewError::Request)?;
    if certificate.public_key != *node.public_key.as_bytes() {
        return Err(RenewError::Refused);
    }
    node.certificate_expire_time = certificate.not_after;
    node.update_time = now;
    node.revision = tx.next_revision().await?;
    sqlx::query(
        "UPDATE nodes SET certificate = $2, certificate_expire_time = $3, update_time = $4, revision = $5 WHERE uid = $1",
    )
    .bind(node.uid.uuid())
    .bind(&certificate.der)
    .bind(node.certificate_expire_time)
    .bind(now)
    .bind(column(node.revision.value())?)
    .execute(tx.connection())
    .await
    .map_err(Error::from)?;
    tx.act_as(Actor::Node(node.name.to_string()));
    let until = node.certificate_expire_time.to_rfc3339();
    tx.audit(Event::new("node.renew", node.resource_name()).with("certificate_expire_time", until));
    Ok(Enrolled { node, certificate: certificate.der })
}

/// What a new node, or a node's new key, is made of.
struct Place {
    name: NodeName,
    key: PublicKey,
    facts: HostFacts,
    csr: Vec<u8>,
}

async fn enrolled_before(tx: &mut Tx, secret: &JoinSecret, key: &PublicKey) -> Result<Option<Enrolled>, Error> {
    let row: Option<(Uuid, Vec<u8>)> = sqlx::query_as(
        "SELECT n.uid, n.certificate FROM enrolments e
         JOIN join_tokens t ON t.id = e.token JOIN nodes n ON n.uid = e.node
         WHERE t.secret_hash = $1 AND e.public_key = $2 AND n.public_key = $2 AND n.revoke_time IS NULL",
    )
    .bind(secret.hash().as_slice())
    .bind(key.as_bytes().as_slice())
    .fetch_optional(tx.connection())
    .await?;
    let Some((uid, certificate)) = row else { return Ok(None) };
    let node = nodes::find(tx.unaudited(), &NodeRef::Uid(NodeUid::new(uid))).await?;
    Ok(node.map(|node| Enrolled { node, certificate }))
}

async fn refused_or_enrolled(tx: &mut Tx, secret: &JoinSecret, key: &PublicKey) -> Result<Enrolled, EnrolError> {
    if let Some(enrolled) = enrolled_before(tx, secret, key).await? {
        tx.discard();
        return Ok(enrolled);
    }
    let now = tx.now();
    match join_tokens::by_secret(tx, secret).await? {
        Some(token) => Err(EnrolError::TokenRefused { state: token.state(now), resource: token.resource_name() }),
        None => Err(EnrolError::UnknownToken),
    }
}

async fn require_new_key(tx: &mut Tx, key: &PublicKey) -> Result<(), EnrolError> {
    let used: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM enrolments WHERE public_key = $1)
             OR EXISTS (SELECT FROM nodes WHERE public_key = $1)",
    )
    .bind(key.as_bytes().as_slice())
    .fetch_one(tx.connection())
    .await
    .map_err(Error::from)?;
    if used { Err(EnrolError::KeyUsed) } else { Ok(()) }
}

async fn insert(tx: &mut Tx, keys: &Keys, token: &JoinToken, place: Place) -> Result<Enrolled, EnrolError> {
    let now = tx.now();
    let uid = NodeUid::new(Uuid::new_v4());
    let certificate = keys.ca().issue_node(uid.uuid(), &place.csr, now).map_err(EnrolError::Request)?;
    let revision = tx.next_revision().await?;
    let node = Node {
        uid,
        name: place.name,
        public_key: place.key,
        labels: token.node_labels.clone(),
        relay: token.relay,
        version: 1,
        certificate_expire_time: certificate.not_after,
        create_time: now,
        update_time: now,
        revoke_time: None,
        state: NodeState::Offline,
        state_reason: "has not connected yet".to_owned(),
        connected: false,
        facts: place.facts,
        applied: proto_model::AppliedConfig::default(),
        components: Vec::new(),
        clock_skew_ms: 0,
        last_seen_time: Some(now),
        revision,
        create_revision: revision,
    };
    let entry = roster::sign(keys, &node);
    let inserted = sqlx::query(
        "INSERT INTO nodes (uid, name, public_key, node_id, labels, relay, version, certificate, certificate_expire_time,
             create_time, update_time, state, state_reason, facts, last_seen_time, revision, create_revision,
             roster_epoch, roster_sequence, roster_payload, roster_signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12, $13, $10, $14, $14, $15, $14, $16, $17)",
    )
    .bind(uid.uuid())
    .bind(node.name.as_str())
    .bind(node.public_key.as_bytes().as_slice())
    .bind(node.node_id().as_bytes().as_slice())
    .bind(Json(BTreeMap::from(node.labels.clone())))
    .bind(node.relay)
    .bind(column(node.version)?)
    .bind(&certificate.der)
    .bind(certificate.not_after)
    .bind(now)
    .bind(node.state.as_str())
    .bind(&node.state_reason)
    .bind(agent::HostFacts::from(node.facts.clone()).encode_to_vec())
    .bind(column(revision.value())?)
    .bind(column(keys.epoch().value())?)
    .bind(entry.payload)
    .bind(entry.signature.as_slice())
    .execute(tx.connection())
    .await;
    match inserted {
        Ok(_inserted) => Ok(Enrolled { node, certificate: certificate.der }),
        Err(error) if violates(&error, "nodes_name") => Err(EnrolError::NameTaken { name: node.name }),
        Err(error) if violates(&error, "nodes_public_key_key") => Err(EnrolError::KeyUsed),
        Err(error) => Err(Error::from(error).into()),
    }
}

/// A rebuilt host takes its place with a new key; the uid stays, and with it what refers to the node. Labels and relay become those
/// of the token where it names any, since an operator made it for this host.
async fn replace_key(
    tx: &mut Tx,
    keys: &Keys,
    mut node: Node,
    token: &JoinToken,
    place: Place,
) -> Result<Enrolled, EnrolError> {
    let now = tx.now();
    let certificate = keys.ca().issue_node(node.uid.uuid(), &place.csr, now).map_err(EnrolError::Request)?;
    node.public_key = place.key;
    node.facts = place.facts;
    if !token.node_labels.is_empty() {
        node.labels = token.node_labels.clone();
    }
    node.relay |= token.relay;
    node.version += 1;
    node.certificate_expire_time = certificate.not_after;
    node.update_time = now;
    node.revision = tx.next_revision().await?;
    let entry = roster::sign(keys, &node);
    let updated = sqlx::query(
        "UPDATE nodes SET public_key = $2, node_id = $3, labels = $4, relay = $5, version = $6, certificate = $7,
             certificate_expire_time = $8, update_time = $9, facts = $10, last_seen_time = $9, revision = $11,
             roster_epoch = $12, roster_sequence = $11, roster_payload = $13, roster_signature = $14
         WHERE uid = $1",
    )
    .bind(node.uid.uuid())
    .bind(node.public_key.as_bytes().as_slice())
    .bind(node.node_id().as_bytes().as_slice())
    .bind(Json(BTreeMap::from(node.labels.clone())))
    .bind(node.relay)
    .bind(column(node.version)?)
    .bind(&certificate.der)
    .bind(certificate.not_after)
    .bind(now)
    .bind(agent::HostFacts::from(node.facts.clone()).encode_to_vec())
    .bind(column(node.revision.value())?)
    .bind(column(keys.epoch().value())?)
    .bind(entry.payload)
    .bind(entry.signature.as_slice())
    .execute(tx.connection())
    .await;
    match updated {
        Ok(_updated) => Ok(Enrolled { node, certificate: certificate.der }),
        Err(error) if violates(&error, "nodes_public_key_key") => Err(EnrolError::KeyUsed),
        Err(error) => Err(Error::from(error).into()),
    }
}
