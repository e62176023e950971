//! [`Node`]: a host of the fleet, and its row.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use prost::Message as _;
use proto_model::{
    AppliedConfig, ComponentHealth, Etag, HostFacts, Labels, NodeId, NodeName, NodeUid, PublicKey, Revision,
};
use proto_rpc::{agent, v1};
use sqlx::{FromRow, types::Json};
use uuid::Uuid;

use crate::Error;

/// A host of the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The identity that survives a change of key or name.
    pub uid: NodeUid,
    /// Its name.
    pub name: NodeName,
    /// Its present key.
    pub public_key: PublicKey,
    /// What an operator or its token said of it.
    pub labels: Labels,
    /// Whether it may relay.
    pub relay: bool,
    /// Counts changes by operators.
    pub version: u64,
    /// When its certificate ends.
    pub certificate_expire_time: DateTime<Utc>,
    /// When it was enrolled.
    pub create_time: DateTime<Utc>,
    /// When its row last changed.
    pub update_time: DateTime<Utc>,
    /// When it was deleted, if it was.
    pub revoke_time: Option<DateTime<Utc>>,
    /// Whether it is connected and does what it should.
    pub state: NodeState,
    /// Why it is not ready, in a sentence.
    pub state_reason: String,
    /// Whether an agent's session stands.
    pub connected: bool,
    /// What the host reports of itself.
    pub facts: HostFacts,
    /// What is in force on it.
    pub applied: AppliedConfig,
    /// Its components' health.
    pub components: Vec<ComponentHealth>,
    /// How far its clock is ahead of ours.
    pub clock_skew_ms: i64,
    /// When it was last heard of.
    pub last_seen_time: Option<DateTime<Utc>>,
    /// Of its newest change.
    pub revision: Revision,
    /// At which it appeared.
    pub create_revision: Revision,
}

/// Whether a node is connected and does what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Connected, its configuration applied, no component failing.
    Ready,
    /// Connected, but a component fails or the configuration was rejected.
    Degraded,
    /// Not connected.
    Offline,
    /// Deleted.
    Revoked,
}

impl Node {
    /// `nodes/{node}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        self.name.resource_name()
    }

    /// The address of its key in the DHT.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.public_key.node_id()
    }

    /// Changes with every change by an operator.
    #[must_use]
    pub fn etag(&self) -> Etag {
        Etag::of_number(self.version)
    }
}

impl NodeState {
    /// As it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Offline => "offline",
            Self::Revoked => "revoked",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "ready" => Ok(Self::Ready),
            "degraded" => Ok(Self::Degraded),
            "offline" => Ok(Self::Offline),
            "revoked" => Ok(Self::Revoked),
            _ => Err(Error::Damaged("node state")),
        }
    }
}

#[derive(FromRow)]
pub(crate) struct Row {
    uid: Uuid,
    name: String,
    public_key: Vec<u8>,
    labels: Json<BTreeMap<String, String>>,
    relay: bool,
    version: i64,
    certificate_expire_time: DateTime<Utc>,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    revoke_time: Option<DateTime<Utc>>,
    state: String,
    state_reason: String,
    connected: bool,
    facts: Vec<u8>,
    applied: Vec<u8>,
    components: Vec<u8>,
    clock_skew_ms: i64,
    last_seen_time: Option<DateTime<Utc>>,
    revision: i64,
    create_revision: i64,
}

/// A list has no message of its own, so that of `Observed` carries it.
pub(crate) fn encode_components(components: &[ComponentHealth]) -> Vec<u8> {
    let components = components.iter().cloned().map(Into::into).collect();
    agent::Observed { components, ..agent::Observed::default() }.encode_to_vec()
}

fn decode_components(bytes: &[u8]) -> Option<Vec<ComponentHealth>> {
    let observed = agent::Observed::decode(bytes).ok()?;
    observed.components.into_iter().map(|component| component.try_into().ok()).collect()
}

impl TryFrom<Row> for Node {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let damaged = || Error::Damaged("node");
        let number = |value: i64| u64::try_from(value).map_err(|_negative| damaged());
        let facts = agent::HostFacts::decode(row.facts.as_slice()).map_err(|_form| damaged())?;
        let applied = v1::AppliedConfig::decode(row.applied.as_slice()).map_err(|_form| damaged())?;
        Ok(Self {
            uid: NodeUid::new(row.uid),
            name: row.name.parse().map_err(|_form| damaged())?,
            public_key: PublicKey::try_from(row.public_key.as_slice()).map_err(|_form| damaged())?,
            labels: row.labels.0.try_into().map_err(|_form| damaged())?,
            relay: row.relay,
            version: number(row.version)?,
            certificate_expire_time: row.certificate_expire_time,
            create_time: row.create_time,
            update_time: row.update_time,
            revoke_time: row.revoke_time,
            state: NodeState::parse(&row.state)?,
            state_reason: row.state_reason,
            connected: row.connected,
            facts: facts.try_into().map_err(|_form| damaged())?,
            applied: applied.try_into().map_err(|_form| damaged())?,
            components: decode_components(&row.components).ok_or_else(damaged)?,
            clock_skew_ms: row.clock_skew_ms,
            last_seen_time: row.last_seen_time,
            revision: Revision::new(number(row.revision)?),
            create_revision: Revision::new(number(row.create_revision)?),
        })
    }
}

/// A number as a column takes it.
pub(crate) fn column(number: u64) -> Result<i64, Error> {
    i64::try_from(number).map_err(|_too_large| Error::Damaged("number"))
}
