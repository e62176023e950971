//! Walks the sources in bytewise order of paths (D18), following no link and crossing no mount.
//!
//! Of a folder only the names are kept; each is looked at when its turn comes. What cannot be sent is an issue and is left out.

use std::{cmp::Ordering, io, ops::ControlFlow, rc::Rc, vec};

use proto_wire::{
    TreePath,
    manifest::{Entry, Kind},
    tree_path::order,
};
use rustix::{fs::FileType, io::Errno};

use crate::{
    confine::{Folder, Listed, holes, kind, mode, mtime, size},
    exclude::Excludes,
    packed::Packed,
    reason::issue,
    source::{Sources, Top},
};

/// What a walk meets.
#[derive(Debug)]
pub(crate) enum Found {
    /// An entry of the tree.
    Entry(Entry),
    /// Something that is left out.
    Issue(Issue),
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
    Top(vec::IntoIter<Name>),
    /// Of one folder.
    Of(Packed, Rc<Place>),
}

impl Iterator for Names {
    type Item = Name;

    fn next(&mut self) -> Option<Name> {
        match self {
            Self::Top(names) => names.next(),
            Self::Of(names, place) => names.next().map(|listed| Name { listed, place: Rc::clone(place) }),
        }
    }
}

struct Name {
    listed: Listed,
    /// Where it lies. Names at the top of the tree may lie in several folders.
    place: Rc<Place>,
}

/// A folder that is open, or the folder of a source that appears under its own name.
enum Place {
    Opened(Folder),
    Top(usize),
}

/// Walks all sources; `visit` is given everything in order, and may stop the walk.
pub(crate) fn walk(sources: &Sources, excludes: &Excludes, visit: &mut dyn FnMut(Found) -> ControlFlow<()>) {
    let mut walk = Walk { sources, excludes, visit };
    // Whoever stops the walk knows it.
    let _stopped = walk.run();
}

struct Walk<'a> {
    sources: &'a Sources,
    excludes: &'a Excludes,
    visit: &'a mut dyn FnMut(Found) -> ControlFlow<()>,
}

impl Walk<'_> {
    fn run(&mut self) -> ControlFlow<()> {
        let mut frames = vec![Frame { path: None, names: self.all()? }];
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.names.next() else {
                frames.pop();
                continue;
            };
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
        if let [Top::Contents { folder }] = self.sources.tops.as_slice() {
            match folder.try_clone().and_then(|folder| Ok((Packed::list(&folder)?, folder))) {
                Ok((names, folder)) => return ControlFlow::Continue(Names::Of(names, Rc::new(Place::Opened(folder)))),
                Err(error) => self.issue(b"", issue::UNREADABLE, error.to_string(), true)?,
            }
            return ControlFlow::Continue(Names::Top(Vec::new().into_iter()));
        }
        ControlFlow::Continue(Names::Top(self.top()?.into_iter()))
    }

    /// The names at the top, of all sources together.
    fn top(&mut self) -> ControlFlow<(), Vec<Name>> {
        let mut names = Vec::new();
        let sources = self.sources;
        for (number, top) in sources.tops.iter().enumerate() {
            match top {
                Top::File { name, .. } | Top::Folder { name, .. } => {
                    let listed = Listed { name: name.clone(), is_folder: matches!(top, Top::Folder { .. }) };
                    names.push(Name { listed, place: Rc::new(Place::Top(number)) });
                }
                Top::Contents { folder } => match folder.try_clone().and_then(|folder| Ok((folder.list()?, folder))) {
                    Ok((listed, folder)) => {
                        let place = Rc::new(Place::Opened(folder));
                        names.extend(listed.into_iter().map(|listed| Name { listed, place: Rc::clone(&place) }));
                    }
                    Err(error) => self.issue(b"", issue::UNREADABLE, error.to_string(), true)?,
                },
            }
        }
        // Stable: of two sources with the same name the first one comes first.
        names.sort_by(|left, right| by_path(&left.listed, &right.listed));
        let mut seen = std::collections::HashSet::new();
        let mut kept = Vec::with_capacity(names.len());
        let several = sources.tops.len() > 1;
        for name in names {
            if several && !seen.insert(name.listed.name.clone()) {
                let message = "another source has an entry of this name; it is sent".to_owned();
                self.issue(&name.listed.name, issue::SAME_NAME, message, false)?;
            } else {
                kept.push(name);
            }
        }
        ControlFlow::Continue(kept)
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
        let (entry, folder) = match looked {
            Ok(Looked { kind, mode, mtime, holes, folder }) => {
                (Entry { path: path.clone(), kind, mode, mtime, holes }, folder)
            }
            Err(refused) => {
                self.issue(path.as_bytes(), refused.reason, refused.message, is_folder)?;
                return ControlFlow::Continue(None);
            }
        };
        let Some(folder) = folder else {
            (self.visit)(Found::Entry(entry))?;
            return ControlFlow::Continue(None);
        };
        match Packed::list(&folder) {
            Ok(names) => {
                (self.visit)(Found::Entry(entry))?;
                let names = Names::Of(names, Rc::new(Place::Opened(folder)));
                ControlFlow::Continue(Some(Frame { path: Some(path), names }))
            }
            Err(error) => {
                self.issue(path.as_bytes(), issue::UNREADABLE, error.to_string(), true)?;
                ControlFlow::Continue(None)
            }
        }
    }

    fn look_at_top(&self, number: usize) -> Result<Looked, Refused> {
        match &self.sources.tops[number] {
            Top::File { folder, name } => look(folder, &Listed { name: name.clone(), is_folder: false }),
            Top::Folder { folder, .. } | Top::Contents { folder } => {
                let folder = folder.try_clone().map_err(unreadable)?;
                let stat = folder.own_stat().map_err(unreadable)?;
                let (mode, mtime) = (mode(&stat), mtime(&stat));
                Ok(Looked { kind: Kind::Folder, mode, mtime, holes: 0, folder: Some(folder) })
            }
        }
    }

    fn issue(&mut self, path: &[u8], reason: &'static str, message: String, hides_entries: bool) -> ControlFlow<()> {
        (self.visit)(Found::Issue(Issue { path: path.to_vec(), reason, message, hides_entries }))
    }
}

fn by_path(left: &Listed, right: &Listed) -> Ordering {
    order((&left.name, left.is_folder), (&right.name, right.is_folder))
}

struct Looked {
    kind: Kind,
    mode: u32,
    mtime: proto_wire::manifest::Mtime,
    holes: u64,
    folder: Option<Folder>,
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
    let holes = if matches!(kind, Kind::File { .. }) { holes(&stat) } else { 0 };
    Ok(Looked { kind, mode: mode(&stat), mtime: mtime(&stat), holes, folder })
}
