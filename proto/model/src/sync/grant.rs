//! [`SyncGrant`]: who may keep what in step, run after run, until when (D16).

use proto_rpc::agent as rpc;

use super::{SyncId, SyncName};
use crate::{Grant, InvalidField, invalid_field::at};

/// A standing right. Both ends check it by themselves, for each run; the receiver keeps which runs it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGrant {
    /// As for one transfer; `transfer` is the sync's id.
    pub grant: Grant,
    /// For logs, metrics and spans.
    pub name: SyncName,
    /// Grows with every grant of this sync.
    pub serial: u64,
    /// The newest order to replace what others changed at the destination; each is good for one run. 0 where there was none.
    pub overwrite: u64,
}

impl SyncGrant {
    /// Which sync.
    #[must_use]
    pub fn sync(&self) -> SyncId {
        SyncId::new(self.grant.transfer.uuid())
    }
}

impl TryFrom<rpc::SyncGrant> for SyncGrant {
    type Error = InvalidField;

    fn try_from(message: rpc::SyncGrant) -> Result<Self, Self::Error> {
        let grant = message.grant.ok_or_else(|| InvalidField::missing("grant"))?;
        let grant = Grant::try_from(grant).map_err(|field| field.within("grant"))?;
        if grant.source_paths.len() != 1 {
            return Err(InvalidField::new("grant.source_paths", "a sync has one source"));
        }
        if !grant.options.delete || grant.options.dry_run || grant.options.deadline.is_some() {
            return Err(InvalidField::new(
                "grant.delete",
                "a sync's runs delete, move something, and have no deadline",
            ));
        }
        if message.serial == 0 {
            return Err(InvalidField::missing("serial"));
        }
        Ok(Self {
            grant,
            name: message.name.parse().map_err(at("name"))?,
            serial: message.serial,
            overwrite: message.overwrite,
        })
    }
}

impl From<SyncGrant> for rpc::SyncGrant {
    fn from(grant: SyncGrant) -> Self {
        let SyncGrant { grant, name, serial, overwrite } = grant;
        Self { grant: Some(grant.into()), name: name.into(), serial, overwrite }
    }
}
