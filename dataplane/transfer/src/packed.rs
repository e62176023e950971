//! The names of one folder in the order of the walk, in little more than their bytes: a million of them take some 25 MB. Where
//! those of all folders that are walked at once are more than they may have together, they lie on disk, in sorted runs.

use std::{
    cell::Cell,
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    rc::Rc,
};

use foundation_runtime::durable;
use proto_wire::tree_path::{MAX_NAME_BYTES, order};

use crate::confine::Listed;

/// Bits of a place that hold a name's length, and below them the one for folders.
const LEN_BITS: u32 = 16;
/// What a name costs in memory, besides its bytes.
const PLACE_BYTES: usize = 8;
/// Names in memory, of all folders that are walked at once: some three million.
const ALL_BYTES: usize = 64 << 20;
/// What a folder may have in memory however much the others have: a tree as deep as may be adds 50 MB.
const EACH_BYTES: usize = 256 << 10;
/// Bytes of a run that are read at once.
const READ_BYTES: usize = 16 << 10;
/// A name on disk: its length and kind before it.
const HEAD_BYTES: usize = 2;

/// What the folders of one walk share.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// Where runs lie: files that have no name.
    folder: PathBuf,
    used: Cell<usize>,
    all: usize,
    each: usize,
}

impl Shelf {
    /// For a walk whose own files lie in this folder.
    pub(crate) fn new(folder: PathBuf) -> Rc<Self> {
        Rc::new(Self { folder, used: Cell::new(0), all: ALL_BYTES, each: EACH_BYTES })
    }

