//! Files that are wanted, begun and not yet whole.

mod active;
mod dirty;

use std::{collections::HashMap, sync::Arc};

use dataplane_hde::{FileAt, LAG};
use proto_wire::{
    TreePath,
    frames::FileEnd,
    manifest::{Entry, Kind, MAX_FILE_BYTES, Mtime},
    piece::Header,
};

use self::active::{Active, Ended, MAX_RUNS};
pub(super) use self::{
    active::{Claim, Target},
    dirty::Dirty,
};
use super::backlog::Backlog;
use crate::{
    bit_set::BitSet,
    exclude::{TEMPORARY, TEMPORARY_END},
    fates::Moved,
    file_hash::Division,
    journal::{FileNumber, Held},
    stop::Stop,
};
use proto_model::TransferId;

/// Files begun and not whole. An honest sender has as many as its window has segments; beyond this it is none.
pub(super) const MAX_BEGUN: usize = 8192;
/// Files that are open since others are made of them; others come whole.
const MAX_SIMILAR: usize = 256;
/// New files of a transfer for which one is looked for: it costs reading.
const MAX_SOUGHT: u32 = 4096;
/// Runs of all files that are begun: a window leaves at most a thousand open in each of the hundred files that are under way.
const MAX_ALL_RUNS: usize = 2 * MAX_RUNS;
/// Segments of a file: 64 TiB in segments of 1 MiB.
pub(crate) const MAX_SEGMENTS: u64 = 1 << 26;

/// What is wanted and begun.
#[derive(Debug, Default)]
pub(super) struct Files {
    wanted: BitSet,
    /// Begun, or done.
    begun: BitSet,
    /// Of which the sender was told what is held here in their place.
    offered: BitSet,
    /// Files that are like some of them, and are referred to instead of an old version.
    similar: HashMap<u64, Arc<FileAt>>,
    /// For so many one was looked for.
    sought: u32,
    /// Wanted and neither in place nor left out.
    pub(super) outstanding: u64,
    active: HashMap<u64, Active>,
    /// Whole, and not yet in place.
    finishing: HashMap<u64, Dirty>,
    /// Ends that overtook the pieces of their files.
    early_ends: HashMap<u64, Ending>,
    /// Runs of segments of all files that are begun.
    runs: usize,
    backlog: Arc<Backlog>,
}

/// What is kept of a file's end: nothing whose length the sender chooses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) root: [u8; 32],
    attempt: u8,
    /// Size, mode and time as it was read, where these are others than the manifest's.
    pub(super) changed: Option<(u64, u32, Mtime)>,
}

impl From<&FileEnd> for Ending {
    fn from(end: &FileEnd) -> Self {
        let changed = end.entry.as_ref().map(|entry| (entry.size(), entry.mode, entry.mtime));
        Self { root: end.root, attempt: end.attempt, changed }
    }
}

/// A file whose contents are complete, to be put in place.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) file: u64,
    pub(super) path: TreePath,
    pub(super) temporary: Vec<u8>,
    pub(super) moved: Moved,
    /// Whether the temporary file has its mode and time.
    pub(super) dressed: bool,
}

/// What there is of a file that is given up.
#[derive(Debug)]
pub(super) struct Aborted {
    /// Its temporary file, where there is one.
    pub(super) begun: Option<(TreePath, FileNumber)>,
    /// How the sender read it, where it has said so.
    pub(super) moved: Option<Moved>,
    /// The same, where that came before any piece.
    pub(super) early_end: Option<Ending>,
}

/// The hidden name beside the final one.
pub(super) fn temporary_name(transfer: TransferId, number: FileNumber) -> Vec<u8> {
    let id = transfer.uuid().simple().to_string();
    [TEMPORARY, id.as_bytes(), b"-", number.0.to_string().as_bytes(), TEMPORARY_END].concat()
}

