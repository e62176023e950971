//! What a receiver holds of files that are not whole yet, so that a transfer that broke off goes on where it was.
//!
//! An append-only file of records, each with a check over its bytes; a torn end is dropped when it is read. A segment is
//! written down only after `fdatasync` of the file that holds it (D19), and what is written down is itself synced.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use proto_wire::{
    TreePath,
    manifest::{MAX_FILE_BYTES, Mtime},
    tree_path::MAX_PATH_BYTES,
};

/// The largest record: a path and some numbers.
const MAX_RECORD_BYTES: usize = MAX_PATH_BYTES + 64;
const CHECK_BYTES: usize = 8;
const FILE: u8 = 1;
const SEGMENT: u8 = 2;
const ATTEMPT: u8 = 3;
/// Numbers of an attempt begin at its own number, shifted by this: more files than a tree may have.
const ATTEMPT_SHIFT: u32 = 34;

/// The number of a file in the journal; part of its temporary name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileNumber(pub(crate) u64);

/// What makes a file the same one in a later attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    pub(crate) path: TreePath,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) segment_bytes: u32,
}

impl FileKey {
    pub(crate) fn new(path: TreePath, size: u64, mtime: Mtime, segment_bytes: u32) -> Self {
        Self { path, size, mtime: (mtime.seconds, mtime.nanos), segment_bytes }
    }
}

/// A file of an earlier attempt.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) number: FileNumber,
    /// Segments and their values.
    pub(crate) segments: Vec<(u64, [u8; 32])>,
    /// Whether the file has all of its room: not written down, but seen.
    pub(crate) laid_out: bool,
}

/// The journal, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<File>,
    /// How many attempts there were before this one.
    attempt: u64,
    next: u64,
    /// By path: a file that changed between two attempts is there more than once.
    held: HashMap<TreePath, Vec<(FileKey, Held)>>,
    taken: HashSet<FileNumber>,
}

impl Journal {
    /// Opens the journal of a transfer, and reads what an earlier attempt left.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(folder.join("journal"))?;
        let mut loaded = Loaded::default();
        let good = loaded.read(&mut BufReader::new(&mut file))?;
        file.set_len(good)?;
        file.seek(SeekFrom::End(0))?;
        let mut held: HashMap<_, Vec<_>> = HashMap::new();
        for (key, file) in loaded.files.into_values() {
            held.entry(key.path.clone()).or_default().push((key, file));
        }
        let next = loaded.attempts << ATTEMPT_SHIFT;
        let mut journal = Self { file: Arc::new(file), attempt: loaded.attempts, next, held, taken: HashSet::new() };
        let mut record = vec![ATTEMPT];
        record.extend_from_slice(&(loaded.attempts + 1).to_le_bytes());
        journal.append(&record)?;
        journal.sync()?;
        Ok(journal)
    }

    /// Whether there was an earlier attempt.
    pub(crate) fn is_resuming(&self) -> bool {
        self.attempt > 0
    }

    /// What an earlier attempt holds of this file, and the temporary files of what stood at its path before it changed: nothing goes
    /// on with them. Asked for once.
    pub(crate) fn take(&mut self, key: &FileKey) -> (Option<Held>, Vec<FileNumber>) {
        let (mut same, mut outdated) = (None, Vec::new());
        for (other, held) in self.held.remove(&key.path).into_iter().flatten() {
            match same {
                None if other == *key => same = Some(held),
                _ => outdated.push(held.number),
            }
        }
        self.taken.extend(same.as_ref().map(|held| held.number));
        (same, outdated)
    }

    /// Whether a temporary file of this number is of an earlier attempt, and nothing goes on with it.
    pub(crate) fn is_stale(&self, number: FileNumber) -> bool {
        let earlier = number.0 >> ATTEMPT_SHIFT < self.attempt;
        earlier && !self.taken.contains(&number) && !self.held.values().flatten().any(|(_, held)| held.number == number)
    }

    /// A number that no other file of this transfer had: for a temporary name.
    pub(crate) fn number(&mut self) -> FileNumber {
        let number = FileNumber(self.next);
        self.next += 1;
        number
    }

    /// Writes a file down.
    pub(crate) fn begin(&mut self, number: FileNumber, key: &FileKey) -> io::Result<()> {
        let mut record = vec![FILE];
        record.extend_from_slice(&number.0.to_le_bytes());
        record.extend_from_slice(&key.size.to_le_bytes());
        record.extend_from_slice(&key.mtime.0.to_le_bytes());
        record.extend_from_slice(&key.mtime.1.to_le_bytes());
        record.extend_from_slice(&key.segment_bytes.to_le_bytes());
        record.extend_from_slice(key.path.as_bytes());
        self.append(&record)
    }

    /// Writes down segments that are durable.
    pub(crate) fn segments(&mut self, number: FileNumber, segments: &[(u64, [u8; 32])]) -> io::Result<()> {
        let mut records = Vec::with_capacity(segments.len() * 64);
        for (segment, value) in segments {
            let mut record = vec![SEGMENT];
            record.extend_from_slice(&number.0.to_le_bytes());
            record.extend_from_slice(&segment.to_le_bytes());
            record.extend_from_slice(value);
            frame(&record, &mut records);
        }
        self.file.as_ref().write_all(&records)
    }

    /// Makes all of it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The file itself, to be made durable while others write to it.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let mut framed = Vec::with_capacity(record.len() + 2 + CHECK_BYTES);
        frame(record, &mut framed);
        self.file.as_ref().write_all(&framed)
    }
}

