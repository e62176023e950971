//! Compares a page of the manifest with what is there, and says what is needed of it.

use std::{
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    sync::Arc,
};

use proto_model::{PlannedAction, PlannedChange};
use proto_wire::{
    frames::{MAX_HELD, MAX_SIGNATURE_BYTES, ReceiverFrame, Wanted, WantedFile},
    manifest::{Entry, Kind, Mtime, Page},
    piece::SMALL_FILE_BYTES,
};
use rustix::fs::{FileType, Stat};

use super::{
    files::{MAX_SEGMENTS, temporary_number},
    state::{Receiving, gone},
};
use crate::{
    confine::{Folder, kind, mode, mtime, size},
    file_hash::Segments,
    intervals::Intervals,
    journal::{FileKey, Held},
    reason::issue,
    stop::Stop,
    tally::add,
};

/// Files in one answer: their numbers take a few bytes each.
const MAX_FILES_OF_A_FRAME: usize = 4096;
/// Bytes of an answer, about: a frame holds more.
const MAX_ANSWER_BYTES: usize = MAX_SIGNATURE_BYTES + (64 << 10);

/// Goes through pages in order.
#[derive(Debug)]
pub(super) struct Comparer {
    pub(super) receiving: Arc<Receiving>,
    /// The folder of the last entry, so that it is not resolved for each of its files.
    parent: Option<(Vec<u8>, Parent)>,
    answer: Wanted,
    answer_bytes: usize,
}

#[derive(Debug)]
enum Parent {
    Open(Folder),
    /// A dry run has not made it.
    Missing,
    Failed(String),
}

impl Comparer {
    pub(super) fn new(receiving: Arc<Receiving>) -> Self {
        Self { receiving, parent: None, answer: Wanted::default(), answer_bytes: 0 }
    }

    /// Compares a page and answers it.
    pub(super) fn page(&mut self, page: &Page) -> Result<(), Stop> {
        for (index, entry) in (page.first_index..).zip(&page.entries) {
            self.entry(index, entry)?;
        }
        self.answer.page_complete = true;
        self.flush()
    }

    fn entry(&mut self, index: u64, entry: &Entry) -> Result<(), Stop> {
        let receiving = Arc::clone(&self.receiving);
        self.enter(entry)?;
        let Some((_, parent)) = &self.parent else { return Ok(()) };
        let found = match parent {
            Parent::Open(folder) => folder.stat(entry.path.name()),
            Parent::Missing => Ok(None),
            Parent::Failed(message) => {
                let message = format!("its folder is not there: {message}");
                return receiving.leave_out_because(index, entry.path.as_bytes(), issue::UNWRITABLE, message);
            }
        };
        match (found, &entry.kind) {
            (Err(error), _) => receiving.unwritable(index, &entry.path, &error),
            (Ok(found), Kind::Folder) => self.folder(index, entry, found.as_ref()),
            (Ok(found), Kind::File { size }) => self.file(index, entry, *size, found.as_ref()),
            (Ok(found), Kind::Symlink { target }) => self.link(index, entry, target, found.as_ref()),
        }
    }

