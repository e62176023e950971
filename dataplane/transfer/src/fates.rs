//! What became of each entry: the newest in memory, and on disk only those of a tree that moves more than these. Whoever sends a
//! large tree with few changes has none on disk: they would lie far apart there, and freeing them costs more than all else.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use proto_wire::manifest::{Entry, Kind, Mtime};

/// Bytes of a fate on disk.
const FATE_BYTES: usize = 64;
/// The same, as a place in a file.
const FATE_PLACE: u64 = 64;
/// Fates in memory: about 5 MB.
const NEWEST: usize = 32_768;
/// Fates that are read at once.
const AT_ONCE: usize = 1024;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing was moved: it is equal, or has no contents.
    Kept,
    /// Its contents were moved.
    Moved(Moved),
    /// It is not in place: at the source it could not be read.
    LeftOut,
    /// It is not in place: at the destination it could not be made; the sender knows it as equal, or as it was read.
    NotMade(Option<Moved>),
}

/// A file as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) root: [u8; 32],
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) mtime: Mtime,
}

impl Moved {
    /// The entry as it was read.
    pub(crate) fn apply(&self, entry: &Entry) -> Entry {
        let kind = Kind::File { size: self.size };
        let holes = if self.size == entry.size() { entry.holes } else { 0 };
        Entry { path: entry.path.clone(), kind, mode: self.mode, mtime: self.mtime, holes, versions: entry.versions }
    }
}

/// The fates of a tree's entries, by their numbers.
#[derive(Debug)]
pub(crate) struct Fates {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    newest: HashMap<u64, Fate>,
    /// One more than the highest number on disk.
    on_disk: u64,
}

impl Fates {
    /// None yet; `file` is empty.
    pub(crate) fn new(file: File) -> Self {
        Self { file, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what became of an entry.
    pub(crate) fn set(&self, index: u64, fate: Fate) -> io::Result<()> {
        let mut state = self.state();
        state.newest.insert(index, fate);
        if state.newest.len() < NEWEST { Ok(()) } else { state.write_down(&self.file) }
    }

    /// For reading, best in order; until it is dropped nothing else is kept.
    pub(crate) fn read(&self) -> Reader<'_> {
        Reader { file: &self.file, state: self.state(), first: 0, bytes: Vec::new() }
    }
}

impl State {
    /// Writes all that is in memory: neighbours together.
    fn write_down(&mut self, file: &File) -> io::Result<()> {
        let mut all: Vec<_> = self.newest.iter().map(|(index, fate)| (*index, *fate)).collect();
        all.sort_unstable_by_key(|(index, _)| *index);
        for neighbours in all.chunk_by(|(left, _), (right, _)| left + 1 == *right) {
            let Some((first, _)) = neighbours.first() else { continue };
            let bytes: Vec<u8> = neighbours.iter().flat_map(|(_, fate)| to_bytes(*fate)).collect();
            file.write_all_at(&bytes, first * FATE_PLACE)?;
        }
        self.on_disk = all.last().map_or(self.on_disk, |(last, _)| self.on_disk.max(last + 1));
        self.newest.clear();
        Ok(())
    }
}

/// Reads fates.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    file: &'a File,
    state: MutexGuard<'a, State>,
    /// The number of the first that was read.
    first: u64,
    bytes: Vec<u8>,
}

impl Reader<'_> {
    /// What became of an entry; what nobody said anything of was kept.
    pub(crate) fn get(&mut self, index: u64) -> io::Result<Fate> {
        if let Some(fate) = self.state.newest.get(&index) {
            return Ok(*fate);
        }
        if index >= self.state.on_disk {
            return Ok(Fate::Kept);
        }
        if let Some(fate) = self.held(index) {
            return Ok(fate);
        }
        self.bytes.clear();
        self.bytes.resize(AT_ONCE * FATE_BYTES, 0);
        let mut have = 0;
        // The file ends, or has holes, where nothing was written.
        while have < self.bytes.len() {
            let place = index * FATE_PLACE + u64::try_from(have).unwrap_or_default();
            match self.file.read_at(&mut self.bytes[have..], place)? {
                0 => break,
                more => have += more,
            }
        }
        self.first = index;
        Ok(self.held(index).unwrap_or(Fate::Kept))
    }

    fn held(&self, index: u64) -> Option<Fate> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?.checked_mul(FATE_BYTES)?;
        self.bytes.get(at..)?.first_chunk().map(parse)
    }
}