/// The number in a hidden name of this transfer.
pub(super) fn temporary_number(transfer: TransferId, name: &[u8]) -> Option<FileNumber> {
    let id = transfer.uuid().simple().to_string();
    let rest = name.strip_prefix(TEMPORARY)?.strip_prefix(id.as_bytes())?.strip_prefix(b"-")?;
    let number = std::str::from_utf8(rest.strip_suffix(TEMPORARY_END)?).ok()?;
    number.parse().ok().map(FileNumber)
}

impl Files {
    /// Counting what is not durable here.
    pub(super) fn new(backlog: Arc<Backlog>) -> Self {
        Self { backlog, ..Self::default() }
    }

    /// A file needs contents.
    pub(super) fn want(&mut self, file: u64) {
        if self.wanted.insert(file) {
            self.outstanding += 1;
        }
    }

    /// The sender is told what is held in the place of a file.
    pub(super) fn offer(&mut self, file: u64) {
        self.offered.insert(file);
    }

    /// Whether the sender was told what is held in the place of a file.
    pub(super) fn is_offered(&self, file: u64) -> bool {
        self.offered.contains(file)
    }

    /// What a file is made of that has no old version.
    pub(super) fn similar(&self, file: u64) -> Option<Arc<FileAt>> {
        self.similar.get(&file).cloned()
    }

    /// Whether one more may be looked for.
    pub(super) fn may_have_similar(&mut self) -> bool {
        self.sought = self.sought.saturating_add(1);
        self.similar.len() < MAX_SIMILAR && self.sought <= MAX_SOUGHT
    }

    /// The sender is told of a file that is like this one.
    pub(super) fn offer_similar(&mut self, file: u64, similar: FileAt) {
        self.offered.insert(file);
        self.similar.insert(file, Arc::new(similar));
    }

    /// A small file that was begun may come after all.
    pub(super) fn not_begun(&mut self, file: u64) {
        self.begun.remove(file);
    }

    /// What was written of a file without being proved is not zero.
    pub(super) fn spoiled(&mut self, file: u64, target: &Target) {
        if let Some(active) = self.active.get_mut(&file).filter(|active| active.number == target.number) {
            active.fresh = false;
        }
    }

    /// Whether another file may be made here before its sender has confirmed it: those that come by segments need room, too.
    pub(super) fn may_make(&self) -> bool {
        self.active.len() < MAX_BEGUN / 2
    }

    /// Whether a segment that refers to earlier ones is to wait until these are held. One that nobody needs does not.
    pub(super) fn waits(&self, header: &Header) -> bool {
        let Some(last) = header.segment.checked_sub(LAG) else { return false };
        match self.active.get(&header.file) {
            Some(active) if active.attempt == header.attempt => active.written.first_missing() <= last,
            Some(active) => active.attempt < header.attempt,
            None => self.wanted.contains(header.file) && !self.begun.contains(header.file),
        }
    }

    /// A wanted file is made of what is held here: its sender is to confirm it.
    pub(super) fn made(
        &mut self,
        file: u64,
        entry: &Entry,
        division: Division,
        (number, root): (FileNumber, [u8; 32]),
    ) {
        let segments = division.of(entry.size());
        let mut active = Active::new(entry.clone(), 0, number, segments);
        (active.fresh, active.created, active.made) = (false, true, Some(root));
        self.begun.insert(file);
        self.active.insert(file, active);
    }

    /// Goes on with a file of an earlier attempt.
    pub(super) fn resume(&mut self, file: u64, entry: &Entry, division: Division, held: &Held) {
        let segments = division.of(entry.size());
        let mut active = Active::new(entry.clone(), 0, held.number, segments);
        (active.fresh, active.created, active.laid_out) = (false, true, held.laid_out);
        for (segment, value) in &held.segments {
            if *segment < segments.count() && active.claimed.insert(*segment) {
                active.written.insert(*segment);
                active.hasher.add(*segment, *value);
            }
        }
        self.begun.insert(file);
        self.runs += active.claimed.runs();
        self.active.insert(file, active);
    }

    /// The temporary file of one that is begun has all of its room.
    pub(super) fn laid_out(&mut self, file: u64) {
        if let Some(active) = self.active.get_mut(&file) {
            active.laid_out = true;
        }
    }

