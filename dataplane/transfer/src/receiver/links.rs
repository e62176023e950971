//! Symbolic links of the tree: made under temporary names, and put in place some hundred at a time.

use std::{io, mem};

use proto_wire::{
    manifest::{Entry, Kind},
    tree_path::TreePath,
};
use rustix::{
    fs::{FileType, Stat},
    io::Errno,
};

use super::{conclude::each, files::temporary_name, state::Receiving};
use crate::{
    confine::{Folder, kind},
    stop::Stop,
    tally::add,
};

/// Links that are written down at once before they are put in place.
const BATCH: usize = 256;

/// A link that stands under a temporary name.
struct Coming {
    index: u64,
    path: TreePath,
    temporary: Vec<u8>,
    stat: Stat,
}

/// Makes all links that are not in place yet.
pub(super) fn links(receiving: &Receiving) -> Result<(), Stop> {
    let mut batch = Vec::new();
    each(receiving, |index, entry| {
        let Kind::Symlink { target } = &entry.kind else { return Ok(()) };
        if receiving.is_left_out(index) {
            return Ok(());
        }
        match make(receiving, index, entry, target) {
            Ok(None) => add(&receiving.tally.files_done, 1),
            Ok(Some(coming)) => batch.push(coming),
            Err(error) => receiving.unwritable(index, &entry.path, &error)?,
        }
        if batch.len() < BATCH { Ok(()) } else { place_all(receiving, mem::take(&mut batch)) }
    })?;
    place_all(receiving, batch)
}

/// Makes a link under a temporary name; none where it is in place already.
fn make(receiving: &Receiving, index: u64, entry: &Entry, target: &[u8]) -> io::Result<Option<Coming>> {
    let parent = receiving.parent(&entry.path)?;
    let name = entry.path.name();
    match parent.stat(name)?.as_ref().map(kind) {
        Some(FileType::Symlink) if parent.link_target(name)? == target => {
            parent.set_mtime(name, entry.mtime)?;
            receiving.note_placed(entry.path.as_bytes(), &parent, name, None).map_err(io::Error::other)?;
            return Ok(None);
        }
        Some(FileType::Symlink | FileType::RegularFile) | None => {}
        Some(_) => return Err(io::Error::from(Errno::EXIST)),
    }
    let temporary = temporary_name(receiving.id, receiving.journal().number());
    parent.make_link(&temporary, target)?;
    let made = parent.set_mtime(&temporary, entry.mtime).and_then(|()| parent.stat(&temporary));
    match made.and_then(|stat| stat.ok_or_else(|| io::Error::from(Errno::NOENT))) {
        Ok(stat) => Ok(Some(Coming { index, path: entry.path.clone(), temporary, stat })),
        Err(error) => {
            // What cannot be removed either is removed with all that is left of the transfer.
            drop(parent.remove(&temporary));
            Err(error)
        }
    }
}

/// Puts links in place. In a run of a sync that is written down first, so that a crash between the two is no change by others.
fn place_all(receiving: &Receiving, batch: Vec<Coming>) -> Result<(), Stop> {
    if let Some(run) = receiving.run.as_ref().filter(|_| !batch.is_empty()) {
        let coming: Vec<_> = batch.iter().map(|link| (link.path.as_bytes().to_vec(), link.stat)).collect();
        run.intend(&coming).map_err(|error| receiving.own(&error))?;
    }
    for link in batch {
        match place(receiving, &link) {
            Ok(Some(parent)) => {
                receiving.note_placed(link.path.as_bytes(), &parent, link.path.name(), None)?;
                add(&receiving.tally.files_done, 1);
                continue;
            }
            Ok(None) => receiving.is_others(link.index, &link.path)?,
            Err(error) => receiving.unwritable(link.index, &link.path, &error)?,
        }
        receiving.remove_temporary_name(&link.path, &link.temporary);
        if let Some(run) = &receiving.run {
            run.withdraw(link.path.as_bytes()).map_err(|error| receiving.own(&error))?;
        }
    }
    Ok(())
}

/// The folder that it is in place in; none where others changed what stands there, in a run of a sync.
fn place(receiving: &Receiving, link: &Coming) -> io::Result<Option<Folder>> {
    let parent = receiving.parent(&link.path)?;
    let name = link.path.name();
    let there = parent.stat(name)?;
    if let Some(there) = &there {
        if !matches!(kind(there), FileType::Symlink | FileType::RegularFile) {
            return Err(io::Error::from(Errno::EXIST));
        }
        if !receiving.may_replace(link.path.as_bytes(), &parent, name, there).map_err(io::Error::other)? {
            return Ok(None);
        }
    }
    parent.rename(&link.temporary, name)?;
    Ok(Some(parent))
}
