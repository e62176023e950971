//! [`SyncName`].

use std::{fmt, str::FromStr};

use crate::{escape::shortened, newtype::serde_as_text};

/// A sync's name, unique among those that there are: lower-case letters, digits, hyphens and dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncName(String);

/// The text is no name of a sync.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a sync's name: 1 to 63 of a-z, 0-9, `-` and `.` are expected, a letter or digit at both ends")]
pub struct ParseSyncNameError(String);

impl SyncName {
    /// As long as a DNS label may be.
    pub const MAX_BYTES: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `syncs/{sync}`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        format!("syncs/{self}")
    }

    /// Parses `syncs/{sync}`.
    ///
    /// # Errors
    /// Where the name is not of that form.
    pub fn from_resource_name(name: &str) -> Result<Self, ParseSyncNameError> {
        let refused = || ParseSyncNameError(shortened(name));
        name.strip_prefix("syncs/").ok_or_else(refused)?.parse().map_err(|_form: ParseSyncNameError| refused())
    }
}

impl FromStr for SyncName {
    type Err = ParseSyncNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: &u8| outer(Some(b)) || matches!(b, b'-' | b'.');
        let fits = bytes.len() <= Self::MAX_BYTES
            && bytes.iter().all(inner)
            && outer(bytes.first())
            && outer(bytes.last())
            && !text.contains("..");
        if fits { Ok(Self(text.to_owned())) } else { Err(ParseSyncNameError(shortened(text))) }
    }
}

impl fmt::Display for SyncName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<SyncName> for String {
    fn from(name: SyncName) -> Self {
        name.0
    }
}

serde_as_text!(SyncName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_is_one() {
        assert_eq!(SyncName::from_resource_name("syncs/photos-1").map(String::from), Ok("photos-1".to_owned()));
        for bad in ["photos", "syncs/", "syncs/A", "syncs/-a", "syncs/a/b", "transfers/a", "syncs/a..b"] {
            assert!(SyncName::from_resource_name(bad).is_err(), "{bad}");
        }
    }
}
