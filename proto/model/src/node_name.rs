//! [`NodeName`].

use std::{fmt, str::FromStr};

use crate::{NodeId, NodeUid, escape::shortened, newtype::serde_as_text};

/// A node's name, unique in its fleet: lower-case letters, digits, hyphens and dots, and never mistaken for a uid or a node id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// The text is no name of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseNodeNameError {
    /// Characters or length.
    #[error(
        "\"{0}\" is not a node name: 1 to 63 of a-z, 0-9, `-` and `.` are expected, a letter or digit at both ends"
    )]
    Form(String),
    /// It would stand for something else.
    #[error("\"{0}\" is not a node name: it has the form of a uid or a node id")]
    Ambiguous(String),
}

impl NodeName {
    /// As long as a DNS label may be.
    pub const MAX_BYTES: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `nodes/{node}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        format!("nodes/{self}")
    }

    /// The name that comes nearest to a host's own name, if there is one.
    #[must_use]
    pub fn from_hostname(hostname: &str) -> Option<Self> {
        let lower: String = hostname
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
            .take(Self::MAX_BYTES)
            .collect();
        lower.trim_matches(['-', '.']).parse().ok()
    }
}

impl FromStr for NodeName {
    type Err = ParseNodeNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let dots_apart = !text.contains("..");
        if bytes.len() > Self::MAX_BYTES
            || !bytes.iter().all(inner)
            || !outer(bytes.first())
            || !outer(bytes.last())
            || !dots_apart
        {
            return Err(ParseNodeNameError::Form(shortened(text)));
        }
        if text.parse::<NodeUid>().is_ok() || text.parse::<NodeId>().is_ok() {
            return Err(ParseNodeNameError::Ambiguous(shortened(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

serde_as_text!(NodeName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_taken_for_an_id() {
        assert!("site-b.example".parse::<NodeName>().is_ok());
        for bad in ["", "-a", "a-", "A", "a..b", "a_b", "a/b", &"a".repeat(64)] {
            assert!(matches!(bad.parse::<NodeName>(), Err(ParseNodeNameError::Form(_))), "{bad}");
        }
        for bad in ["0123456789abcdef0123456789abcdef01234567", "0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f"] {
            assert!(matches!(bad.parse::<NodeName>(), Err(ParseNodeNameError::Ambiguous(_))), "{bad}");
        }
    }

    #[test]
    fn a_host_name_becomes_a_name() {
        assert_eq!(NodeName::from_hostname("Web_01.Example.").map(String::from), Some("web-01.example".to_owned()));
        assert_eq!(NodeName::from_hostname("---"), None);
    }
}
