//! Paths below the roots of an agent: `ROOT:/path` (D20, D21).
//!
//! Paths are bytes; as text they are escaped, and text is unescaped when it is parsed, so that both forms name the same path.

use std::{fmt, str::FromStr};

use crate::{
    escape::{escape, shortened, shortened_bytes, unescape},
    newtype::serde_as_text,
};

/// The name that a host's owner gave to a folder. Without dots, so that it can stand in a path of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootName(String);

/// A path below a folder: parts without `/` and NUL, none of them empty, `.` or `..`. Without parts it is that folder.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

/// A path below a root.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RootPath {
    /// Which root.
    pub root: RootName,
    /// Where below it.
    pub path: RelPath,
    /// Whether it was written with a trailing slash, which means the contents; a root itself has one.
    pub trailing_slash: bool,
}

/// The text is no name of a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a root's name: 1 to 63 of A-Z, a-z, 0-9, `-` and `_` are expected, a letter or digit first")]
pub struct ParseRootNameError(String);

/// The bytes are no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRelPathError {
    /// A part that could lead elsewhere.
    #[error("\"{0}\" has an empty part, `.` or `..`")]
    Part(String),
    /// What no file system takes.
    #[error("\"{0}\" has a NUL byte")]
    Nul(String),
    /// Longer than systems take.
    #[error("a path has at most {path} bytes, a part of it {part}", path = RelPath::MAX_BYTES, part = RelPath::MAX_PART_BYTES)]
    TooLong,
}

/// The bytes are no path below a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseRootPathError {
    /// No `:/`.
    #[error("\"{0}\" is not of the form ROOT:/path")]
    Form(String),
    /// Before it.
    #[error(transparent)]
    Root(#[from] ParseRootNameError),
    /// After it.
    #[error(transparent)]
    Path(#[from] ParseRelPathError),
}

impl RootName {
    /// Enough for any name, and short enough for a table.
    pub const MAX_BYTES: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RootName {
    type Err = ParseRootNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if first && rest && text.len() <= Self::MAX_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseRootNameError(shortened(text)))
        }
    }
}

impl fmt::Display for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(RootName);

impl RelPath {
    /// Linux's `PATH_MAX`.
    pub const MAX_BYTES: usize = 4096;
    /// Linux's `NAME_MAX`.
    pub const MAX_PART_BYTES: usize = 255;

    /// The folder itself.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// Parses parts separated by single slashes, without one at either end.
    ///
    /// # Errors
    /// Where a part is empty, `.` or `..`, or something is too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseRelPathError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ParseRelPathError::TooLong);
        }
        if bytes.contains(&0) {
            return Err(ParseRelPathError::Nul(shortened_bytes(bytes)));
        }
        for part in bytes.split(|&b| b == b'/').filter(|_| !bytes.is_empty()) {
            if matches!(part, b"" | b"." | b"..") {
                return Err(ParseRelPathError::Part(shortened_bytes(bytes)));
            }
            if part.len() > Self::MAX_PART_BYTES {
                return Err(ParseRelPathError::TooLong);
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes: parts separated by slashes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the folder itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts, in order.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|part| !part.is_empty())
    }

    /// The last part; none of the folder itself.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        self.parts().next_back()
    }

    /// All but the last part; none of the folder itself.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let name = self.file_name()?;
        let end = self.0.len() - name.len();
        Some(Self(self.0[..end.saturating_sub(1)].to_vec()))
    }

    /// This path, and that one below it.
    ///
    /// # Errors
    /// Where the whole is too long.
    pub fn join(&self, below: &Self) -> Result<Self, ParseRelPathError> {
        let parts: Vec<&[u8]> = self.parts().chain(below.parts()).collect();
        Self::from_bytes(&parts.join(&b'/'))
    }

    /// Whether it is that path, or below it.
    #[must_use]
    pub fn is_within(&self, folder: &Self) -> bool {
        folder.is_empty() || self.0.strip_prefix(folder.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({self})")
    }
}