    /// Opens the folder of this entry, if it is another one than before.
    fn enter(&mut self, entry: &Entry) -> Result<(), Stop> {
        let receiving = Arc::clone(&self.receiving);
        let path = entry.path.split().0.unwrap_or_default();
        if self.parent.as_ref().is_some_and(|(of, _)| of == path) {
            return Ok(());
        }
        let parent = match receiving.parent(&entry.path) {
            Ok(folder) => {
                if receiving.resuming {
                    tidy(&receiving, &folder)?;
                }
                Parent::Open(folder)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && receiving.options.dry_run => Parent::Missing,
            Err(error) => Parent::Failed(error.to_string()),
        };
        self.parent = Some((path.to_vec(), parent));
        Ok(())
    }

    pub(super) fn open_parent(&self) -> io::Result<&Folder> {
        match &self.parent {
            Some((_, Parent::Open(folder))) => Ok(folder),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn folder(&self, index: u64, entry: &Entry, found: Option<&Stat>) -> Result<(), Stop> {
        let receiving = Arc::clone(&self.receiving);
        match found.map(kind) {
            Some(FileType::Directory) => {
                let needed = 0o700;
                if !receiving.options.dry_run && found.is_some_and(|stat| mode(stat) & needed != needed) {
                    // Its own mode is set at the end. Where this fails, what is to be written below says so.
                    let opened = self.open_parent().and_then(|parent| parent.folder(entry.path.name()));
                    drop(opened.and_then(|folder| folder.set_own_mode(entry.mode | needed)));
                }
                Ok(())
            }
            Some(other) => self.conflict(index, entry, other),
            None if receiving.options.dry_run => {
                self.plan(entry, PlannedAction::Create);
                Ok(())
            }
            None => match self.open_parent().and_then(|parent| parent.make_folder(entry.path.name())) {
                Ok(()) => Ok(()),
                Err(error) => receiving.unwritable(index, &entry.path, &error),
            },
        }
    }

    fn link(&self, index: u64, entry: &Entry, target: &[u8], found: Option<&Stat>) -> Result<(), Stop> {
        let action = match found.map(kind) {
            Some(FileType::Symlink) => {
                let equal = self.open_parent().and_then(|parent| parent.link_target(entry.path.name()));
                if equal.is_ok_and(|held| held == target) {
                    return Ok(());
                }
                PlannedAction::Replace
            }
            Some(FileType::RegularFile) => PlannedAction::Replace,
            Some(other) => return self.conflict(index, entry, other),
            None => PlannedAction::Create,
        };
        if self.is_others(entry, found)? {
            return self.receiving.is_others(index, &entry.path);
        }
        if self.receiving.options.dry_run {
            self.plan(entry, action);
        }
        Ok(())
    }

    fn file(&mut self, index: u64, entry: &Entry, bytes: u64, found: Option<&Stat>) -> Result<(), Stop> {
        let receiving = Arc::clone(&self.receiving);
        if receiving.division.of(bytes).count() > MAX_SEGMENTS {
            let message = "the file is larger than its segments can be counted".to_owned();
            return receiving.leave_out_because(index, entry.path.as_bytes(), issue::UNWRITABLE, message);
        }
        match found.map(kind) {
            Some(FileType::RegularFile) => {}
            Some(FileType::Symlink) if self.is_others(entry, found)? => return receiving.is_others(index, &entry.path),
            None if !receiving.resuming && self.make_of_another(index, entry)? => return Ok(()),
            Some(FileType::Symlink) | None => {
                let action = if found.is_some() { PlannedAction::Replace } else { PlannedAction::Create };
                return self.want(index, entry, bytes, action, None);
            }
            Some(other) => return self.conflict(index, entry, other),
        }
        let old = found;
        let equal = found.is_some_and(|stat| size(stat) == bytes && same_time(mtime(stat), entry.mtime));
        let moved_mode = found.is_some_and(|stat| mode(stat) != entry.mode && stat.st_nlink > 1);
        if (!equal || receiving.options.checksum || moved_mode) && self.is_others(entry, found)? {
            return receiving.is_others(index, &entry.path);
        }
        // An empty file has no contents to compare.
        if equal && receiving.options.checksum && bytes > 0 && bytes <= SMALL_FILE_BYTES && !receiving.options.dry_run {
            return self.compare_small(index, entry, bytes);
        }
        if !equal || (receiving.options.checksum && bytes > 0 && !receiving.options.dry_run) {
            return self.want(index, entry, bytes, PlannedAction::Replace, old);
        }
        // A mode is set in place, and a file with further names has them elsewhere: it is replaced.
        if moved_mode {
            return self.want(index, entry, bytes, PlannedAction::Replace, old);
        }
        self.answer.equal_files += 1;
        self.answer.equal_bytes += bytes;
        receiving.verified(bytes, bytes);
        add(&receiving.tally.files_done, 1);
        if found.is_some_and(|stat| mode(stat) != entry.mode) {
            return self.metadata(index, entry);
        }
        if let (Some(run), Some(there)) = (&receiving.run, found) {
            run.found_equal(entry.path.as_bytes(), there).map_err(|error| receiving.own(&error))?;
        }
        Ok(())
    }

    /// Says what a small file comes to, so that it need not travel where it is equal.
    fn compare_small(&mut self, index: u64, entry: &Entry, bytes: u64) -> Result<(), Stop> {
        let contents = self.open_parent().and_then(|parent| read_small(parent, entry.path.name(), bytes));
        let Ok(contents) = contents else { return self.want(index, entry, bytes, PlannedAction::Replace, None) };
        let receiving = Arc::clone(&self.receiving);
        receiving.promise(entry, 0)?;
        {
            let mut files = receiving.files();
            files.want(index);
            files.offer(index);
        }
        let baseline = Some(*blake3::hash(&contents).as_bytes());
        self.say(WantedFile { file: index, baseline, ..WantedFile::default() })
    }

    /// Only the mode of an equal file differs.
    fn metadata(&self, index: u64, entry: &Entry) -> Result<(), Stop> {
        if self.receiving.options.dry_run {
            self.plan(entry, PlannedAction::Metadata);
            return Ok(());
        }
        let file = self.open_parent().and_then(|parent| parent.read(entry.path.name()));
        match file.and_then(|file| crate::confine::set_file(&file, entry.mode, entry.mtime)) {
            Ok(()) => match self.open_parent() {
                Ok(parent) => self.receiving.note_placed(entry.path.as_bytes(), parent, entry.path.name(), None),
                Err(_gone) => Ok(()),
            },
            Err(error) => self.receiving.unwritable(index, &entry.path, &error),
        }
    }

    /// Whether others made or changed what stands there, since this sync wrote it.
    fn is_others(&self, entry: &Entry, found: Option<&Stat>) -> Result<bool, Stop> {
        let (Some(there), Ok(parent)) = (found, self.open_parent()) else { return Ok(false) };
        Ok(!self.receiving.may_replace(entry.path.as_bytes(), parent, entry.path.name(), there)?)
    }

    fn want(
        &mut self,
        index: u64,
        entry: &Entry,
        bytes: u64,
        action: PlannedAction,
        old: Option<&Stat>,
    ) -> Result<(), Stop> {
        let receiving = Arc::clone(&self.receiving);
        if receiving.options.dry_run {
            self.plan(entry, action);
            return Ok(());
        }
        let segments = receiving.division.of(bytes);
        let key = FileKey::new(entry.path.clone(), bytes, entry.mtime, segments.segment_bytes);
        let (held, outdated) = receiving.journal().take(&key);
        // Before room is promised: it may be what they take.
        outdated.into_iter().for_each(|number| receiving.remove_temporary(&entry.path, number));
        let held = held.filter(|_| bytes > SMALL_FILE_BYTES);
        let held = held.map(|held| self.still_there(held, bytes)).transpose()?.flatten();
        let held_bytes = held.as_ref().map_or(0, |held| held_bytes(held, segments));
        let laid_out = held.as_ref().is_some_and(|held| held.laid_out);
        receiving.promise(entry, if laid_out { bytes } else { held_bytes })?;
        {
            // Under one lock: no piece may come between the two.
            let mut files = receiving.files();
            files.want(index);
            if let Some(held) = &held {
                files.resume(index, entry, receiving.division, held);
            }
        }
        receiving.verified(held_bytes, held_bytes);
        let mut file = WantedFile { file: index, ..WantedFile::default() };
        for (number, value) in held.into_iter().flat_map(|held| held.segments) {
            if file.held.len() == MAX_HELD {
                file.more = true;
                let next = WantedFile { file: index, ..WantedFile::default() };
                self.say(std::mem::replace(&mut file, next))?;
            }
            file.held.push((number, value));
        }
        match old.filter(|_| receiving.deltas && bytes > 0) {
            Some(old) => self.say_with_old(file, entry, old),
            None => self.say_with_similar(file, entry),
        }
    }

    /// What the journal says of a file, as far as it is still so on the disk: bits rot, and others may have written there.
    fn still_there(&self, mut held: Held, bytes: u64) -> Result<Option<Held>, Stop> {
        let receiving = &self.receiving;
        let name = super::files::temporary_name(receiving.id, held.number);
        let file = self.open_parent().and_then(|parent| parent.write(&name));
        let Ok(file) = file else { return Ok(None) };
        let Some(metadata) = file.metadata().ok().filter(|metadata| metadata.len() == bytes) else { return Ok(None) };
        held.laid_out = metadata.blocks().saturating_mul(512) >= bytes;
        let segments = receiving.division.of(bytes);
        let (mut seen, mut buffer, mut gone_meanwhile) = (Intervals::default(), Vec::new(), false);
        held.segments.retain(|(segment, value)| {
            gone_meanwhile |= receiving.frames.is_closed();
            let Some(len) = segments.len(*segment).filter(|_| !gone_meanwhile) else { return false };
            buffer.resize(len, 0);
            let same = file.read_exact_at(&mut buffer, segments.offset(*segment)).is_ok()
                && segments.value(*segment, &buffer) == *value;
            same && seen.insert(*segment)
        });
        if gone_meanwhile { Err(gone()) } else { Ok(Some(held)) }
    }

    fn conflict(&self, index: u64, entry: &Entry, there: FileType) -> Result<(), Stop> {
        let message = format!("at the destination stands {}; remove it there and send again", name_of(there));
        self.receiving.leave_out_because(index, entry.path.as_bytes(), issue::TYPE_CONFLICT, message)
    }

    fn plan(&self, entry: &Entry, action: PlannedAction) {
        let bytes = entry.size().into();
        self.receiving.tally.plan(|| PlannedChange { path: entry.path.as_bytes().to_vec(), action, bytes });
    }

    pub(super) fn say(&mut self, file: WantedFile) -> Result<(), Stop> {
        let bytes = 128 + 48 * file.held.len() + file.signature.len();
        if self.answer_bytes + bytes > MAX_ANSWER_BYTES || self.answer.files.len() >= MAX_FILES_OF_A_FRAME {
            self.flush()?;
        }
        self.answer_bytes += bytes;
        self.answer.files.push(file);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.answer_bytes = 0;
        let answer = std::mem::take(&mut self.answer);
        if answer == Wanted::default() { Ok(()) } else { self.receiving.send(ReceiverFrame::Wanted(answer)) }
    }
}

/// All of a small file that is as long as it should be.
pub(super) fn read_small(parent: &Folder, name: &[u8], bytes: u64) -> io::Result<Vec<u8>> {
    let file = parent.read(name)?;
    let mut contents = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    file.take(bytes + 1).read_to_end(&mut contents)?;
    if u64::try_from(contents.len()) == Ok(bytes) {
        Ok(contents)
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// All of a file that is small, however long it is.
pub(super) fn read_small_of_any_size(parent: &Folder, name: &[u8]) -> io::Result<Vec<u8>> {
    let (file, mut contents) = (parent.read(name)?, Vec::new());
    file.take(SMALL_FILE_BYTES + 1).read_to_end(&mut contents)?;
    if u64::try_from(contents.len()).is_ok_and(|bytes| bytes <= SMALL_FILE_BYTES) {
        Ok(contents)
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidData))
    }
}

/// Times are equal when they are, or when one file system keeps only seconds.
fn same_time(left: Mtime, right: Mtime) -> bool {
    left.seconds == right.seconds && (left.nanos == right.nanos || left.nanos == 0 || right.nanos == 0)
}

fn held_bytes(held: &Held, segments: Segments) -> u64 {
    let lens = held.segments.iter().filter_map(|(segment, _)| segments.len(*segment));
    lens.map(|len| u64::try_from(len).unwrap_or_default()).sum()
}

/// Removes temporary files of this transfer that no file goes on with.
fn tidy(receiving: &Receiving, folder: &Folder) -> Result<(), Stop> {
    let names = folder.list().unwrap_or_default();
    for name in names {
        let Some(number) = temporary_number(receiving.id, &name.name) else { continue };
        if receiving.journal().is_stale(number) {
            folder.remove(&name.name).map_err(|error| receiving.destination_fails(&error))?;
        }
    }
    Ok(())
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a folder",
        FileType::RegularFile => "a file",
        FileType::Symlink => "a symbolic link",
        _ => "a device, socket or pipe",
    }
}
