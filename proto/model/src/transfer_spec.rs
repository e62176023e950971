//! [`TransferSpec`].

use proto_rpc::v1 as rpc;

use chrono::SubsecRound as _;

use crate::{
    InvalidField, NodeRef, RootPath, TransferOptions, from_timestamp,
    invalid_field::{at, each},
    to_timestamp,
};

/// What an operator asks for: what is to be moved from where to where, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferSpec {
    /// Who sends.
    pub source_node: NodeRef,
    /// What is sent; 1 to [`TransferSpec::MAX_SOURCES`].
    pub source_paths: Vec<RootPath>,
    /// Who receives.
    pub destination_node: NodeRef,
    /// The folder that receives.
    pub destination_path: RootPath,
    /// How.
    pub options: TransferOptions,
}

impl TransferSpec {
    /// A command line with more paths than this is better served by their folder.
    pub const MAX_SOURCES: usize = 256;

    /// Checks how many sources there are.
    pub(crate) fn check_sources(count: usize) -> Result<(), InvalidField> {
        match count {
            0 => Err(InvalidField::missing("source_paths")),
            1..=Self::MAX_SOURCES => Ok(()),
            _ => Err(InvalidField::new("source_paths", format!("has more than {} paths", Self::MAX_SOURCES))),
        }
    }
}

impl TryFrom<rpc::TransferSpec> for TransferSpec {
    type Error = InvalidField;

    fn try_from(spec: rpc::TransferSpec) -> Result<Self, Self::Error> {
        Self::check_sources(spec.source_paths.len())?;
        let deadline = spec.deadline.map(from_timestamp).transpose().map_err(at("deadline"))?;
        Ok(Self {
            source_node: NodeRef::from_resource_name(&spec.source_node).map_err(at("source_node"))?,
            source_paths: each("source_paths", &spec.source_paths, |path| path.parse::<RootPath>())?,
            destination_node: NodeRef::from_resource_name(&spec.destination_node).map_err(at("destination_node"))?,
            destination_path: spec.destination_path.parse().map_err(at("destination_path"))?,
            options: TransferOptions {
                delete: spec.delete,
                exclude: TransferOptions::parse_exclude(&spec.exclude)?,
                checksum: spec.checksum,
                dry_run: spec.dry_run,
                max_bytes: TransferOptions::parse_max_bytes(spec.max_bytes),
                deadline: deadline.map(|deadline| deadline.trunc_subsecs(3)),
            },
        })
    }
}

impl From<TransferSpec> for rpc::TransferSpec {
    fn from(spec: TransferSpec) -> Self {
        Self {
            source_node: spec.source_node.resource_name(),
            source_paths: spec.source_paths.iter().map(ToString::to_string).collect(),
            destination_node: spec.destination_node.resource_name(),
            destination_path: spec.destination_path.to_string(),
            delete: spec.options.delete,
            checksum: spec.options.checksum,
            dry_run: spec.options.dry_run,
            max_bytes: spec.options.max_bytes_number(),
            deadline: spec.options.deadline.map(to_timestamp),
            exclude: TransferOptions::exclude_texts(spec.options.exclude),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> rpc::TransferSpec {
        rpc::TransferSpec {
            source_node: "nodes/a".into(),
            source_paths: vec!["data:/x\\xff".into()],
            destination_node: "nodes/b".into(),
            destination_path: "data:/in/".into(),
            exclude: vec!["*.tmp".into()],
            max_bytes: 9,
            deadline: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
            ..rpc::TransferSpec::default()
        }
    }

    #[test]
    fn a_spec_survives_the_wire_and_names_bytes() {
        let spec = TransferSpec::try_from(message()).expect("a spec");
        assert_eq!(spec.source_paths[0].path.as_bytes(), b"x\xff");
        assert_eq!(rpc::TransferSpec::from(spec), message());
    }

    #[test]
    fn the_bad_field_is_named() {
        let bad = rpc::TransferSpec { source_paths: vec!["data:/a".into(), "../b".into()], ..message() };
        assert_eq!(TransferSpec::try_from(bad).expect_err("refused").field, "source_paths[1]");
        let none = rpc::TransferSpec { source_paths: vec![], ..message() };
        assert_eq!(TransferSpec::try_from(none).expect_err("refused").field, "source_paths");
    }
}