    /// What is begun of a file is over.
    fn take_active(&mut self, file: u64) -> Option<Active> {
        let active = self.active.remove(&file)?;
        self.runs = self.runs.saturating_sub(active.claimed.runs());
        self.backlog.not_unfinished(active.dirty_bytes);
        Some(active)
    }

    /// What is begun of a file is worth nothing.
    fn give_up(&mut self, file: u64) -> Option<Active> {
        let active = self.take_active(file)?;
        self.backlog.settled(active.dirty_bytes);
        Some(active)
    }

    /// Whether a file is still being received under this number.
    pub(super) fn is_current(&self, file: u64, number: FileNumber) -> bool {
        self.active.get(&file).is_some_and(|active| active.number == number)
    }

    /// Whether a file may be begun now: it was asked for and is not begun.
    fn may_begin(&self, file: u64) -> Result<(), Stop> {
        if !self.wanted.contains(file) {
            return Err(Stop::violation(format!("file {file} was not asked for")));
        }
        if self.active.len() >= MAX_BEGUN {
            return Err(Stop::violation("more files are begun than a window holds"));
        }
        Ok(())
    }

    /// Begins a small file, which comes whole. An earlier attempt of it is over: its number is given back for removal.
    pub(super) fn begin_small(&mut self, file: u64, attempt: u8) -> Result<Option<FileNumber>, Stop> {
        self.may_begin(file)?;
        if self.begun.insert(file) {
            return Ok(None);
        }
        match self.active.get(&file) {
            Some(active) if active.attempt < attempt => Ok(self.give_up(file).map(|active| active.number)),
            _ => Err(Stop::violation(format!("file {file} came twice"))),
        }
    }

    /// Claims a segment, so that it is written once. `next` gives a number, `entry` the manifest's entry.
    pub(super) fn claim(
        &mut self,
        header: &Header,
        division: Division,
        entry: impl FnOnce() -> Result<Entry, Stop>,
        next: impl FnOnce() -> FileNumber,
    ) -> Result<Claim, Stop> {
        let file = header.file;
        let begin_anew = match self.active.get(&file) {
            None if self.begun.contains(file) => return Ok(Claim::Drop),
            None => true,
            Some(active) if header.attempt < active.attempt => return Ok(Claim::Drop),
            Some(active) => header.attempt > active.attempt,
        };
        let (mut before, mut grown) = (None, 0);
        if begin_anew {
            self.may_begin(file)?;
            let mut entry = entry()?;
            grown = header.file_bytes.saturating_sub(entry.size());
            if header.attempt == 0 && header.file_bytes != entry.size() {
                return Err(Stop::violation(format!("file {file} has another size than the manifest says")));
            }
            if !matches!(entry.kind, Kind::File { .. }) {
                return Err(Stop::violation(format!("entry {file} is no file")));
            }
            let segments = division.of(header.file_bytes);
            if header.file_bytes == 0 || header.file_bytes > MAX_FILE_BYTES || segments.count() > MAX_SEGMENTS {
                return Err(Stop::violation(format!("file {file} has a size out of range")));
            }
            entry.kind = Kind::File { size: header.file_bytes };
            self.begun.insert(file);
            before = self.give_up(file);
            self.active.insert(file, Active::new(entry, header.attempt, next(), segments));
        }
        if let Some(end) = self.early_ends.remove(&file) {
            self.ending(file, end)?;
        }
        // An end alone completes no file that has segments left; who sends more of one that is complete is no honest sender.
        let active = self.active.get_mut(&file).ok_or_else(|| Stop::violation(format!("file {file} came twice")))?;
        let runs = active.claimed.runs();
        let Some(target) = active.claim(header)? else { return Ok(Claim::Drop) };
        self.runs = (self.runs + active.claimed.runs()).saturating_sub(runs);
        if self.runs > MAX_ALL_RUNS {
            return Err(Stop::violation("files come in too many separate parts"));
        }
        let before = before.filter(|before| before.created).map(|before| before.number);
        Ok(Claim::Write(Target { grown, ..target }, before))
    }

