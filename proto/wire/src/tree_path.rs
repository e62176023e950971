//! Paths of entries of a tree: bytes, relative, with nothing in them that could lead elsewhere (D20, D21).

use std::{cmp::Ordering, fmt};

/// `PATH_MAX` of Linux: a longer one could not be opened in one call.
pub const MAX_PATH_BYTES: usize = 4096;
/// `NAME_MAX` of Linux.
pub const MAX_NAME_BYTES: usize = 255;
/// Parts of a path: deeper trees are refused, so that no walk needs more open folders than a process may have.
pub const MAX_DEPTH: usize = 200;

/// A path below the folder that receives: parts separated by `/`, none of them empty, `.` or `..`, no NUL.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TreePath(Box<[u8]>);

/// Why bytes are no path of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// An empty path, or an empty part: a `/` at the beginning, at the end, or twice.
    #[error("the path has an empty part")]
    EmptyPart,
    /// `.` or `..`.
    #[error("the path has a part `.` or `..`")]
    Dots,
    /// A zero byte.
    #[error("the path has a zero byte")]
    Nul,
    /// Longer than Linux can open.
    #[error("the path or one of its parts is too long")]
    TooLong,
    /// More parts than [`MAX_DEPTH`].
    #[error("the path has too many parts")]
    TooDeep,
}

impl TreePath {
    /// Checks and takes a path.
    ///
    /// # Errors
    /// [`BadPath`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadPath> {
        if bytes.len() >= MAX_PATH_BYTES {
            return Err(BadPath::TooLong);
        }
        let mut depth = 0;
        for part in bytes.split(|byte| *byte == b'/') {
            check_part(part)?;
            depth += 1;
        }
        if depth > MAX_DEPTH { Err(BadPath::TooDeep) } else { Ok(Self(bytes.into())) }
    }

    /// This path with one more part.
    ///
    /// # Errors
    /// [`BadPath`].
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        Self::parse(&[&self.0, b"/".as_slice(), name].concat())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.split().1
    }

    /// The path of the folder that holds it; none for a path of one part.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.split().0.map(|parent| Self(parent.into()))
    }

    /// Parent and name.
    #[must_use]
    pub fn split(&self) -> (Option<&[u8]>, &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (Some(&self.0[..at]), &self.0[at + 1..]),
            None => (None, &self.0),
        }
    }

    /// How many parts it has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.split(|byte| *byte == b'/').count()
    }
}

fn check_part(part: &[u8]) -> Result<(), BadPath> {
    match part {
        b"" => Err(BadPath::EmptyPart),
        b"." | b".." => Err(BadPath::Dots),
        part if part.len() > MAX_NAME_BYTES => Err(BadPath::TooLong),
        part if part.contains(&0) => Err(BadPath::Nul),
        _ => Ok(()),
    }
}

/// Compares two names or paths, each with whether it is a folder, by bytes, folders as `name/`. Siblings in this order, each
/// folder followed by what is in it, give all paths of a tree in this order.
#[must_use]
pub fn order(left: (&[u8], bool), right: (&[u8], bool)) -> Ordering {
    let key = |(bytes, folder): (&[u8], bool)| -> (usize, Option<u8>) { (bytes.len(), folder.then_some(b'/')) };
    let ((left_len, left_end), (right_len, right_end)) = (key(left), key(right));
    let common = left_len.min(right_len);
    left.0[..common].cmp(&right.0[..common]).then_with(|| {
        let left_rest = left.0[common..].iter().copied().chain(left_end);
        let right_rest = right.0[common..].iter().copied().chain(right_end);
        left_rest.cmp(right_rest)
    })
}

impl fmt::Debug for TreePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_whatever_could_lead_out() {
        for (bytes, why) in [
            (b"".as_slice(), BadPath::EmptyPart),
            (b"/etc/passwd", BadPath::EmptyPart),
            (b"a/", BadPath::EmptyPart),
            (b"a//b", BadPath::EmptyPart),
            (b"..", BadPath::Dots),
            (b"a/../../b", BadPath::Dots),
            (b"./a", BadPath::Dots),
            (b"a\0b", BadPath::Nul),
            (&[b'a'; 256], BadPath::TooLong),
        ] {
            assert_eq!(TreePath::parse(bytes), Err(why), "{}", bytes.escape_ascii());
        }
        assert_eq!(TreePath::parse("a/".repeat(300).trim_end_matches('/').as_bytes()), Err(BadPath::TooDeep));
        let path = TreePath::parse(b"a/..b/\xff\n").unwrap();
        assert_eq!(path.name(), b"\xff\n");
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/..b");
        assert_eq!(path.depth(), 3);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_bytes_with_folders_closed(
            left in "[a.\\-/0]{1,4}", left_folder: bool, right in "[a.\\-/0]{1,4}", right_folder: bool
        ) {
            let closed = |text: &str, folder| if folder { format!("{text}/") } else { text.to_owned() };
            prop_assert_eq!(
                order((left.as_bytes(), left_folder), (right.as_bytes(), right_folder)),
                closed(&left, left_folder).into_bytes().cmp(&closed(&right, right_folder).into_bytes())
            );
        }
    }
}