/// Reads any bytes as what became of an entry.
pub(crate) fn read_any(bytes: &[u8]) {
    if let Some(fate) = bytes.first_chunk() {
        let _fate = parse(fate);
    }
}

fn to_bytes(fate: Fate) -> [u8; FATE_BYTES] {
    let mut bytes = [0; FATE_BYTES];
    match fate {
        Fate::Kept => {}
        Fate::LeftOut => bytes[0] = 2,
        Fate::NotMade(None) => bytes[0] = 3,
        Fate::Moved(moved) | Fate::NotMade(Some(moved)) => {
            bytes[0] = if matches!(fate, Fate::Moved(_)) { 1 } else { 4 };
            bytes[1..33].copy_from_slice(&moved.root);
            bytes[33..41].copy_from_slice(&moved.size.to_le_bytes());
            bytes[41..49].copy_from_slice(&moved.mtime.seconds.to_le_bytes());
            bytes[49..53].copy_from_slice(&moved.mtime.nanos.to_le_bytes());
            bytes[53..57].copy_from_slice(&moved.mode.to_le_bytes());
        }
    }
    bytes
}

fn parse(bytes: &[u8; FATE_BYTES]) -> Fate {
    fn part<const N: usize>(bytes: &[u8; FATE_BYTES], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&bytes[at..at + N]);
        out
    }
    let moved = || Moved {
        root: part(bytes, 1),
        size: u64::from_le_bytes(part(bytes, 33)),
        mtime: Mtime { seconds: i64::from_le_bytes(part(bytes, 41)), nanos: u32::from_le_bytes(part(bytes, 49)) },
        mode: u32::from_le_bytes(part(bytes, 53)),
    };
    match bytes[0] {
        0 => Fate::Kept,
        1 => Fate::Moved(moved()),
        3 => Fate::NotMade(None),
        4 => Fate::NotMade(Some(moved())),
        _ => Fate::LeftOut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(n: u64) -> Fate {
        let moved = Moved { root: [7; 32], size: n, mode: 0o640, mtime: Mtime { seconds: -1, nanos: 5 } };
        match n % 5 {
            0 => Fate::Moved(moved),
            1 => Fate::LeftOut,
            2 => Fate::NotMade(None),
            3 => Fate::NotMade(Some(moved)),
            _ => Fate::Kept,
        }
    }

    #[test]
    fn what_is_kept_is_read_wherever_it_lies_and_the_last_word_counts() {
        let newest = u64::try_from(NEWEST).unwrap();
        // Few, in memory; and so many that most are on disk, with gaps, in an order of their own.
        for (count, step) in [(500, 100), (3 * newest + 10, 3)] {
            let file = tempfile::tempfile().unwrap();
            let fates = Fates::new(file.try_clone().unwrap());
            for n in (0..count).rev().chain(0..count / 2) {
                fates.set(n * step, if n < 10 { Fate::LeftOut } else { fate(n) }).unwrap();
            }
            assert_eq!(file.metadata().unwrap().len() > 0, count > newest);
            let mut reader = fates.read();
            for index in 0..count * step + 2000 {
                let n = index / step;
                let expected = match index % step {
                    0 if n < 10.min(count) => Fate::LeftOut,
                    0 if n < count => fate(n),
                    _ => Fate::Kept,
                };
                assert_eq!(reader.get(index).unwrap(), expected, "{index} of {count}");
            }
        }
    }
}
