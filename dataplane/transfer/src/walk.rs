//! Walks the sources in bytewise order of paths (D18), following no link and crossing no mount.
//!
//! Of a folder only the names are kept, too many of them on disk; each is looked at when its turn comes. What cannot be sent is
//! an issue and is left out.

use std::{cmp::Ordering, io, ops::ControlFlow, path::PathBuf, rc::Rc};

use proto_wire::{
    TreePath,
    manifest::{Entry, Kind, Versions},
    tree_path::order,
};
use rustix::{fs::FileType, io::Errno};

use crate::{
    confine::{Folder, Listed, holes, kind, mode, mtime, size},
    exclude::Excludes,
    packed::{ListError, Shelf, Sorted},
    reason::issue,
    source::{Sources, Top},
    versions::FileStat,
};

/// What a walk meets.
#[derive(Debug)]
pub(crate) enum Found {
    /// An entry of the tree; of a file what its file system says of it.
    Entry(Entry, Option<FileStat>),
    /// Something that is left out.
    Issue(Issue),
    /// This host's own disk fails: the walk is over.
    Failed(io::Error),
}

/// Something that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) path: Vec<u8>,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Whether what is in it is not known, so that nothing may be deleted for not being found.
    pub(crate) hides_entries: bool,
}

/// A folder that is being walked: its names, in order, and where they lie.
struct Frame {
    path: Option<TreePath>,
    names: Names,
}

/// Names that are left to look at, in order.
enum Names {
    /// At the top of the tree, of several sources.
    Top(Vec<TopNames>),
    /// Of one folder.
    Of(Sorted, Rc<Place>),
}

/// Names at the top of the tree, of one of several sources.
struct TopNames {
    next: Option<Listed>,
    /// Of a folder whose contents appear.
    more: Option<Sorted>,
    place: Rc<Place>,
    source: usize,
}

impl TopNames {
    /// By the next names.
    fn order(&self, other: &Self) -> Ordering {
        let names = self.next.as_ref().zip(other.next.as_ref());
        names.map_or(Ordering::Equal, |(left, right)| {
            order((&left.name, left.is_folder), (&right.name, right.is_folder))
        })
    }
}

impl Names {
    fn next(&mut self) -> io::Result<Option<Name>> {
        let sources = match self {
            Self::Of(names, place) => {
                let name = |listed| Name { listed, place: Rc::clone(place), source: None };
                return Ok(names.next()?.map(name));
            }
            Self::Top(sources) => sources,
        };
        let waiting = sources.iter_mut().filter(|names| names.next.is_some());
        // Of two sources with the same name the first one comes first.
        let Some(names) = waiting.min_by(|left, right| left.order(right)) else { return Ok(None) };
        let more = names.more.as_mut().map(Sorted::next).transpose()?.flatten();
        let taken = std::mem::replace(&mut names.next, more);
        Ok(taken.map(|listed| Name { listed, place: Rc::clone(&names.place), source: Some(names.source) }))
    }
}

struct Name {
    listed: Listed,
    /// Where it lies. Names at the top of the tree may lie in several folders.
    place: Rc<Place>,
    /// Of which source it is, where there are several.
    source: Option<usize>,
}

/// A folder that is open, or the folder of a source that appears under its own name.
enum Place {
    Opened(Folder),
    Top(usize),
}

/// Walks all sources; `visit` is given everything in order, and may stop the walk. Names that are too many for the memory lie in
/// `own`.
pub(crate) fn walk(
    sources: &Sources,
    excludes: &Excludes,
    own: PathBuf,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) {
    let mut walk = Walk { sources, excludes, shelf: Shelf::new(own), visit };
    // Whoever stops the walk knows it.
    let _stopped = walk.run();
}

struct Walk<'a> {
    sources: &'a Sources,
    excludes: &'a Excludes,
    shelf: Rc<Shelf>,
    visit: &'a mut dyn FnMut(Found) -> ControlFlow<()>,
}

