//! [`SyncSpec`].

use std::time::Duration;

use proto_rpc::v1 as rpc;

use crate::{Glob, InvalidField, NodeRef, RootPath, TransferOptions, invalid_field::at};

/// What an operator asks to be kept in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSpec {
    /// Who sends.
    pub source_node: NodeRef,
    /// The folder or file.
    pub source_path: RootPath,
    /// Who receives.
    pub destination_node: NodeRef,
    /// The folder that receives.
    pub destination_path: RootPath,
    /// The least time from the beginning of one run to that of the next; whole milliseconds.
    pub every: Duration,
    /// Left alone at both ends.
    pub exclude: Vec<Glob>,
    /// Compares contents where size and time agree.
    pub checksum: bool,
}

impl SyncSpec {
    /// A run opens a session and walks a tree: more often than this is no sync but a stream.
    pub const MIN_EVERY: Duration = Duration::from_secs(1);
    /// As long as a standing grant lasts.
    pub const MAX_EVERY: Duration = Duration::from_secs(30 * 86_400);

    /// How each run is done: what the source does not have is deleted.
    #[must_use]
    pub fn options(&self) -> TransferOptions {
        TransferOptions {
            delete: true,
            exclude: self.exclude.clone(),
            checksum: self.checksum,
            ..TransferOptions::default()
        }
    }

    /// Checks how often it runs.
    ///
    /// # Errors
    /// It is too often or too seldom.
    pub fn check_every(every: Duration) -> Result<Duration, InvalidField> {
        let every = Duration::from_millis(u64::try_from(every.as_millis()).unwrap_or(u64::MAX));
        if (Self::MIN_EVERY..=Self::MAX_EVERY).contains(&every) {
            return Ok(every);
        }
        let days = Self::MAX_EVERY.as_secs() / 86_400;
        let text = format!("must be from {} s to {days} days", Self::MIN_EVERY.as_secs());
        Err(InvalidField::new("every", text))
    }
}

impl TryFrom<rpc::SyncSpec> for SyncSpec {
    type Error = InvalidField;

    fn try_from(spec: rpc::SyncSpec) -> Result<Self, Self::Error> {
        let every = spec.every.ok_or_else(|| InvalidField::missing("every"))?;
        Ok(Self {
            source_node: NodeRef::from_resource_name(&spec.source_node).map_err(at("source_node"))?,
            source_path: spec.source_path.parse().map_err(at("source_path"))?,
            destination_node: NodeRef::from_resource_name(&spec.destination_node).map_err(at("destination_node"))?,
            destination_path: spec.destination_path.parse().map_err(at("destination_path"))?,
            every: Self::check_every(Duration::try_from(every).map_err(at("every"))?)?,
            exclude: TransferOptions::parse_exclude(&spec.exclude)?,
            checksum: spec.checksum,
        })
    }
}

impl From<SyncSpec> for rpc::SyncSpec {
    fn from(spec: SyncSpec) -> Self {
        Self {
            source_node: spec.source_node.resource_name(),
            source_path: spec.source_path.to_string(),
            destination_node: spec.destination_node.resource_name(),
            destination_path: spec.destination_path.to_string(),
            every: prost_types::Duration::try_from(spec.every).ok(),
            exclude: TransferOptions::exclude_texts(spec.exclude),
            checksum: spec.checksum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_the_wire_and_its_interval_is_bounded() {
        let message = rpc::SyncSpec {
            source_node: "nodes/a".into(),
            source_path: "data:/x".into(),
            destination_node: "nodes/b".into(),
            destination_path: "data:/in/".into(),
            every: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
            exclude: vec!["*.tmp".into()],
            checksum: false,
        };
        let spec = SyncSpec::try_from(message.clone()).unwrap();
        assert!(spec.options().delete);
        assert_eq!(rpc::SyncSpec::from(spec), message);
        for (seconds, nanos) in [(0, 999_000_000), (30 * 86_400, 1_000_000), (-1, 0)] {
            let every = Some(prost_types::Duration { seconds, nanos });
            assert_eq!(SyncSpec::try_from(rpc::SyncSpec { every, ..message.clone() }).unwrap_err().field, "every");
        }
        assert_eq!(SyncSpec::try_from(rpc::SyncSpec { every: None, ..message }).unwrap_err().field, "every");
    }
}
