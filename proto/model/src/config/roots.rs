//! Section `roots`: folders that may be read and written. The host's own (D3, D21).

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use super::section::Reader;
use crate::{Labels, NodeName, RootName, Selector};

/// A folder that may be read, and written where it is not read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Where it is; absolute.
    pub path: PathBuf,
    /// Whether nothing is written there.
    pub read_only: bool,
    /// Who may send there without the control plane.
    pub accept: Vec<AcceptRule>,
}

/// Whom a root accepts without a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptRule {
    /// Every member of the fleet.
    Anyone,
    /// The node of this name.
    Node(NodeName),
    /// Nodes with these labels.
    Labels(Selector),
}

impl AcceptRule {
    /// Whether a member of this name and these labels is meant.
    #[must_use]
    pub fn accepts(&self, name: &NodeName, labels: &Labels) -> bool {
        match self {
            Self::Anyone => true,
            Self::Node(node) => node == name,
            Self::Labels(selector) => selector.matches(labels),
        }
    }
}

impl FromStr for AcceptRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "is none of a node's name, key=value of labels, and *";
        if text == "*" {
            Ok(Self::Anyone)
        } else if text.contains('=') {
            text.parse().map(Self::Labels).map_err(|_refused| FORM)
        } else {
            text.parse().map(Self::Node).map_err(|_refused| FORM)
        }
    }
}

impl fmt::Display for AcceptRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("*"),
            Self::Node(node) => node.fmt(f),
            Self::Labels(selector) => selector.fmt(f),
        }
    }
}

impl Root {
    /// Rules of one root.
    pub const MAX_RULES: usize = 256;

    pub(super) fn read_all(reader: &mut Reader<'_>) -> BTreeMap<RootName, Self> {
        let mut roots = BTreeMap::new();
        for name in reader.names("roots", |name| name.parse::<RootName>()) {
            let mut section = reader.section(&format!("roots.{name}"));
            let root = Self {
                path: section.required("path", parse_absolute),
                read_only: section.boolean("read_only"),
                accept: section.list("accept", Self::MAX_RULES, |text| text.parse::<AcceptRule>()),
            };
            if root.read_only && !root.accept.is_empty() {
                section.refuse("accept", "has no meaning where read_only is true", "remove one of them");
            }
            roots.insert(name, root);
        }
        roots
    }
}

pub(super) fn parse_absolute(text: &str) -> Result<PathBuf, &'static str> {
    if !text.starts_with('/') {
        return Err("is not an absolute path");
    }
    if text.contains('\0') || text.split('/').any(|part| part == "..") || text.len() > 4096 {
        return Err("is not a usable path");
    }
    Ok(PathBuf::from(text))
}
