//! [`PlannedChange`].

use std::fmt;

use proto_rpc::v1 as rpc;

use crate::{ByteCount, InvalidField, escape, unescape};

/// What a dry run would do to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedChange {
    /// Its path, as it is.
    pub path: Vec<u8>,
    /// What would be done.
    pub action: PlannedAction,
    /// The file's size.
    pub bytes: ByteCount,
}

/// What would be done to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlannedAction {
    /// It would be made.
    Create,
    /// Its contents would be replaced.
    Replace,
    /// It would be deleted.
    Delete,
    /// Only its mode or time would change.
    Metadata,
}

impl PlannedChange {
    /// How many of them a report carries.
    pub const MAX_REPORTED: usize = 1000;
}

impl PlannedAction {
    /// The name that the API uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Metadata => "metadata",
        }
    }
}

impl fmt::Display for PlannedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl TryFrom<rpc::PlannedChange> for PlannedChange {
    type Error = InvalidField;

    fn try_from(change: rpc::PlannedChange) -> Result<Self, Self::Error> {
        let action = match change.action.as_str() {
            "create" => PlannedAction::Create,
            "replace" => PlannedAction::Replace,
            "delete" => PlannedAction::Delete,
            "metadata" => PlannedAction::Metadata,
            _ => return Err(InvalidField::new("action", "is none of create, replace, delete, metadata")),
        };
        Ok(Self { path: unescape(&change.path), action, bytes: change.bytes.into() })
    }
}

impl From<PlannedChange> for rpc::PlannedChange {
    fn from(change: PlannedChange) -> Self {
        Self { path: escape(&change.path), action: change.action.as_str().to_owned(), bytes: change.bytes.into() }
    }
}
