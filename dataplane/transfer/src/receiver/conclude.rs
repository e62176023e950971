//! The last steps of a receiver: links, deletions, modes and times of folders, the digest of the tree.

use std::{
    collections::HashSet,
    io,
    sync::atomic::Ordering::Relaxed,
};

use proto_model::{PlannedAction, PlannedChange};
use proto_wire::{
    TreePath,
    frames::{Finished, ManifestEnd},
    manifest::{Entry, Kind},
    tree_path::MAX_DEPTH,
};
use rustix::{fs::FileType, io::Errno};

use super::{
    files::temporary_name,
    remains::{sweep_below, sweep_one},
    state::{Receiving, own},
};
use crate::{
    confine::{Folder, kind},
    reason::{end, issue},
    stop::Stop,
    tally::add,
};

/// Concludes the transfer: gives what is to be told to the sender.
pub(super) fn conclude(receiving: &Receiving, manifest: &ManifestEnd, theirs: &[u8; 32]) -> Result<Finished, Stop> {
    let dry_run = receiving.options.dry_run;
    if !dry_run {
        links(receiving)?;
    }
    if receiving.options.delete {
        if manifest.incomplete {
            let message = "nothing was deleted, since the source could not be read whole";
            receiving.tally.issue(b"", issue::NOT_DELETED, message);
        } else {
            delete(receiving, manifest.contents)?;
        }
    }
    if !dry_run {
        folders(receiving)?;
        let synced = receiving.target().and_then(Folder::sync_file_system);
        synced.map_err(|error| Stop::local("what was received cannot be made durable", &error))?;
    }
    let ours = receiving.pages.tree_digests().map_err(|error| own(&error))?;
    if !dry_run && ours.sent != *theirs {
        let message = "the tree that arrived has another digest than the one that was sent";
        return Err(Stop::final_(end::TREE_MISMATCH, message));
    }
    Ok(Finished {
        tree_digest: ours.in_place,
        issues: receiving.tally.issues(),
        issue_count: receiving.tally.issue_count(),
        deleted: receiving.tally.files_deleted.load(Relaxed),
        planned_changes: receiving.tally.planned(),
    })
}

/// Goes through all entries; what the visitor says of an entry is that entry's issue.
fn each(receiving: &Receiving, mut visit: impl FnMut(u64, &Entry) -> Result<(), Stop>) -> Result<(), Stop> {
    let mut stopped = Ok(());
    let read = receiving.pages.for_each(|index, entry| {
        if stopped.is_ok() {
            stopped = visit(index, entry);
        }
        Ok(())
    });
    read.map_err(|error| own(&error))?;
    stopped
}

fn links(receiving: &Receiving) -> Result<(), Stop> {
    each(receiving, |index, entry| {
        let Kind::Symlink { target } = &entry.kind else { return Ok(()) };
        if receiving.is_left_out(index) {
            return Ok(());
        }
        match link(receiving, entry, target) {
            Ok(()) => {
                add(&receiving.tally.files_done, 1);
                Ok(())
            }
            Err(error) => receiving.unwritable(index, &entry.path, &error),
        }
    })
}

fn link(receiving: &Receiving, entry: &Entry, target: &[u8]) -> io::Result<()> {
    let parent = receiving.parent(&entry.path)?;
    let name = entry.path.name();
    match parent.stat(name)?.as_ref().map(kind) {
        Some(FileType::Symlink) if parent.link_target(name)? == target => {}
        Some(FileType::Symlink | FileType::RegularFile) | None => {
            let temporary = temporary_name(receiving.id, receiving.journal().number());
            parent.make_link(&temporary, target)?;
            if let Err(error) = parent.rename(&temporary, name) {
                // What cannot be removed either is removed with all that is left of the transfer.
                drop(parent.remove(&temporary));
                return Err(error);
            }
        }
        Some(_) => return Err(io::Error::from(Errno::EXIST)),
    }
    parent.set_mtime(name, entry.mtime)
}

/// Modes and times of folders, once nothing in them changes any more.
fn folders(receiving: &Receiving) -> Result<(), Stop> {
    each(receiving, |index, entry| {
        if !entry.is_folder() || receiving.is_left_out(index) {
            return Ok(());
        }
        let set = receiving.target().and_then(|target| target.folder(entry.path.as_bytes()));
        match set.and_then(|folder| folder.set_own(entry.mode, entry.mtime)) {
            Ok(()) => {
                add(&receiving.tally.files_done, 1);
                Ok(())
            }
            Err(error) => receiving.unwritable(index, &entry.path, &error),
        }
    })
}

