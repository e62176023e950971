//! What is left alone at both ends.
//!
//! A pattern without a slash matches a name at any depth, one with a slash the end of a path, one that begins with a slash the
//! whole path below the destination. `*` and `?` do not match a slash, `**` does; a trailing slash is ignored. What lies in a
//! folder that is left alone is left alone with it.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use proto_model::Glob;

/// How every temporary name begins.
pub(crate) const TEMPORARY: &[u8] = b".dwcp-";
/// How every temporary name ends.
pub(crate) const TEMPORARY_END: &[u8] = b".part";

/// Whether a name is one of files under way: none that a tree may have.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    name.starts_with(TEMPORARY) && name.ends_with(TEMPORARY_END)
}

/// Compiled patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Excludes(GlobSet);

/// A pattern that cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[error("the pattern {pattern:?} to exclude is not valid")]
pub(crate) struct BadPattern {
    pattern: String,
    source: globset::Error,
}

impl Excludes {
    pub(crate) fn new(globs: &[Glob]) -> Result<Self, BadPattern> {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let bad = |source| BadPattern { pattern: glob.as_str().to_owned(), source };
            let text = glob.as_str().trim_end_matches('/');
            let text = match text.strip_prefix('/') {
                Some(anchored) => anchored.to_owned(),
                None => format!("**/{text}"),
            };
            set.add(GlobBuilder::new(&text).literal_separator(true).backslash_escape(true).build().map_err(bad)?);
        }
        let all = || globs.iter().map(Glob::as_str).collect::<Vec<_>>().join(", ");
        set.build().map(Self).map_err(|source| BadPattern { pattern: all(), source })
    }

    /// Whether the entry at this path is left alone; its folders have been asked about before.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        is_temporary(name) || (!self.0.is_empty() && self.0.is_match(Path::new(OsStr::from_bytes(path))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_ends_of_paths_and_whole_paths() {
        let globs = ["*.tmp", "cache/x", "/top/", "raw\\*"].map(|text| text.parse().unwrap());
        let excludes = Excludes::new(&globs).unwrap();
        for path in ["a.tmp", "a/b.tmp", "cache/x", "a/cache/x", "top", "raw*", ".dwcp-0-1.part"] {
            assert!(excludes.covers(path.as_bytes()), "{path}");
        }
        for path in ["a.tmpx", "x", "a/top", "rawest", "cache/y", ".dwcp", ".dwcp-notes"] {
            assert!(!excludes.covers(path.as_bytes()), "{path}");
        }
        assert!(excludes.covers(b"\xff.tmp"));
        assert!(Excludes::new(&["a[".parse().unwrap()]).is_err());
    }
}
