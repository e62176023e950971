//! Deletes what the tree does not have, last of all (D20): of each folder that is in place the names are taken in lots, and
//! compared with the manifest on disk, so that no folder has to fit the memory.

use std::{collections::HashMap, io};

use proto_model::{PlannedAction, PlannedChange};
use proto_wire::{TreePath, manifest::Entry, tree_path::MAX_DEPTH};

use super::state::Receiving;
use crate::{
    confine::{Folder, Listed},
    reason::issue,
    stop::Stop,
    sync::CHANGED,
    tally::add,
};

/// Names of a folder that are compared at once: at most about 20 MB.
const LOT: usize = 65_536;
/// A folder that should be empty and is not is looked through again so often: names may hide while others are removed.
const LOOKS: usize = 3;

/// A folder of the tree whose entries go by.
struct Open {
    path: Option<TreePath>,
    /// The number of the first entry that may lie in it.
    first: u64,
    /// Whether the folder is in place.
    in_place: bool,
}

/// Deletes what the tree does not have from every folder that the tree has.
pub(super) fn delete(receiving: &Receiving, contents: bool) -> Result<(), Stop> {
    let top = Open { path: None, first: 0, in_place: true };
    let mut open: Vec<Open> = contents.then_some(top).into_iter().collect();
    let mut end = 0;
    let mut stopped = Ok(());
    let read = receiving.pages.for_each(|index, entry| {
        // What lies in a folder follows it without a gap: when something else comes, it is complete.
        let parent = entry.path.split().0;
        while open.last().is_some_and(|last| last.path.as_ref().is_some_and(|path| Some(path.as_bytes()) != parent)) {
            if let Some(complete) = open.pop() {
                sweep(receiving, &complete, index)?;
            }
        }
        if entry.is_folder() {
            let in_place = !receiving.is_left_out(index);
            open.push(Open { path: Some(entry.path.clone()), first: index + 1, in_place });
        }
        end = index + 1;
        if receiving.frames.is_closed() {
            stopped = Err(super::state::gone());
        }
        Ok(())
    });
    read.map_err(|error| receiving.own(&error))?;
    stopped?;
    while let Some(complete) = open.pop() {
        sweep(receiving, &complete, end).map_err(|error| receiving.own(&error))?;
    }
    Ok(())
}

/// Deletes from one folder what is not among the entries before `end`; an error is one of the manifest.
fn sweep(receiving: &Receiving, open: &Open, end: u64) -> io::Result<()> {
    if !open.in_place {
        return Ok(());
    }
    let path = open.path.as_ref().map(TreePath::as_bytes).unwrap_or_default();
    let not_deleted = |error: &io::Error| receiving.tally.issue(path, issue::NOT_DELETED, error.to_string());
    let folder = match receiving.target().and_then(|target| target.folder(path)) {
        Ok(folder) => folder,
        // A dry run has not made it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            not_deleted(&error);
            return Ok(());
        }
    };
    let mut names = match folder.names() {
        Ok(names) => names,
        Err(error) => {
            not_deleted(&error);
            return Ok(());
        }
    };
    loop {
        let mut lot = HashMap::new();
        for name in names.by_ref().take(LOT) {
            match name {
                Ok(Listed { name, is_folder }) => drop(lot.insert(name, is_folder)),
                Err(error) => {
                    not_deleted(&error);
                    return Ok(());
                }
            }
        }
        if lot.is_empty() {
            return Ok(());
        }
        let parent = (!path.is_empty()).then_some(path);
        receiving.pages.for_range(open.first, end, |entry: &Entry| {
            if entry.path.split().0 == parent {
                lot.remove(entry.path.name());
            }
            // Once nothing is left, the rest of the folder need not be looked at.
            !lot.is_empty()
        })?;
        let mut gone: Vec<_> = lot.into_iter().collect();
        gone.sort_unstable();
        for (name, is_folder) in gone {
            let path = if path.is_empty() { name.clone() } else { [path, &name].join(&b'/') };
            remove(receiving, &folder, &path, &name, is_folder, 0);
        }
    }
}

/// Deletes an entry and what is in it, but what is excluded; a folder that keeps something stays. True where it is gone.
fn remove(receiving: &Receiving, parent: &Folder, path: &[u8], name: &[u8], is_folder: bool, depth: usize) -> bool {
    if receiving.excludes.covers(path) {
        return false;
    }
    if is_folder && !empty(receiving, parent, path, name, depth) {
        return false;
    }
    if receiving.options.dry_run {
        let change = || PlannedChange { path: path.to_vec(), action: PlannedAction::Delete, bytes: 0.into() };
        receiving.tally.plan(change);
        return true;
    }
    if !is_folder && !is_ours(receiving, parent, path, name) {
        return false;
    }
    let mut looks = 1;
    loop {
        match if is_folder { parent.remove_folder(name) } else { parent.remove(name) } {
            Ok(()) => {
                add(&receiving.tally.files_deleted, 1);
                if let Some(Err(error)) = receiving.run.as_ref().map(|run| run.deleted(path)) {
                    tracing::warn!(transfer = %receiving.id, %error, "a deletion is not noted");
                }
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && looks < LOOKS => {
                looks += 1;
                if !empty(receiving, parent, path, name, depth) {
                    return false;
                }
            }
            Err(error) => {
                receiving.tally.issue(path, issue::NOT_DELETED, error.to_string());
                return false;
            }
        }
    }
}

/// Whether a file may be deleted: always, but in a run of a sync only as it was published.
fn is_ours(receiving: &Receiving, parent: &Folder, path: &[u8], name: &[u8]) -> bool {
    if receiving.run.is_none() {
        return true;
    }
    let why = match parent.stat(name).map(|there| there.map(|there| receiving.may_replace(path, parent, name, &there)))
    {
        Ok(Some(Ok(true)) | None) => return true,
        Ok(Some(Ok(false))) => CHANGED.to_owned(),
        Ok(Some(Err(stop))) => stop.message,
        Err(error) => error.to_string(),
    };
    receiving.tally.issue(path, issue::DESTINATION_CHANGED, why);
    false
}

/// Deletes what is in a folder; false where something stays. Neither a link nor another file system is entered.
fn empty(receiving: &Receiving, parent: &Folder, path: &[u8], name: &[u8], depth: usize) -> bool {
    let not_deleted = |message: String| {
        receiving.tally.issue(path, issue::NOT_DELETED, message);
        false
    };
    if depth >= MAX_DEPTH {
        return not_deleted("it is too deep".to_owned());
    }
    let folder = match parent.folder(name) {
        Ok(folder) => folder,
        Err(error) => return not_deleted(error.to_string()),
    };
    let names = match folder.names() {
        Ok(names) => names,
        Err(error) => return not_deleted(error.to_string()),
    };
    let mut empty = true;
    for name in names {
        match name {
            Ok(Listed { name, is_folder }) => {
                let path = [path, &name].join(&b'/');
                empty &= remove(receiving, &folder, &path, &name, is_folder, depth + 1);
            }
            Err(error) => return not_deleted(error.to_string()),
        }
    }
    empty
}
