//! [`RosterEntry`].

use proto_rpc::agent as rpc;

use crate::{Epoch, InvalidField, Labels, NodeId, NodeName, NodeUid, PublicKey, invalid_field::at, newtype::number};

/// The number of a change to the roster; unique and growing in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RosterSequence(u64);

number!(RosterSequence);

/// One member of the fleet, as the control plane signs it (D1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    /// Counts restores.
    pub epoch: Epoch,
    /// Of the newest change to this member.
    pub sequence: RosterSequence,
    /// Who.
    pub uid: NodeUid,
    /// Its name.
    pub name: NodeName,
    /// Its present key.
    pub public_key: PublicKey,
    /// What an operator or a token said of it.
    pub labels: Labels,
    /// Whether it may relay.
    pub relay: bool,
    /// Whether it is out for good.
    pub revoked: bool,
}

impl RosterEntry {
    /// The address of its key in the DHT.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.public_key.node_id()
    }
}

impl TryFrom<rpc::RosterEntry> for RosterEntry {
    type Error = InvalidField;

    fn try_from(entry: rpc::RosterEntry) -> Result<Self, Self::Error> {
        Ok(Self {
            epoch: entry.epoch.into(),
            sequence: entry.sequence.into(),
            uid: entry.uid.parse().map_err(at("uid"))?,
            name: entry.name.parse().map_err(at("name"))?,
            public_key: PublicKey::try_from(entry.public_key.as_slice()).map_err(at("public_key"))?,
            labels: entry.labels.try_into().map_err(at("labels"))?,
            relay: entry.relay,
            revoked: entry.revoked,
        })
    }
}

impl From<RosterEntry> for rpc::RosterEntry {
    fn from(entry: RosterEntry) -> Self {
        Self {
            epoch: entry.epoch.into(),
            sequence: entry.sequence.into(),
            uid: entry.uid.to_string(),
            name: entry.name.into(),
            public_key: entry.public_key.into(),
            labels: entry.labels.into(),
            relay: entry.relay,
            revoked: entry.revoked,
        }
    }
}
