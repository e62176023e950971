//! Which objects are alike.

use std::fmt;

use super::MAX_SMALL_BYTES;

/// The longest extension that makes a class.
const MAX_EXTENSION_BYTES: usize = 12;

/// Objects that are alike: those with the same extension.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(String);

impl Class {
    /// The class of an object by the last component of its path; None for what is not small, empty, or of no kind that has a name.
    #[must_use]
    pub fn of(name: &[u8], size: u64) -> Option<Self> {
        usize::try_from(size).ok().filter(|size| (1..=MAX_SMALL_BYTES).contains(size))?;
        let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0)?;
        Self::named(name.get(dot + 1..)?)
    }

    /// The class of this name.
    #[must_use]
    pub fn named(extension: &[u8]) -> Option<Self> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'-';
        let fits = (1..=MAX_EXTENSION_BYTES).contains(&extension.len()) && extension.iter().all(is_plain);
        let name = std::str::from_utf8(extension).ok().filter(|_| fits)?;
        Some(Self(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