/// A folder of the tree whose entries go by.
struct Open {
    path: Option<TreePath>,
    names: HashSet<Vec<u8>>,
    /// Whether the folder is in place.
    in_place: bool,
}

/// Deletes what the tree does not have from every folder that the tree has.
fn delete(receiving: &Receiving, contents: bool) -> Result<(), Stop> {
    let mut open: Vec<Open> =
        contents.then(|| Open { path: None, names: HashSet::new(), in_place: true }).into_iter().collect();
    each(receiving, |index, entry| {
        let parent = entry.path.parent();
        // What lies in a folder follows it without a gap: when something else comes, it is complete.
        while open.last().is_some_and(|last| last.path.is_some() && last.path != parent) {
            if let Some(complete) = open.pop() {
                sweep(receiving, &complete);
            }
        }
        if let Some(last) = open.last_mut().filter(|last| last.path == parent) {
            last.names.insert(entry.path.name().to_vec());
        }
        if entry.is_folder() {
            let in_place = !receiving.is_left_out(index);
            open.push(Open { path: Some(entry.path.clone()), names: HashSet::new(), in_place });
        }
        Ok(())
    })?;
    while let Some(complete) = open.pop() {
        sweep(receiving, &complete);
    }
    Ok(())
}

/// Deletes from one folder what is not among its names.
fn sweep(receiving: &Receiving, open: &Open) {
    if !open.in_place {
        return;
    }
    let path = open.path.as_ref().map(TreePath::as_bytes).unwrap_or_default();
    let folder = match receiving.target().and_then(|target| target.folder(path)) {
        Ok(folder) => folder,
        // A dry run has not made it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return receiving.tally.issue(path, issue::NOT_DELETED, error.to_string()),
    };
    let names = match folder.list() {
        Ok(names) => names,
        Err(error) => return receiving.tally.issue(path, issue::NOT_DELETED, error.to_string()),
    };
    for name in names.iter().filter(|name| !open.names.contains(&name.name)) {
        let path = if path.is_empty() { name.name.clone() } else { [path, &name.name].join(&b'/') };
        remove(receiving, &folder, &path, &name.name, name.is_folder, 0);
    }
}

/// Deletes an entry and what is in it, but what is excluded; a folder that keeps something stays. True where it is gone.
fn remove(receiving: &Receiving, parent: &Folder, path: &[u8], name: &[u8], is_folder: bool, depth: usize) -> bool {
    if receiving.excludes.covers(path) {
        return false;
    }
    let dry_run = receiving.options.dry_run;
    let mut empty = true;
    if is_folder {
        // Neither a link nor another file system is entered.
        let listed = parent.folder(name).and_then(|folder| Ok((folder.list()?, folder)));
        match listed {
            Ok((names, folder)) if depth < MAX_DEPTH => {
                for name in names {
                    let path = [path, &name.name].join(&b'/');
                    empty &= remove(receiving, &folder, &path, &name.name, name.is_folder, depth + 1);
                }
            }
            Ok(_) => {
                receiving.tally.issue(path, issue::NOT_DELETED, "it is too deep");
                return false;
            }
            Err(error) => {
                receiving.tally.issue(path, issue::NOT_DELETED, error.to_string());
                return false;
            }
        }
    }
    if !empty {
        return false;
    }
    if dry_run {
        let change = || PlannedChange { path: path.to_vec(), action: PlannedAction::Delete, bytes: 0.into() };
        receiving.tally.plan(change);
        return true;
    }
    match if is_folder { parent.remove_folder(name) } else { parent.remove(name) } {
        Ok(()) => {
            add(&receiving.tally.files_deleted, 1);
            true
        }
        Err(error) => {
            receiving.tally.issue(path, issue::NOT_DELETED, error.to_string());
            false
        }
    }
}

/// Removes what was begun and will not be finished: temporary files in every folder of the tree.
pub(super) fn clean(receiving: &Receiving) {
    let Ok(target) = receiving.target() else { return };
    if receiving.resuming {
        // An earlier attempt may have known more of the tree than this one heard of.
        return sweep_below(target, receiving.id);
    }
    sweep_one(target, receiving.id);
    let swept = receiving.pages.for_each(|_, entry| {
        if entry.is_folder() {
            // One that is not there, or not a folder any more, has nothing of ours that could be reached.
            target.folder(entry.path.as_bytes()).iter().for_each(|folder| sweep_one(folder, receiving.id));
        }
        Ok(())
    });
    if let Err(error) = swept {
        tracing::warn!(transfer = %receiving.id, %error, "temporary files may stay behind");
    }
}
