//! [`Selector`], which nodes are meant.

use std::{fmt, str::FromStr};

use crate::{LabelKey, LabelValue, Labels, escape::shortened};

/// Labels that a node must have, all of them: `key=value,key=value`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Vec<(LabelKey, LabelValue)>);

/// The text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a selector: key=value is expected, several separated by commas")]
pub struct ParseSelectorError(String);

impl Selector {
    /// Nobody selects by more labels than a node can have.
    pub const MAX_TERMS: usize = Labels::MAX;

    /// Whether a node with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, value)| labels.value(key) == Some(value))
    }

    /// The labels asked for.
    pub fn terms(&self) -> impl Iterator<Item = &(LabelKey, LabelValue)> {
        self.0.iter()
    }
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseSelectorError(shortened(text));
        let term = |term: &str| {
            let (key, value) = term.split_once('=')?;
            Some((key.trim().parse().ok()?, value.trim().parse().ok()?))
        };
        let terms =
            text.split(',').take(Self::MAX_TERMS + 1).map(term).collect::<Option<Vec<_>>>().ok_or_else(refused)?;
        if terms.len() > Self::MAX_TERMS { Err(refused()) } else { Ok(Self(terms)) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{key}={value}")?;
        }
        Ok(())
    }
}
