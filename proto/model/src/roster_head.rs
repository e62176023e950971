//! [`RosterHead`].

use chrono::{DateTime, Utc};
use proto_rpc::agent as rpc;

use crate::{Epoch, InvalidField, RosterSequence, from_unix_ms, invalid_field::at};

/// How far the roster went at a time, signed: shows that nothing was left out, and how old what an agent holds is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RosterHead {
    /// Counts restores.
    pub epoch: Epoch,
    /// The newest entry's.
    pub sequence: RosterSequence,
    /// How many members are not revoked.
    pub members: u64,
    /// When it was signed, to the millisecond.
    pub time: DateTime<Utc>,
}

impl TryFrom<rpc::RosterHead> for RosterHead {
    type Error = InvalidField;

    fn try_from(head: rpc::RosterHead) -> Result<Self, Self::Error> {
        Ok(Self {
            epoch: head.epoch.into(),
            sequence: head.sequence.into(),
            members: head.members,
            time: from_unix_ms(head.time_ms).map_err(at("time_ms"))?,
        })
    }
}

impl From<RosterHead> for rpc::RosterHead {
    fn from(head: RosterHead) -> Self {
        Self {
            epoch: head.epoch.into(),
            sequence: head.sequence.into(),
            members: head.members,
            time_ms: head.time.timestamp_millis(),
        }
    }
}
