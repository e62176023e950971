//! [`AppliedConfig`].

use proto_rpc::v1 as rpc;
use rpc::applied_config::Status;

use crate::{Digest, InvalidField, invalid_field::at, transfer_error::bounded_text};

/// What an agent says of the configuration that was sent to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedConfig {
    /// The answer to the newest generation.
    pub status: ApplyStatus,
    /// The generation that the answer is for, in the present epoch.
    pub generation: u64,
    /// SHA-256 of the effective configuration in force.
    pub digest: Option<Digest>,
    /// Why it was rejected: one sentence each, with the field's path.
    pub errors: Vec<String>,
}

/// The answer to a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ApplyStatus {
    /// No answer yet.
    #[default]
    Unknown,
    /// In force.
    Applied,
    /// Refused; the last good configuration stays in force.
    Rejected,
    /// Sent, not answered yet.
    Pending,
}

impl AppliedConfig {
    /// How many reasons are kept.
    pub const MAX_ERRORS: usize = 100;
}

impl From<Status> for ApplyStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Unspecified => Self::Unknown,
            Status::Applied => Self::Applied,
            Status::Rejected => Self::Rejected,
            Status::Pending => Self::Pending,
        }
    }
}

impl From<ApplyStatus> for Status {
    fn from(status: ApplyStatus) -> Self {
        match status {
            ApplyStatus::Unknown => Self::Unspecified,
            ApplyStatus::Applied => Self::Applied,
            ApplyStatus::Rejected => Self::Rejected,
            ApplyStatus::Pending => Self::Pending,
        }
    }
}

impl TryFrom<rpc::AppliedConfig> for AppliedConfig {
    type Error = InvalidField;

    fn try_from(applied: rpc::AppliedConfig) -> Result<Self, Self::Error> {
        let status = Status::try_from(applied.status).map_err(at("status"))?;
        Ok(Self {
            status: status.into(),
            generation: applied.generation,
            digest: Digest::from_optional_text(&applied.digest).map_err(at("digest"))?,
            errors: applied.errors.iter().take(Self::MAX_ERRORS).map(|error| bounded_text(error)).collect(),
        })
    }
}

impl From<AppliedConfig> for rpc::AppliedConfig {
    fn from(applied: AppliedConfig) -> Self {
        Self {
            status: Status::from(applied.status).into(),
            generation: applied.generation,
            digest: applied.digest.map(String::from).unwrap_or_default(),
            errors: applied.errors,
        }
    }
}