fn frame(record: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(record.len()).expect("a record is at most a path and some numbers");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&check(record));
    out.extend_from_slice(record);
}

fn check(record: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::hash(record).as_bytes()[..CHECK_BYTES]);
    check
}

/// Reads any bytes as a journal.
pub(crate) fn read_any(bytes: &[u8]) {
    let mut loaded = Loaded::default();
    let good = loaded.read(&mut &*bytes).expect("memory is read without an error");
    assert!(good <= u64::try_from(bytes.len()).unwrap_or(u64::MAX), "more is good than there is");
}

#[derive(Default)]
struct Loaded {
    files: HashMap<FileNumber, (FileKey, Held)>,
    attempts: u64,
}

impl Loaded {
    /// Reads records until the first that is torn; gives back where the good ones end.
    fn read(&mut self, from: &mut impl Read) -> io::Result<u64> {
        let mut good = 0;
        let mut record = vec![0; MAX_RECORD_BYTES];
        loop {
            let mut head = [0; 2 + CHECK_BYTES];
            if !fill(from, &mut head)? {
                return Ok(good);
            }
            let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
            if len > MAX_RECORD_BYTES || !fill(from, &mut record[..len])? || check(&record[..len]) != head[2..] {
                return Ok(good);
            }
            if self.take(&record[..len]).is_none() {
                return Ok(good);
            }
            good += u64::try_from(head.len() + len).unwrap_or_default();
        }
    }

    fn take(&mut self, record: &[u8]) -> Option<()> {
        let (kind, mut rest) = record.split_first()?;
        let number = FileNumber(u64::from_le_bytes(part(&mut rest)?));
        match *kind {
            FILE => {
                let size = Some(u64::from_le_bytes(part(&mut rest)?)).filter(|size| *size <= MAX_FILE_BYTES)?;
                let mtime = (i64::from_le_bytes(part(&mut rest)?), u32::from_le_bytes(part(&mut rest)?));
                let segment_bytes = u32::from_le_bytes(part(&mut rest)?);
                let path = TreePath::parse(rest).ok()?;
                let key = FileKey { path, size, mtime, segment_bytes };
                self.files.insert(number, (key, Held { number, segments: Vec::new(), laid_out: false }));
            }
            SEGMENT => {
                let segment = u64::from_le_bytes(part(&mut rest)?);
                let value = part(&mut rest)?;
                self.files.get_mut(&number)?.1.segments.push((segment, value));
            }
            ATTEMPT => self.attempts = Some(number.0).filter(|attempts| *attempts < 1 << (64 - ATTEMPT_SHIFT))?,
            _ => return None,
        }
        Some(())
    }
}

fn part<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> FileKey {
        let mtime = Mtime { seconds: -3, nanos: 4 };
        FileKey::new(TreePath::parse(path.as_bytes()).unwrap(), 9 << 20, mtime, 1 << 20)
    }

    #[test]
    fn a_torn_end_is_dropped_and_the_rest_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        assert!(!journal.is_resuming());
        let number = journal.number();
        journal.begin(number, &key("a/b")).unwrap();
        journal.segments(number, &[(3, [3; 32]), (1, [1; 32])]).unwrap();
        journal.sync().unwrap();
        let whole = std::fs::read(dir.path().join("journal")).unwrap();
        journal.segments(number, &[(5, [5; 32])]).unwrap();
        let longer = std::fs::read(dir.path().join("journal")).unwrap();
        for end in whole.len()..longer.len() {
            std::fs::write(dir.path().join("journal"), &longer[..end]).unwrap();
            let mut again = Journal::open(dir.path()).unwrap();
            assert!(again.is_resuming());
            assert!(again.take(&key("a/c")).0.is_none());
            assert!(!again.is_stale(number) && again.is_stale(FileNumber(7)));
            let held = again.take(&key("a/b")).0.unwrap();
            assert_eq!(held.segments, [(3, [3; 32]), (1, [1; 32])]);
            assert!(!again.is_stale(number) && again.take(&key("a/b")).0.is_none());
            assert_eq!(again.number(), FileNumber(1 << ATTEMPT_SHIFT));
        }
    }

    #[test]
    fn what_stood_at_a_path_before_it_changed_is_told_so_that_it_gives_its_room_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let (before, other) = (journal.number(), journal.number());
        journal.begin(before, &key("a/b")).unwrap();
        journal.begin(other, &key("a/c")).unwrap();
        journal.sync().unwrap();
        let mut again = Journal::open(dir.path()).unwrap();
        let (held, outdated) = again.take(&FileKey { size: 7, ..key("a/b") });
        assert!(held.is_none() && outdated == [before] && again.is_stale(before) && !again.is_stale(other));
    }
}
