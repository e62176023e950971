//! [`NodeRef`].

use std::{fmt, str::FromStr};

use crate::{NodeId, NodeName, NodeUid, escape::shortened};

/// How a caller names a node: by name, uid or node id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeRef {
    /// By its name.
    Name(NodeName),
    /// By its uid.
    Uid(NodeUid),
    /// By the id of its present key.
    Id(NodeId),
}

/// The text names no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" does not name a node: nodes/NAME is expected, with a name, a uid or a node id")]
pub struct ParseNodeRefError(String);

impl NodeRef {
    /// Parses `nodes/{node}`.
    ///
    /// # Errors
    /// Where the name is not of that form.
    pub fn from_resource_name(name: &str) -> Result<Self, ParseNodeRefError> {
        let node = name.strip_prefix("nodes/").ok_or_else(|| ParseNodeRefError(shortened(name)))?;
        node.parse().map_err(|_refused| ParseNodeRefError(shortened(name)))
    }

    /// `nodes/{node}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        format!("nodes/{self}")
    }
}

impl FromStr for NodeRef {
    type Err = ParseNodeRefError;

    /// Without `nodes/`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uid = || text.parse().map(Self::Uid);
        let id = || text.parse().map(Self::Id);
        let name = || text.parse().map(Self::Name);
        uid().or_else(|_| id()).or_else(|_| name()).map_err(|_neither| ParseNodeRefError(shortened(text)))
    }
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Uid(uid) => uid.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

impl From<NodeName> for NodeRef {
    fn from(name: NodeName) -> Self {
        Self::Name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_shown_escaped_once() {
        let refused = "nodes/x\u{1b}[31m".parse::<NodeRef>().unwrap_err().to_string();
        assert!(refused.starts_with(r#""nodes/x\x1b[31m" does not name"#), "{refused}");
        let refused = crate::RootPath::from_bytes(b"\x1b\xff").unwrap_err().to_string();
        assert!(refused.starts_with(r#""\x1b\xff" is not"#), "{refused}");
    }
}
