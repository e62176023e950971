//! What a grant lets be read, opened, and under which paths its parts appear in the tree.
//!
//! A file appears under its own name. A folder appears as a folder of its own name; with a trailing slash its contents appear
//! instead, which is so for a root itself. A slash at the destination says nothing: `ROOT:/` cannot be written without one, and
//! whoever lets delete there has not asked for what lies beside the folder. Where two sources have the same name, the first one
//! has it.

use std::{fs::File, io};

use proto_model::{RelPath, RootName, RootPath};
use proto_wire::TreePath;
use rustix::{fs::FileType, io::Errno};

use crate::{
    confine::{Folder, kind},
    reason::end,
    roots::Roots,
    stop::Stop,
};

/// All that is sent.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) tops: Vec<Top>,
    /// As they were named.
    paths: Vec<RootPath>,
}

/// One source.
#[derive(Debug)]
pub(crate) enum Top {
    /// A file, in this folder.
    File { folder: Folder, name: Vec<u8> },
    /// A folder, as a folder of this name.
    Folder { folder: Folder, name: Vec<u8> },
    /// A folder's contents.
    Contents { folder: Folder },
}

impl Sources {
    /// Opens every source: all must exist, be files or folders, and be reachable without symbolic links.
    pub(crate) fn open(roots: &Roots, paths: &[RootPath]) -> Result<Self, Stop> {
        let tops = paths.iter().map(|path| open_top(roots, path));
        Ok(Self { tops: tops.collect::<Result<_, _>>()?, paths: paths.to_vec() })
    }

    /// Whether a folder's contents appear at the top of the tree.
    pub(crate) fn has_contents(&self) -> bool {
        self.tops.iter().any(|top| matches!(top, Top::Contents { .. }))
    }

    /// Where a file of the tree lies below its root; none where several sources have what is at its top.
    pub(crate) fn place(&self, path: &TreePath) -> Option<(&RootName, Vec<u8>)> {
        let ([top], [named]) = (self.tops.as_slice(), self.paths.as_slice()) else { return None };
        let below = |folder: &[u8]| match folder {
            [] => path.as_bytes().to_vec(),
            folder => [folder, b"/", path.as_bytes()].concat(),
        };
        let place = match top {
            Top::Contents { .. } => below(named.path.as_bytes()),
            Top::File { .. } | Top::Folder { .. } => {
                below(named.path.parent().as_ref().map(RelPath::as_bytes).unwrap_or_default())
            }
        };
        Some((&named.root, place))
    }

    /// The root of all of it, where there is one source.
    pub(crate) fn root(&self) -> Option<&RootName> {
        if let [named] = self.paths.as_slice() { Some(&named.root) } else { None }
    }

    /// Opens a file of the tree for reading.
    pub(crate) fn read(&self, path: &TreePath) -> io::Result<File> {
        let bytes = path.as_bytes();
        let (first, rest) = match bytes.iter().position(|byte| *byte == b'/') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, [].as_slice()),
        };
        for top in &self.tops {
            match top {
                Top::File { folder, name } if name == first && rest.is_empty() => return folder.read(name),
                Top::Folder { folder, name } if name == first && !rest.is_empty() => return folder.read(rest),
                Top::Contents { folder } if folder.stat(first)?.is_some() => return folder.read(bytes),
                Top::File { .. } | Top::Folder { .. } | Top::Contents { .. } => {}
            }
        }
        Err(io::Error::from(io::ErrorKind::NotFound))
    }
}

fn open_top(roots: &Roots, path: &RootPath) -> Result<Top, Stop> {
    let root = roots.open(&path.root)?;
    let unavailable = |error: io::Error| {
        let message =
            format!("{path} cannot be opened: {error}; a source is a file or folder, reached without symbolic links");
        Stop::final_(end::SOURCE_UNAVAILABLE, message)
    };
    let (Some(name), Some(parent)) = (path.path.file_name(), path.path.parent()) else {
        return Ok(Top::Contents { folder: root });
    };
    let parent = root.granted(parent.as_bytes()).map_err(unavailable)?;
    let stat = parent.stat(name).map_err(unavailable)?;
    match stat.as_ref().map(kind) {
        Some(FileType::RegularFile) => Ok(Top::File { folder: parent, name: name.to_vec() }),
        Some(FileType::Directory) => {
            let folder = root.granted(path.path.as_bytes()).map_err(unavailable)?;
            if path.trailing_slash {
                return Ok(Top::Contents { folder });
            }
            Ok(Top::Folder { folder, name: name.to_vec() })
        }
        None => Err(unavailable(Errno::NOENT.into())),
        Some(_) => Err(unavailable(io::Error::other("it is neither a file nor a folder"))),
    }
}
