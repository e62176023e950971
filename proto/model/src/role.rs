//! [`Role`].

use std::{fmt, str::FromStr};

use crate::{escape::shortened, newtype::serde_as_text};

/// What an operator's token allows; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Moves data and changes configurations.
    Operator,
    /// Decides who is in: tokens, nodes.
    Admin,
}

/// The text is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a role: viewer, operator or admin is expected")]
pub struct ParseRoleError(String);

impl Role {
    /// The text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether this role may do what needs that one.
    #[must_use]
    pub fn covers(self, needed: Self) -> bool {
        self >= needed
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            other => Err(ParseRoleError(shortened(other))),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

serde_as_text!(Role);

impl TryFrom<proto_rpc::v1::Role> for Role {
    type Error = ParseRoleError;

    fn try_from(role: proto_rpc::v1::Role) -> Result<Self, Self::Error> {
        match role {
            proto_rpc::v1::Role::Viewer => Ok(Self::Viewer),
            proto_rpc::v1::Role::Operator => Ok(Self::Operator),
            proto_rpc::v1::Role::Admin => Ok(Self::Admin),
            proto_rpc::v1::Role::Unspecified => Err(ParseRoleError(String::new())),
        }
    }
}

impl From<Role> for proto_rpc::v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Admin => Self::Admin,
        }
    }
}
