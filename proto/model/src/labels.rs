//! [`Labels`], what an operator or a token says of a node.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{escape::shortened, newtype::serde_as_text};

/// A label's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelKey(String);

/// A label's value; may be empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelValue(String);

/// A node's labels, in order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(BTreeMap<LabelKey, LabelValue>);

/// The text is no part of a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseLabelError {
    /// As a key.
    #[error(
        "\"{0}\" is not a label key: 1 to 63 of A-Z, a-z, 0-9, `-`, `_`, `.` and `/` are expected, a letter or digit first"
    )]
    Key(String),
    /// As a value.
    #[error("\"{0}\" is not a label value: at most 63 of A-Z, a-z, 0-9, `-`, `_`, `.`, `:` and `/` are expected")]
    Value(String),
}

/// The pairs are no labels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// One of them is malformed.
    #[error(transparent)]
    Label(#[from] ParseLabelError),
    /// There are too many.
    #[error("{0} labels are more than {max}", max = Labels::MAX)]
    TooMany(usize),
}

fn all_of(text: &str, extra: &[u8]) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
}

impl LabelKey {
    /// As long as a DNS label may be.
    pub const MAX_BYTES: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LabelValue {
    /// As long as a DNS label may be.
    pub const MAX_BYTES: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Labels {
    /// A roster entry with so many labels of full length is still below 10 KiB.
    pub const MAX: usize = 64;

    /// No labels.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &LabelKey) -> Option<&LabelValue> {
        self.0.get(key)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&LabelKey, &LabelValue)> {
        self.0.iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses pairs of texts.
    ///
    /// # Errors
    /// Where one is malformed or there are too many.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, LabelsError> {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            labels.insert(key.as_ref().parse()?, value.as_ref().parse()?);
        }
        if labels.len() > Self::MAX { Err(LabelsError::TooMany(labels.len())) } else { Ok(Self(labels)) }
    }
}

impl FromStr for LabelKey {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if first && text.len() <= Self::MAX_BYTES && all_of(text, b"-_./") {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseLabelError::Key(shortened(text)))
        }
    }
}

impl FromStr for LabelValue {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() <= Self::MAX_BYTES && all_of(text, b"-_.:/") {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseLabelError::Value(shortened(text)))
        }
    }
}

impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{key}={value}")?;
        }
        Ok(())
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelsError;

    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        Self::from_pairs(pairs)
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0.into_iter().map(|(key, value)| (key.0, value.0)).collect()
    }
}

impl FromIterator<(LabelKey, LabelValue)> for Labels {
    fn from_iter<I: IntoIterator<Item = (LabelKey, LabelValue)>>(pairs: I) -> Self {
        Self(pairs.into_iter().take(Self::MAX).collect())
    }
}

serde_as_text!(LabelKey);
serde_as_text!(LabelValue);
