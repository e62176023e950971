//! [`ConfigName`].

use std::{fmt, str::FromStr};

use crate::{NodeName, escape::shortened, newtype::serde_as_text};

/// The name of a configuration that the control plane keeps (D9).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigName {
    /// `configs/fleet`: of every node.
    Fleet,
    /// `configs/node.NAME`: of one node.
    Node(NodeName),
}

/// The text names no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" does not name a configuration: configs/fleet or configs/node.NAME is expected")]
pub struct ParseConfigNameError(String);

impl ConfigName {
    /// Parses the name's last part: `fleet` or `node.NAME`.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn from_id(id: &str) -> Result<Self, ParseConfigNameError> {
        let refused = || ParseConfigNameError(shortened(id));
        match id.strip_prefix("node.") {
            Some(node) => node.parse().map(Self::Node).map_err(|_no_name| refused()),
            None if id == "fleet" => Ok(Self::Fleet),
            None => Err(refused()),
        }
    }

    /// The name's last part.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Fleet => "fleet".to_owned(),
            Self::Node(node) => format!("node.{node}"),
        }
    }
}

impl FromStr for ConfigName {
    type Err = ParseConfigNameError;

    /// Parses `configs/{config}`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.strip_prefix("configs/").ok_or_else(|| ParseConfigNameError(shortened(text)))?;
        Self::from_id(id)
    }
}

impl fmt::Display for ConfigName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configs/{}", self.id())
    }
}

serde_as_text!(ConfigName);