impl RootPath {
    /// The root itself.
    #[must_use]
    pub const fn of_root(root: RootName) -> Self {
        Self { root, path: RelPath::empty(), trailing_slash: true }
    }

    /// Parses `ROOT:/path`, as it is, without escapes.
    ///
    /// # Errors
    /// Where it is not of that form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseRootPathError> {
        let form = || ParseRootPathError::Form(shortened_bytes(bytes));
        let colon = bytes.iter().position(|&b| b == b':').ok_or_else(form)?;
        let (root, rest) = bytes.split_at(colon);
        let path = rest.strip_prefix(b":/").ok_or_else(form)?;
        let root = std::str::from_utf8(root).map_err(|_not_text| form())?.parse()?;
        let (inner, trailing_slash) = match path.strip_suffix(b"/") {
            Some(inner) => (inner, true),
            None => (path, path.is_empty()),
        };
        if inner.is_empty() && !path.is_empty() {
            return Err(ParseRelPathError::Part(shortened_bytes(bytes)).into());
        }
        Ok(Self { root, path: RelPath::from_bytes(inner)?, trailing_slash })
    }

    /// The bytes that [`Self::from_bytes`] takes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let slash: &[u8] = if self.trailing_slash && !self.path.is_empty() { b"/" } else { b"" };
        [self.root.as_str().as_bytes(), b":/", self.path.as_bytes(), slash].concat()
    }
}

impl FromStr for RootPath {
    type Err = ParseRootPathError;

    /// Parses the escaped form.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(&unescape(text))
    }
}

impl fmt::Display for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.to_bytes()))
    }
}

impl fmt::Debug for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootPath({self})")
    }
}

serde_as_text!(RootPath);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_never_leads_out_of_its_root() {
        for bad in [
            "data",
            "data:x",
            "data:/../x",
            "data:/a/../b",
            "data:/a//b",
            "data:/.",
            "data://",
            ":/x",
            "a b:/x",
            "data:/\0",
        ] {
            assert!(RootPath::from_bytes(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = format!("data:/{}", "a".repeat(256));
        assert_eq!(RootPath::from_bytes(long.as_bytes()), Err(ParseRelPathError::TooLong.into()));
    }

    #[test]
    fn a_trailing_slash_is_kept_and_a_root_has_one() {
        let root: RootPath = "data:/".parse().expect("a path");
        assert!(root.trailing_slash && root.path.is_empty());
        assert_eq!(root.to_string(), "data:/");
        assert_eq!("data:/in/".parse::<RootPath>().expect("a path").to_string(), "data:/in/");
        assert!(!"data:/in".parse::<RootPath>().expect("a path").trailing_slash);
    }

    #[test]
    fn parts_parents_and_containment() {
        let path = RelPath::from_bytes(b"a/b/c").expect("a path");
        assert_eq!(path.file_name(), Some(b"c".as_slice()));
        let parent = path.parent().expect("a parent");
        assert_eq!(parent.to_string(), "a/b");
        assert_eq!(RelPath::from_bytes(b"a").expect("a path").parent(), Some(RelPath::empty()));
        assert!(path.is_within(&parent) && path.is_within(&RelPath::empty()) && !parent.is_within(&path));
        assert!(!RelPath::from_bytes(b"a/bc").expect("a path").is_within(&parent));
        assert_eq!(parent.join(&RelPath::from_bytes(b"c").expect("a path")), Ok(path));
    }

    proptest! {
        #[test]
        fn bytes_and_text_name_the_same_path(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = [b"data:/".as_slice(), &bytes].concat();
            if let Ok(path) = RootPath::from_bytes(&bytes) {
                prop_assert_eq!(path.to_bytes(), bytes);
                prop_assert_eq!(path.to_string().parse(), Ok(path));
            }
        }
    }
}
