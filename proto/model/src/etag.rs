//! [`Etag`].

use std::{fmt, str::FromStr};

/// Says which state of a resource a caller saw (AIP-154). Opaque to callers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Etag(String);

/// The text is no etag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an etag has 1 to {max} visible ASCII characters: give back the one that was read", max = Etag::MAX_BYTES)]
pub struct ParseEtagError;

impl Etag {
    /// Longer than any that we make (a number, or a digest in hexadecimal).
    pub const MAX_BYTES: usize = 128;

    /// The etag of a resource whose state has a number.
    #[must_use]
    pub fn of_number(number: u64) -> Self {
        Self(format!("{number}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses a field that is empty where the caller does not care.
    ///
    /// # Errors
    /// As `FromStr`.
    pub fn from_optional_text(text: &str) -> Result<Option<Self>, ParseEtagError> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
    }
}

impl FromStr for Etag {
    type Err = ParseEtagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(ParseEtagError) }
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Etag> for String {
    fn from(etag: Etag) -> Self {
        etag.0
    }
}
