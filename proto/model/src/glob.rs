//! [`Glob`].

use std::{fmt, str::FromStr};

use crate::newtype::serde_as_text;

/// A pattern of paths that are left alone. Whether it compiles is found out by the crate that matches it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(String);

/// The text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern has 1 to {max} bytes and no NUL", max = Glob::MAX_BYTES)]
pub struct ParseGlobError;

impl Glob {
    /// As long as a path may be.
    pub const MAX_BYTES: usize = 4096;
    /// More patterns are better kept in a file at the source; matching costs time for each.
    pub const MAX_IN_A_TRANSFER: usize = 1024;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Glob {
    type Err = ParseGlobError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len()) && !text.contains('\0');
        if fits { Ok(Self(text.to_owned())) } else { Err(ParseGlobError) }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

serde_as_text!(Glob);