    fn file(&self) -> io::Result<File> {
        let path = self.folder.join("names");
        // A death between making and removing it leaves an empty one.
        durable::remove(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Why names cannot be listed.
#[derive(Debug)]
pub(crate) enum ListError {
    /// The folder cannot be read.
    Folder(io::Error),
    /// This host's own disk fails.
    Own(io::Error),
}

/// The names of a folder, in order.
#[derive(Debug)]
pub(crate) enum Sorted {
    Memory(Packed),
    Disk(Runs),
}

impl Sorted {
    /// Takes what a folder has.
    pub(crate) fn new(names: impl Iterator<Item = io::Result<Listed>>, shelf: &Rc<Shelf>) -> Result<Self, ListError> {
        let mut packed = Packed { shelf: Rc::clone(shelf), bytes: Vec::new(), places: Vec::new(), taken: 0 };
        let mut runs: Option<Runs> = None;
        for listed in names {
            packed.push(&listed.map_err(ListError::Folder)?).map_err(ListError::Folder)?;
            if packed.is_full() {
                packed.spill(&mut runs).map_err(ListError::Own)?;
            }
        }
        if runs.is_some() {
            packed.spill(&mut runs).map_err(ListError::Own)?;
        }
        packed.sort();
        Ok(runs.map_or(Self::Memory(packed), Self::Disk))
    }

    /// The next name; an error is one of this host's own disk.
    pub(crate) fn next(&mut self) -> io::Result<Option<Listed>> {
        match self {
            Self::Memory(packed) => Ok(packed.next()),
            Self::Disk(runs) => runs.next(),
        }
    }
}

/// Names in memory, and how far they were taken.
#[derive(Debug)]
pub(crate) struct Packed {
    shelf: Rc<Shelf>,
    bytes: Vec<u8>,
    /// Where a name begins, how long it is, whether it is a folder's.
    places: Vec<u64>,
    taken: usize,
}

impl Packed {
    fn cost(&self) -> usize {
        self.bytes.len() + self.places.len() * PLACE_BYTES
    }

    fn is_full(&self) -> bool {
        self.cost() > self.shelf.each && self.shelf.used.get() > self.shelf.all
    }

    fn push(&mut self, listed: &Listed) -> io::Result<()> {
        let (start, len) = (u64::try_from(self.bytes.len()), u64::try_from(listed.name.len()));
        let (Ok(start), Ok(len)) = (start, len) else { return Err(io::Error::from(io::ErrorKind::OutOfMemory)) };
        // Linux has no longer ones; 2^47 bytes of names do not fit any memory.
        if listed.name.len() > 4 * MAX_NAME_BYTES || start >= 1 << (63 - LEN_BITS) {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        }
        self.bytes.extend_from_slice(&listed.name);
        self.places.push(start << (LEN_BITS + 1) | len << 1 | u64::from(listed.is_folder));
        self.shelf.used.set(self.shelf.used.get() + listed.name.len() + PLACE_BYTES);
        Ok(())
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.places.sort_unstable_by(|left, right| order(get(bytes, *left), get(bytes, *right)));
    }

    /// Moves what is in memory to the disk, as one more run.
    fn spill(&mut self, runs: &mut Option<Runs>) -> io::Result<()> {
        self.sort();
        let runs = match runs {
            Some(runs) => runs,
            None => runs.insert(Runs { file: self.shelf.file()?, end: 0, runs: Vec::new(), heads: None }),
        };
        let (start, mut out) = (runs.end, Vec::with_capacity(READ_BYTES + 4 * MAX_NAME_BYTES));
        for place in &self.places {
            let (name, is_folder) = get(&self.bytes, *place);
            let head = u16::try_from(name.len() << 1).unwrap_or_default() | u16::from(is_folder);
            out.extend_from_slice(&head.to_le_bytes());
            out.extend_from_slice(name);
            if out.len() >= READ_BYTES {
                runs.append(&mut out)?;
            }
        }
        runs.append(&mut out)?;
        runs.runs.push(Run { at: start, end: runs.end, read: Vec::new(), taken: 0 });
        self.give_back();
        (self.bytes, self.places) = (Vec::new(), Vec::new());
        Ok(())
    }

    fn give_back(&self) {
        self.shelf.used.set(self.shelf.used.get().saturating_sub(self.cost()));
    }

    fn next(&mut self) -> Option<Listed> {
        let place = self.places.get(self.taken).copied()?;
        self.taken += 1;
        let (name, is_folder) = get(&self.bytes, place);
        Some(Listed { name: name.to_vec(), is_folder })
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn get(bytes: &[u8], place: u64) -> (&[u8], bool) {
    let start = usize::try_from(place >> (LEN_BITS + 1)).unwrap_or(usize::MAX);
    let len = usize::try_from(place >> 1 & ((1 << LEN_BITS) - 1)).unwrap_or(usize::MAX);
    let end = start.saturating_add(len);
    (bytes.get(start..end).unwrap_or_default(), place & 1 == 1)
}

/// Sorted runs of names on disk, and the next name of each.
#[derive(Debug)]
pub(crate) struct Runs {
    file: File,
    end: u64,
    runs: Vec<Run>,
    heads: Option<BinaryHeap<Reverse<Head>>>,
}

#[derive(Debug)]
struct Run {
    at: u64,
    end: u64,
    read: Vec<u8>,
    taken: usize,
}

/// The next name of a run.
#[derive(Debug)]
struct Head {
    listed: Listed,
    run: usize,
}

impl Runs {
    fn append(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.file.write_all_at(bytes, self.end)?;
        self.end += u64::try_from(bytes.len()).unwrap_or_default();
        bytes.clear();
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<Listed>> {
        let mut heads = match self.heads.take() {
            Some(heads) => heads,
            None => {
                let mut heads = BinaryHeap::with_capacity(self.runs.len());
                for (number, run) in self.runs.iter_mut().enumerate() {
                    heads.extend(run.next(&self.file)?.map(|listed| Reverse(Head { listed, run: number })));
                }
                heads
            }
        };
        let next = heads.pop().map(|Reverse(head)| head);
        if let Some(Head { run, .. }) = next
            && let Some(listed) = self.runs.get_mut(run).map(|run| run.next(&self.file)).transpose()?.flatten()
        {
            heads.push(Reverse(Head { listed, run }));
        }
        self.heads = Some(heads);
        Ok(next.map(|head| head.listed))
    }
}

impl Run {
    fn next(&mut self, file: &File) -> io::Result<Option<Listed>> {
        let Some(head) = self.bytes(file, HEAD_BYTES)? else { return Ok(None) };
        let head = head.first_chunk().copied().map(u16::from_le_bytes).unwrap_or_default();
        let Some(name) = self.bytes(file, usize::from(head >> 1))? else { return Ok(None) };
        Ok(Some(Listed { name: name.to_vec(), is_folder: head & 1 == 1 }))
    }

    /// So many bytes; none at the end of the run.
    fn bytes(&mut self, file: &File, len: usize) -> io::Result<Option<&[u8]>> {
        if self.read.len() - self.taken < len {
            self.read.drain(..self.taken);
            self.taken = 0;
            let have = self.read.len();
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            self.read.resize(have + left.min(READ_BYTES), 0);
            file.read_exact_at(&mut self.read[have..], self.at)?;
            self.at += u64::try_from(self.read.len() - have).unwrap_or_default();
        }
        let start = self.taken;
        if self.read.len() - start < len {
            return Ok(None);
        }
        self.taken += len;
        Ok(self.read.get(start..start + len))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |head: &Self| (head.listed.is_folder, head.run);
        let names = order((&self.listed.name, self.listed.is_folder), (&other.listed.name, other.listed.is_folder));
        names.then_with(|| key(self).cmp(&key(other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(all: usize, each: usize) -> (tempfile::TempDir, Rc<Shelf>) {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Rc::new(Shelf { folder: dir.path().to_path_buf(), used: Cell::new(0), all, each });
        (dir, shelf)
    }

    fn taken(mut sorted: Sorted) -> Vec<(String, bool)> {
        let names = std::iter::from_fn(|| sorted.next().unwrap());
        names.map(|listed| (String::from_utf8(listed.name).unwrap(), listed.is_folder)).collect()
    }

    #[test]
    fn names_come_back_in_the_order_of_paths_from_memory_and_from_disk() {
        let few = [("b", false), ("a", true), ("a-", false), ("a0", false), ("", false)];
        let many = (0..5000_u64).map(|n| (format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), n % 7 == 0));
        let all: Vec<_> = few.map(|(name, is_folder)| (name.to_owned(), is_folder)).into_iter().chain(many).collect();
        let mut expected = all.clone();
        expected.sort_by(|left, right| order((left.0.as_bytes(), left.1), (right.0.as_bytes(), right.1)));
        for (room, on_disk) in [(ALL_BYTES, false), (10_000, true), (0, true)] {
            let (dir, shelf) = shelf(room, 300);
            let listed =
                || all.iter().map(|(name, is_folder)| Listed { name: name.clone().into(), is_folder: *is_folder });
            let sorted = Sorted::new(listed().map(Ok), &shelf).unwrap();
            assert_eq!(matches!(sorted, Sorted::Disk(_)), on_disk);
            assert!(shelf.used.get() <= room.max(300) + 1100 || !on_disk, "{}", shelf.used.get());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "what is on disk has no name");
            assert_eq!(taken(sorted), expected);
            assert_eq!(shelf.used.get(), 0, "all is given back");
        }
    }
}