impl Walk<'_> {
    fn run(&mut self) -> ControlFlow<()> {
        let mut frames = vec![Frame { path: None, names: self.all()? }];
        while let Some(frame) = frames.last_mut() {
            let name = match frame.names.next() {
                Ok(Some(name)) => name,
                Ok(None) => {
                    frames.pop();
                    continue;
                }
                Err(error) => return self.failed(error),
            };
            if name.source.is_some_and(|source| self.has_earlier(source, &name.listed.name)) {
                let message = "another source has an entry of this name; it is sent".to_owned();
                self.issue(&name.listed.name, issue::SAME_NAME, message, false)?;
                continue;
            }
            let path = match &frame.path {
                Some(parent) => parent.join(&name.listed.name),
                None => TreePath::parse(&name.listed.name),
            };
            match path {
                Ok(path) => frames.extend(self.name(path, &name)?),
                Err(error) => {
                    let parent = frame.path.as_ref().map(|path| path.as_bytes().to_vec());
                    let path = [parent.unwrap_or_default(), name.listed.name].join(&b'/');
                    self.issue(&path, issue::PATH_TOO_LONG, error.to_string(), name.listed.is_folder)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// The names at the top.
    fn all(&mut self) -> ControlFlow<(), Names> {
        let (mut all, sources) = (Vec::new(), self.sources);
        for (source, top) in sources.tops.iter().enumerate() {
            match top {
                Top::File { name, .. } | Top::Folder { name, .. } => {
                    let listed = Listed { name: name.clone(), is_folder: matches!(top, Top::Folder { .. }) };
                    let place = Rc::new(Place::Top(source));
                    all.push(TopNames { next: Some(listed), more: None, place, source });
                }
                Top::Contents { folder } => {
                    let opened = folder.try_clone().map_err(ListError::Folder);
                    match opened.and_then(|folder| Ok((self.list(&folder)?, Rc::new(Place::Opened(folder))))) {
                        Ok((names, place)) if sources.tops.len() == 1 => {
                            return ControlFlow::Continue(Names::Of(names, place));
                        }
                        Ok((mut names, place)) => match names.next() {
                            Ok(next) => all.push(TopNames { next, more: Some(names), place, source }),
                            Err(error) => return self.failed(error),
                        },
                        Err(ListError::Folder(error)) => self.issue(b"", issue::UNREADABLE, error.to_string(), true)?,
                        Err(ListError::Own(error)) => return self.failed(error),
                    }
                }
            }
        }
        ControlFlow::Continue(Names::Top(all))
    }

    fn list(&self, folder: &Folder) -> Result<Sorted, ListError> {
        Sorted::new(folder.names().map_err(ListError::Folder)?, &self.shelf)
    }

    /// Whether a source before this one has an entry of this name at the top: what would be read under this name.
    fn has_earlier(&self, source: usize, name: &[u8]) -> bool {
        self.sources.tops.iter().take(source).any(|top| match top {
            Top::File { name: other, .. } | Top::Folder { name: other, .. } => other == name,
            Top::Contents { folder } => folder.stat(name).is_ok_and(|there| there.is_some()),
        })
    }

    /// One name: gives back the frame of a folder that is to be walked next.
    fn name(&mut self, path: TreePath, name: &Name) -> ControlFlow<(), Option<Frame>> {
        if self.excludes.covers(path.as_bytes()) {
            return ControlFlow::Continue(None);
        }
        let looked = match &*name.place {
            Place::Opened(folder) => look(folder, &name.listed),
            Place::Top(number) => self.look_at_top(*number),
        };
        let is_folder = name.listed.is_folder;
        let (entry, folder, stat) = match looked {
            Ok(Looked { kind, mode, mtime, holes, folder, stat }) => {
                let versions = Versions::default();
                (Entry { path: path.clone(), kind, mode, mtime, holes, versions }, folder, stat)
            }
            Err(refused) => {
                self.issue(path.as_bytes(), refused.reason, refused.message, is_folder)?;
                return ControlFlow::Continue(None);
            }
        };
        let Some(folder) = folder else {
            (self.visit)(Found::Entry(entry, stat))?;
            return ControlFlow::Continue(None);
        };
        match self.list(&folder) {
            Ok(names) => {
                (self.visit)(Found::Entry(entry, None))?;
                let names = Names::Of(names, Rc::new(Place::Opened(folder)));
                ControlFlow::Continue(Some(Frame { path: Some(path), names }))
            }
            Err(ListError::Folder(error)) => {
                self.issue(path.as_bytes(), issue::UNREADABLE, error.to_string(), true)?;
                ControlFlow::Continue(None)
            }
            Err(ListError::Own(error)) => self.failed(error),
        }
    }

    fn failed<T>(&mut self, error: io::Error) -> ControlFlow<(), T> {
        (self.visit)(Found::Failed(error))?;
        ControlFlow::Break(())
    }

    fn look_at_top(&self, number: usize) -> Result<Looked, Refused> {
        match &self.sources.tops[number] {
            Top::File { folder, name } => look(folder, &Listed { name: name.clone(), is_folder: false }),
            Top::Folder { folder, .. } | Top::Contents { folder } => {
                let folder = folder.try_clone().map_err(unreadable)?;
                let stat = folder.own_stat().map_err(unreadable)?;
                let (mode, mtime) = (mode(&stat), mtime(&stat));
                Ok(Looked { kind: Kind::Folder, mode, mtime, holes: 0, folder: Some(folder), stat: None })
            }
        }
    }

    fn issue(&mut self, path: &[u8], reason: &'static str, message: String, hides_entries: bool) -> ControlFlow<()> {
        (self.visit)(Found::Issue(Issue { path: path.to_vec(), reason, message, hides_entries }))
    }
}

struct Looked {
    kind: Kind,
    mode: u32,
    mtime: proto_wire::manifest::Mtime,
    holes: u64,
    folder: Option<Folder>,
    /// Of a file.
    stat: Option<FileStat>,
}

struct Refused {
    reason: &'static str,
    message: String,
}

fn unreadable(error: io::Error) -> Refused {
    let other = error.raw_os_error() == Some(Errno::XDEV.raw_os_error());
    let reason = if other { issue::OTHER_FILE_SYSTEM } else { issue::UNREADABLE };
    Refused { reason, message: error.to_string() }
}

fn look(parent: &Folder, listed: &Listed) -> Result<Looked, Refused> {
    let stat = parent.stat(&listed.name).map_err(unreadable)?;
    let stat = stat.ok_or_else(|| unreadable(io::Error::from(io::ErrorKind::NotFound)))?;
    let found = kind(&stat);
    if (found == FileType::Directory) != listed.is_folder {
        let message = "it became a folder, or ceased to be one, while the tree was walked".to_owned();
        return Err(Refused { reason: issue::CHANGED_WHILE_READ, message });
    }
    let (kind, folder) = match found {
        FileType::RegularFile => (Kind::File { size: size(&stat) }, None),
        FileType::Symlink => (Kind::Symlink { target: parent.link_target(&listed.name).map_err(unreadable)? }, None),
        FileType::Directory => (Kind::Folder, Some(parent.folder(&listed.name).map_err(unreadable)?)),
        _ => {
            let message = "devices, sockets and pipes are not sent".to_owned();
            return Err(Refused { reason: issue::SPECIAL_FILE, message });
        }
    };
    let (holes, of_file) = match kind {
        Kind::File { .. } => (holes(&stat), Some(FileStat::from(&stat))),
        Kind::Folder | Kind::Symlink { .. } => (0, None),
    };
    Ok(Looked { kind, mode: mode(&stat), mtime: mtime(&stat), holes, folder, stat: of_file })
}
