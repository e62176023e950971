//! Puts whole files in place: contents durable, then mode and time, then the name, then the folder durable (D22).

use std::{collections::HashMap, fs::File, io};

use proto_model::Digest;
use proto_wire::frames::{MAX_PUBLISHED, ReceiverFrame};
use rustix::fs::FileType;

use super::{files::Whole, state::Receiving};
use crate::{
    confine::{Folder, kind, mtime, set_file},
    fates::Fate,
    reason::issue,
    stop::{Stop, is_full},
    tally::add,
    versions::{FileStat, Published, place as place_of},
};

/// Files that are put in place together: each batch costs two flushes of the file system, and what comes meanwhile is the next.
pub(super) const BATCH_FILES: usize = 4096;
/// From so many on, one `syncfs` is cheaper than an `fsync` of each.
pub(super) const SYNC_EACH_BELOW: usize = 8;

/// Puts a batch in place, and says so.
pub(super) fn publish(receiving: &Receiving, batch: Vec<Whole>) -> Result<(), Stop> {
    let mut folders: HashMap<Vec<u8>, Folder> = HashMap::new();
    let each = batch.len() < SYNC_EACH_BELOW;
    let mut ready = Vec::with_capacity(batch.len());
    for whole in batch {
        match prepare(receiving, &whole, each) {
            Ok(()) => ready.push(whole),
            Err(error) => leave_out(receiving, &whole, &error)?,
        }
    }
    if ready.is_empty() {
        return Ok(());
    }
    if !each {
        let names = ready.iter().map(|whole| whole.temporary.clone());
        let flush = || receiving.target().and_then(Folder::sync_file_system);
        receiving.flushes.of_all(names, flush).map_err(|error| receiving.destination_fails(&error))?;
    }
    intend(receiving, &ready)?;
    let mut placed = Vec::with_capacity(ready.len());
    for whole in ready {
        // Resolved after everything was written: a folder that was swapped meanwhile gets nothing.
        match place(receiving, &whole, &mut folders) {
            Ok(Placed::Done) => placed.push(whole),
            Ok(Placed::Conflict(there)) => {
                receiving.remove_temporary_name(&whole.path, &whole.temporary);
                let message = format!("meanwhile {there:?} stands there");
                withdraw(receiving, &whole)?;
                receiving.leave_out_because(whole.file, whole.path.as_bytes(), issue::TYPE_CONFLICT, message)?;
                receiving.not_made(whole.file, Some(whole.moved))?;
            }
            Ok(Placed::Others) => {
                receiving.remove_temporary_name(&whole.path, &whole.temporary);
                withdraw(receiving, &whole)?;
                receiving.is_others(whole.file, &whole.path)?;
                receiving.not_made(whole.file, Some(whole.moved))?;
            }
            Err(PlaceError::Stop(stop)) => return Err(stop),
            Err(PlaceError::Io(error)) => {
                withdraw(receiving, &whole)?;
                leave_out(receiving, &whole, &error)?;
            }
        }
    }
    sync_folders(receiving, &folders).map_err(|error| receiving.destination_fails(&error))?;
    let published = to_note(receiving, &placed, &folders);
    done(receiving, placed)?;
    note(receiving, published);
    Ok(())
}

fn leave_out(receiving: &Receiving, whole: &Whole, error: &io::Error) -> Result<(), Stop> {
    if is_full(error) {
        return Err(receiving.destination_fails(error));
    }
    receiving.remove_temporary_name(&whole.path, &whole.temporary);
    receiving.unwritable(whole.file, &whole.path, error)?;
    receiving.not_made(whole.file, Some(whole.moved))
}

/// Sets mode and time of the temporary file, where it has not got them when it was written.
fn prepare(receiving: &Receiving, whole: &Whole, sync: bool) -> io::Result<()> {
    if whole.dressed && !sync {
        return Ok(());
    }
    let file: File = receiving.parent(&whole.path)?.write(&whole.temporary)?;
    set_file(&file, whole.moved.mode, whole.moved.mtime)?;
    if sync { receiving.flushes.of(&whole.temporary, || file.sync_all()) } else { Ok(()) }
}

