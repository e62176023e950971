//! The last steps of a receiver: links (made by `links`), deletions, modes and times of folders, the digest of the tree.

use std::sync::atomic::Ordering::Relaxed;

use proto_wire::{
    frames::{Finished, ManifestEnd},
    manifest::Entry,
};

use super::{
    delete::delete,
    links::links,
    remains::{sweep_below, sweep_one},
    state::Receiving,
};
use crate::{
    confine::Folder,
    reason::{end, issue},
    stop::Stop,
    tally::add,
};

/// A sync's source that had files and has none.
const SOURCE_EMPTY: &str = "nothing was deleted, since the source has no files any more, as where its file system is not mounted; where that is so meant, \
    `dwcp sync run NAME --overwrite` deletes them here too";

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
        } else if is_gone(receiving, manifest)? {
            receiving.tally.issue(b"", issue::NOT_DELETED, SOURCE_EMPTY);
        } else {
            delete(receiving, manifest.contents)?;
        }
    }
    if !dry_run {
        if receiving.resuming {
            // Of files that an earlier attempt began, and that are others or not there by now.
            receiving.target().iter().for_each(|target| sweep_below(target, receiving.id));
        }
        folders(receiving)?;
        let flush = || receiving.target().and_then(Folder::sync_file_system);
        let synced = receiving.flushes.of_all(std::iter::empty(), flush);
        synced.map_err(|error| receiving.destination_fails(&error))?;
    }
    let ours = receiving.pages.tree_digests().map_err(|error| receiving.own(&error))?;
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

/// In a run of a sync: whether the source has no files, while its destination has some of the sync: a file system that is not mounted looks so.
fn is_gone(receiving: &Receiving, manifest: &ManifestEnd) -> Result<bool, Stop> {
    let Some(run) = receiving.run.as_ref().filter(|run| !run.overwrite && !run.has_nothing()) else { return Ok(false) };
    let mut files = manifest.bytes > 0;
    if !files {
        each(receiving, |_, entry| {
            files |= !entry.is_folder();
            Ok(())
        })?;
    }
    if !files {
        tracing::warn!(sync = run.name, "the source of a sync is empty: nothing is deleted");
    }
    Ok(!files)
}

/// Goes through all entries; what the visitor says of an entry is that entry's issue.
pub(super) fn each(receiving: &Receiving, mut visit: impl FnMut(u64, &Entry) -> Result<(), Stop>) -> Result<(), Stop> {
    let mut stopped = Ok(());
    let read = receiving.pages.for_each(|index, entry| {
        if stopped.is_ok() {
            stopped = visit(index, entry);
        }
        Ok(())
    });
    read.map_err(|error| receiving.own(&error))?;
    stopped
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