    /// A segment is written, with so many bytes; gives the file where it is whole.
    pub(super) fn written(
        &mut self,
        file: u64,
        target: &Target,
        (segment, value): (u64, [u8; 32]),
        bytes: u64,
    ) -> Whether {
        match self.active.get_mut(&file) {
            Some(active) if active.number == target.number => {
                active.written.insert(segment);
                active.hasher.add(segment, value);
                active.dirty.push((segment, value));
                active.dirty_bytes += bytes;
                self.backlog.written(bytes);
                self.whole(file)
            }
            _ => Whether::NotYet,
        }
    }

    /// A segment did not verify: it may come again.
    pub(super) fn unclaim(&mut self, file: u64, target: &Target, segment: u64) {
        if let Some(active) = self.active.get_mut(&file).filter(|active| active.number == target.number) {
            let before = active.claimed.runs();
            active.claimed.remove(segment);
            self.runs = (self.runs + active.claimed.runs()).saturating_sub(before);
        }
    }

    /// All segments of a file were handed over at the other end.
    pub(super) fn end(&mut self, end: &FileEnd) -> Result<Whether, Stop> {
        self.ending(end.file, end.into())
    }

    fn ending(&mut self, file: u64, end: Ending) -> Result<Whether, Stop> {
        let attempt = self.active.get(&file).map(|active| active.attempt);
        if attempt.map_or(!self.begun.contains(file), |attempt| attempt < end.attempt) {
            self.may_begin(file)?;
            if self.early_ends.len() >= MAX_BEGUN {
                return Err(Stop::violation("more files are ended than a window holds"));
            }
            self.early_ends.insert(file, end);
            return Ok(Whether::NotYet);
        }
        let Some(active) = self.active.get_mut(&file).filter(|active| active.attempt == end.attempt) else {
            return Ok(Whether::NotYet);
        };
        if end.changed.is_some_and(|(size, ..)| size != active.segments.file_bytes) {
            return Err(Stop::violation(format!("file {file} ends with another size than its pieces have")));
        }
        let (mode, mtime) =
            end.changed.map_or((active.entry.mode, active.entry.mtime), |(_, mode, mtime)| (mode, mtime));
        active.end = Some(Ended { root: end.root, mode, mtime });
        Ok(self.whole(file))
    }

    fn whole(&mut self, file: u64) -> Whether {
        let Some(active) = self.active.get(&file) else { return Whether::NotYet };
        let complete = active.made.is_some() || active.written.count() == active.segments.count();
        let (Some(end), true) = (active.end, complete) else { return Whether::NotYet };
        let root = active.made.or_else(|| active.hasher.root());
        let mut active = self.take_active(file).expect("just looked up");
        if root != Some(end.root) {
            self.backlog.settled(active.dirty_bytes);
            return Whether::Corrupted(active.entry.path, active.number);
        }
        self.finishing(file, &mut active);
        let moved = active.moved(end);
        Whether::Whole(active.entry.path, active.number, moved)
    }

    /// A file is over without contents: what there is of it.
    pub(super) fn abort(&mut self, file: u64) -> Aborted {
        self.begun.insert(file);
        let early_end = self.early_ends.remove(&file);
        let Some(active) = self.give_up(file) else { return Aborted { begun: None, moved: None, early_end } };
        let moved = active.end.map(|end| active.moved(end));
        let begun = active.created.then_some((active.entry.path, active.number));
        Aborted { begun, moved, early_end }
    }

    /// A wanted file is in place, or left out; false where it was not wanted any more.
    pub(super) fn done(&mut self, file: u64) -> bool {
        let was = self.wanted.remove(file);
        if was {
            self.outstanding -= 1;
        }
        self.similar.remove(&file);
        self.finished(file);
        was
    }

    pub(super) fn is_wanted(&self, file: u64) -> bool {
        self.wanted.contains(file)
    }
}

/// Whether a file is whole.
#[derive(Debug)]
pub(super) enum Whether {
    NotYet,
    Whole(TreePath, FileNumber, Moved),
    /// All segments verified, and yet the whole does not.
    Corrupted(TreePath, FileNumber),
}