/// In a run of a sync: what is about to be put in place is written down first, so that a crash between the two is no change by others.
fn intend(receiving: &Receiving, ready: &[Whole]) -> Result<(), Stop> {
    let Some(run) = &receiving.run else { return Ok(()) };
    let mut coming = Vec::with_capacity(ready.len());
    for whole in ready {
        // What cannot be looked at cannot be put in place either.
        if let Ok(Some(stat)) = receiving.parent(&whole.path).and_then(|parent| parent.stat(&whole.temporary)) {
            coming.push((whole.path.as_bytes().to_vec(), stat));
        }
    }
    run.intend(&coming).map_err(|error| receiving.own(&error))
}

fn withdraw(receiving: &Receiving, whole: &Whole) -> Result<(), Stop> {
    let Some(run) = &receiving.run else { return Ok(()) };
    run.withdraw(whole.path.as_bytes()).map_err(|error| receiving.own(&error))
}

enum Placed {
    Done,
    Conflict(FileType),
    /// Others changed what stands there.
    Others,
}

enum PlaceError {
    Io(io::Error),
    Stop(Stop),
}

impl From<io::Error> for PlaceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn place(receiving: &Receiving, whole: &Whole, folders: &mut HashMap<Vec<u8>, Folder>) -> Result<Placed, PlaceError> {
    let at = whole.path.split().0.unwrap_or_default();
    if !folders.contains_key(at) {
        folders.insert(at.to_vec(), receiving.parent(&whole.path)?);
    }
    let parent = folders.get(at).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let name = whole.path.name();
    let replaceable = |there: &FileType| matches!(there, FileType::RegularFile | FileType::Symlink);
    let there = parent.stat(name)?;
    if let Some(there) = there.as_ref().map(kind).filter(|there| !replaceable(there)) {
        return Ok(Placed::Conflict(there));
    }
    if let Some(there) = &there
        && !receiving.may_replace(whole.path.as_bytes(), parent, name, there).map_err(PlaceError::Stop)?
    {
        return Ok(Placed::Others);
    }
    parent.rename(&whole.temporary, name)?;
    let noted = receiving.note_placed(whole.path.as_bytes(), parent, name, Some(whole.moved.root));
    noted.map_err(PlaceError::Stop)?;
    Ok(Placed::Done)
}

fn sync_folders(receiving: &Receiving, folders: &HashMap<Vec<u8>, Folder>) -> io::Result<()> {
    if folders.len() < SYNC_EACH_BELOW {
        return folders.values().try_for_each(Folder::sync);
    }
    receiving.flushes.of_all(std::iter::empty(), || receiving.target()?.sync_file_system())
}

/// What is in place now, as the file system knows it. One whose name leads to another file by now is not noted.
fn to_note(receiving: &Receiving, placed: &[Whole], folders: &HashMap<Vec<u8>, Folder>) -> Vec<Published> {
    if !receiving.shared.versions.remembers() {
        return Vec::new();
    }
    let published = placed.iter().filter_map(|whole| {
        let folder = folders.get(whole.path.split().0.unwrap_or_default())?;
        let stat = folder.stat(whole.path.name()).ok().flatten()?;
        let is_ours = kind(&stat) == FileType::RegularFile && mtime(&stat) == whole.moved.mtime;
        let stat = FileStat::from(&stat);
        let digest = Digest::from_bytes(whole.moved.root);
        let path = place_of(&receiving.destination, &whole.path);
        (is_ours && stat.size == whole.moved.size).then_some(Published { path, stat, digest })
    });
    published.collect()
}

/// Notes what was published, so that it is known again without reading it. No end of a transfer waits for that.
fn note(receiving: &Receiving, published: Vec<Published>) {
    if published.is_empty() {
        return;
    }
    let (versions, root) = (receiving.shared.versions.clone(), receiving.destination.root.clone());
    // Where this program stops meanwhile, the files are read the next time.
    drop(receiving.shared.tasks.blocking("note what is in place", move || versions.published(&root, published)));
}

fn done(receiving: &Receiving, placed: Vec<Whole>) -> Result<(), Stop> {
    let mut numbers = Vec::with_capacity(placed.len());
    for whole in placed {
        receiving.pages.set_fate(whole.file, Fate::Moved(whole.moved)).map_err(|error| receiving.own(&error))?;
        receiving.files().done(whole.file);
        add(&receiving.tally.files_done, 1);
        numbers.push(whole.file);
    }
    for numbers in numbers.chunks(MAX_PUBLISHED) {
        receiving.send(ReceiverFrame::Published(numbers.to_vec()))?;
    }
    Ok(())
}
