//! What a sync published at its destination: of each file its stamp (inode, size, times) and its digest, so that what others changed since is
//! noticed and left alone.
//!
//! On disk, and of bounded memory: `published` holds records in the order of their paths' digests, `published.log` what changed since, which is
//! merged into it when it has grown. Before a file is put in place its coming stamp is written down durably (an *intent*), so that a crash between
//! that and the note of it is no change by others.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use foundation_runtime::durable;
use rustix::fs::Stat;

/// Bytes of a record, on disk.
const RECORD_BYTES: usize = 96;
/// Records of the log in memory, some 20 MB; then they are merged.
const MAX_CHANGES: usize = 100_000;
/// Records that are read at once where one is looked for.
const WINDOW: usize = 32;

const FILE: &str = "published";
const LOG: &str = "published.log";

/// A path, by the first half of its BLAKE3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathKey([u8; 16]);

impl PathKey {
    pub(crate) fn of(path: &[u8]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&blake3::hash(path).as_bytes()[..16]);
        Self(key)
    }
}

/// A file as it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// The same; none for an intent, since nobody knows it before the file is in place.
    pub(crate) changed: Option<(i64, u32)>,
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        let time = |seconds, nanos| (seconds, u32::try_from(nanos).unwrap_or_default());
        Self {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: Some(time(stat.st_ctime, stat.st_ctime_nsec)),
        }
    }

    /// Whether a file is the one that was written down, as far as its stamp says; none where only the contents can tell: a mode, a link's count or
    /// a name changed, or more.
    fn is(&self, now: &Self) -> Option<bool> {
        if (self.inode, self.size, self.modified) != (now.inode, now.size, now.modified) {
            return Some(false);
        }
        match self.changed {
            Some(_) if self.changed != now.changed => None,
            Some(_) | None => Some(true),
        }
    }
}

/// A file as it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    stamp: Stamp,
    /// BLAKE3; none where the file was found equal, and never read here.
    digest: Option<[u8; 32]>,
}

/// What the log says of a path.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// The newest note; the inner none: it was deleted.
    noted: Option<Option<Record>>,
    /// What was about to be put in place after it.
    intended: Option<Record>,
}

/// How a file at the destination stands to what was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is what was published.
    Ours,
    /// It is if its contents have this digest.
    OursIf([u8; 32]),
    /// Others made or changed it.
    Others,
}

/// The record of one sync.
#[derive(Debug)]
pub(crate) struct Published {
    folder: PathBuf,
    sorted: Option<File>,
    records: u64,
    log: File,
    changes: HashMap<PathKey, Change>,
    /// Records that were written to the log since the last merge.
    logged: usize,
}

impl Published {
    /// Opens what there is in a folder; a log that ends in the middle of a record lost that one.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let sorted = match File::open(folder.join(FILE)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let bytes = sorted.as_ref().map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        let path = folder.join(LOG);
        let mut log = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        let mut changes = HashMap::new();
        let mut whole = 0;
        let mut reader = BufReader::new(&log);
        let mut bytes_of_one = [0; RECORD_BYTES];
        while reader.read_exact(&mut bytes_of_one).is_ok() {
            let Some((kind, key, record)) = decode(&bytes_of_one) else { break };
            apply(&mut changes, kind, key, record);
            whole += RECORD_BYTES;
        }
        // What follows is not whole: nothing is written after it.
        log.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
        log.flush()?;
        let records = bytes / u64::try_from(RECORD_BYTES).unwrap_or(1);
        let logged = whole / RECORD_BYTES;
        Ok(Self { folder: folder.to_owned(), sorted, records, log, changes, logged })
    }

    /// How a file stands to what was published.
    pub(crate) fn standing(&self, key: PathKey, now: &Stamp) -> io::Result<Standing> {
        let change = self.changes.get(&key).copied().unwrap_or_default();
        if change.intended.is_some_and(|intended| intended.stamp.is(now) == Some(true)) {
            return Ok(Standing::Ours);
        }
        Ok(match self.record(key)?.map(|record| (record.stamp.is(now), record.digest)) {
            Some((Some(true), _)) => Standing::Ours,
            Some((None, Some(digest))) => Standing::OursIf(digest),
            Some((Some(false) | None, _)) | None => Standing::Others,
        })
    }

    fn record(&self, key: PathKey) -> io::Result<Option<Record>> {
        match self.changes.get(&key).and_then(|change| change.noted) {
            Some(noted) => Ok(noted),
            None => self.find(key),
        }
    }

    /// Writes down what is about to be put in place; durable when this returns.
    pub(crate) fn intend(&mut self, coming: &[(PathKey, Stamp)]) -> io::Result<()> {
        for (key, stamp) in coming {
            let stamp = Stamp { changed: None, ..*stamp };
            self.put(Kind::Intent, *key, Some(Record { stamp, digest: None }))?;
        }
        self.log.sync_data()
    }

    /// Notes what is in place.
    pub(crate) fn note(&mut self, key: PathKey, stamp: Stamp, digest: Option<[u8; 32]>) -> io::Result<()> {
        // Where only its mode was set its contents are those of before.
        let before = if digest.is_none() { self.record(key)? } else { None };
        let same = |record: &Record| record.stamp.is(&stamp) != Some(false);
        let digest = digest.or_else(|| before.filter(same).and_then(|record| record.digest));
        self.put(Kind::Noted, key, Some(Record { stamp, digest }))
    }

    /// What was about to be put in place was not: others' file stays.
    pub(crate) fn withdraw(&mut self, key: PathKey) -> io::Result<()> {
        match self.changes.get(&key) {
            Some(change) if change.intended.is_some() => self.put(Kind::Intent, key, None),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether nothing was published, or all of it is gone.
    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0 && self.changes.values().all(|change| !matches!(change.noted, Some(Some(_))))
    }

    /// Notes what is gone.
    pub(crate) fn gone(&mut self, key: PathKey) -> io::Result<()> {
        self.put(Kind::Noted, key, None)
    }

    fn put(&mut self, kind: Kind, key: PathKey, record: Option<Record>) -> io::Result<()> {
        self.log.write_all(&encode(kind, key, record))?;
        apply(&mut self.changes, kind, key, record);
        self.logged += 1;
        if self.logged >= MAX_CHANGES { self.merge() } else { Ok(()) }
    }

    /// Merges the log into the sorted records: at the end of a run, where it is worth it, or when the log has grown.
    pub(crate) fn merge(&mut self) -> io::Result<()> {
        if self.logged < MAX_CHANGES && self.changes.values().all(|change| change.noted.is_none()) {
            return Ok(());
        }
        // An intent that nobody noted may be in place or not: it stays in the log.
        let open: Vec<_> = self.changes.iter().filter_map(|(key, change)| Some((*key, change.intended?))).collect();
        let mut changed: Vec<_> = self.changes.iter().filter_map(|(key, change)| Some((*key, change.noted?))).collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        let path = self.folder.join("published.new");
        let mut out =
            BufWriter::new(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?);
        let mut old: Old = match File::open(self.folder.join(FILE)) {
            Ok(file) => Some(BufReader::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut next = read_next(&mut old)?;
        for (key, noted) in changed {
            while let Some((held, record)) = next.filter(|(held, _)| *held < key) {
                out.write_all(&encode(Kind::Noted, held, Some(record)))?;
                next = read_next(&mut old)?;
            }
            if next.is_some_and(|(held, _)| held == key) {
                next = read_next(&mut old)?;
            }
            if let Some(record) = noted {
                out.write_all(&encode(Kind::Noted, key, Some(record)))?;
            }
        }
        while let Some((held, record)) = next {
            out.write_all(&encode(Kind::Noted, held, Some(record)))?;
            next = read_next(&mut old)?;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&path, self.folder.join(FILE))?;
        durable::sync_folder(&self.folder)?;
        // A death before the log is replaced finds the same changes again, which say the same.
        let log: Vec<u8> = open.iter().flat_map(|(key, record)| encode(Kind::Intent, *key, Some(*record))).collect();
        durable::replace(&self.folder.join(LOG), &log, 0o600)?;
        *self = Self { logged: 0, ..Self::open(&self.folder)? };
        Ok(())
    }

    /// Looks for a record; the keys are digests, so where one lies can be guessed.
    fn find(&self, key: PathKey) -> io::Result<Option<Record>> {
        let Some(file) = &self.sorted else { return Ok(None) };
        let (mut low, mut high) = (0, self.records);
        let (mut low_key, mut high_key) = (0_u64, u64::MAX);
        let wanted = head(key);
        let mut bytes = vec![0; WINDOW * RECORD_BYTES];
        while low < high {
            let width = u128::from(high - low);
            let part = u128::from(wanted.saturating_sub(low_key)) * width / (u128::from(high_key - low_key) + 1);
            let guess = low + u64::try_from(part.min(width - 1)).unwrap_or_default();
            let first = guess.saturating_sub(WINDOW as u64 / 2).max(low);
            let count = (high - first).min(WINDOW as u64);
            let bytes = &mut bytes[..usize::try_from(count).unwrap_or_default() * RECORD_BYTES];
            file.read_exact_at(bytes, first * RECORD_BYTES as u64)?;
            let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a record of what was published is damaged");
            let mut ends = None;
            for record in bytes.as_chunks::<RECORD_BYTES>().0 {
                let (_kind, held, record) = decode(record).ok_or_else(damaged)?;
                if held == key {
                    return Ok(record);
                }
                let (first, _last) = ends.unwrap_or((held, held));
                ends = Some((first, held));
            }
            let Some((first_held, last_held)) = ends else { return Ok(None) };
            if key < first_held {
                (high, high_key) = (first, head(first_held));
            } else if key > last_held {
                (low, low_key) = (first + count, head(last_held));
            } else {
                return Ok(None);
            }
            if high_key < low_key {
                return Err(damaged());
            }
        }
        Ok(None)
    }
}

fn head(key: PathKey) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&key.0[..8]);
    u64::from_be_bytes(head)
}

/// The sorted records, from the first one on.
type Old = Option<BufReader<File>>;

fn read_next(old: &mut Old) -> io::Result<Option<(PathKey, Record)>> {
    let Some(reader) = old else { return Ok(None) };
    let mut bytes = [0; RECORD_BYTES];
    match reader.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a record of what was published is damaged");
    let (_kind, key, record) = decode(&bytes).ok_or_else(damaged)?;
    Ok(record.map(|record| (key, record)))
}

fn apply(changes: &mut HashMap<PathKey, Change>, kind: Kind, key: PathKey, record: Option<Record>) {
    let change = changes.entry(key).or_default();
    match kind {
        Kind::Noted => *change = Change { noted: Some(record), intended: None },
        Kind::Intent => change.intended = record,
    }
    if change.noted.is_none() && change.intended.is_none() {
        changes.remove(&key);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Noted,
    Intent,
}

/// A kind, a key, a stamp, a digest, and a check over all of it.
fn encode(kind: Kind, key: PathKey, record: Option<Record>) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[0] = match (kind, record) {
        (Kind::Noted, Some(_)) => 1,
        (Kind::Noted, None) => 2,
        (Kind::Intent, Some(_)) => 3,
        (Kind::Intent, None) => 4,
    };
    bytes[4..20].copy_from_slice(&key.0);
    if let Some(Record { stamp, digest }) = record {
        bytes[1] = u8::from(stamp.changed.is_some());
        bytes[2] = u8::from(digest.is_some());
        bytes[20..28].copy_from_slice(&stamp.inode.to_le_bytes());
        bytes[28..36].copy_from_slice(&stamp.size.to_le_bytes());
        bytes[36..44].copy_from_slice(&stamp.modified.0.to_le_bytes());
        bytes[44..48].copy_from_slice(&stamp.modified.1.to_le_bytes());
        let changed = stamp.changed.unwrap_or_default();
        bytes[48..56].copy_from_slice(&changed.0.to_le_bytes());
        bytes[56..60].copy_from_slice(&changed.1.to_le_bytes());
        bytes[60..92].copy_from_slice(&digest.unwrap_or_default());
    }
    let check = check(&bytes);
    bytes[92..].copy_from_slice(&check);
    bytes
}

fn check(bytes: &[u8; RECORD_BYTES]) -> [u8; 4] {
    let mut check = [0; 4];
    check.copy_from_slice(&blake3::hash(&bytes[..92]).as_bytes()[..4]);
    check
}

/// None where the bytes are damaged.
fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<(Kind, PathKey, Option<Record>)> {
    fn part<const N: usize>(bytes: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&bytes[at..at + N]);
        out
    }
    if check(bytes) != part(bytes, 92) {
        return None;
    }
    let kind = match bytes[0] {
        1 | 2 => Kind::Noted,
        3 | 4 => Kind::Intent,
        _ => return None,
    };
    let stamp = Stamp {
        inode: u64::from_le_bytes(part(bytes, 20)),
        size: u64::from_le_bytes(part(bytes, 28)),
        modified: (i64::from_le_bytes(part(bytes, 36)), u32::from_le_bytes(part(bytes, 44))),
        changed: (bytes[1] == 1).then(|| (i64::from_le_bytes(part(bytes, 48)), u32::from_le_bytes(part(bytes, 56)))),
    };
    let digest = (bytes[2] == 1).then(|| part(bytes, 60));
    Some((kind, PathKey(part(bytes, 4)), matches!(bytes[0], 1 | 3).then_some(Record { stamp, digest })))
}

/// Reads any bytes as a record.
pub(crate) fn read_any_record(bytes: &[u8]) {
    if let Some(bytes) = bytes.first_chunk() {
        let _record = decode(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(n: u64) -> Stamp {
        Stamp { inode: n, size: 10 * n, modified: (5, 6), changed: Some((7, 8)) }
    }

    fn key(n: u64) -> PathKey {
        PathKey::of(format!("folder/{n}").as_bytes())
    }

    #[test]
    fn what_was_published_is_ours_and_what_others_touched_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        assert_eq!(published.standing(key(1), &stamp(1)).unwrap(), Standing::Others);
        published.note(key(1), stamp(1), Some([1; 32])).unwrap();
        assert_eq!(published.standing(key(1), &stamp(1)).unwrap(), Standing::Ours);
        assert_eq!(published.standing(key(1), &stamp(2)).unwrap(), Standing::Others);
        // A mode, or more: the contents tell.
        let touched = Stamp { changed: Some((9, 9)), ..stamp(1) };
        assert_eq!(published.standing(key(1), &touched).unwrap(), Standing::OursIf([1; 32]));
        // What was found equal was never read here.
        published.note(key(3), stamp(3), None).unwrap();
        let touched = Stamp { changed: Some((9, 9)), ..stamp(3) };
        assert_eq!(published.standing(key(3), &touched).unwrap(), Standing::Others);
        published.gone(key(1)).unwrap();
        assert_eq!(published.standing(key(1), &stamp(1)).unwrap(), Standing::Others);
    }

    #[test]
    fn a_crash_between_putting_in_place_and_noting_it_is_no_change_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        published.note(key(1), stamp(1), None).unwrap();
        published.intend(&[(key(1), stamp(2))]).unwrap();
        drop(published);
        // A torn write at the end.
        let mut log = OpenOptions::new().append(true).open(dir.path().join(LOG)).unwrap();
        log.write_all(&[3; 50]).unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        for merged in [false, true] {
            for (there, standing) in [(1, Standing::Ours), (2, Standing::Ours), (3, Standing::Others)] {
                let found = published.standing(key(1), &stamp(there)).unwrap();
                assert_eq!(found, standing, "{there} {merged}");
            }
            published.merge().unwrap();
        }
        published.note(key(1), stamp(2), None).unwrap();
        assert_eq!(published.standing(key(1), &stamp(1)).unwrap(), Standing::Others);
    }

    #[test]
    fn intents_that_came_to_nothing_neither_pile_up_nor_are_lost_while_they_may_be_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        let many = MAX_CHANGES as u64 + 2;
        let coming: Vec<_> = (0..many).map(|n| (key(n), stamp(n))).collect();
        // More than are held before a merge, none of them noted, as where others changed each of the files.
        published.intend(&coming).unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        for n in [0, many - 1] {
            assert_eq!(published.standing(key(n), &stamp(n)).unwrap(), Standing::Ours, "{n}");
        }
        for (key, _) in &coming {
            published.withdraw(*key).unwrap();
        }
        assert_eq!((published.changes.len(), published.is_empty()), (0, true));
        published.merge().unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        assert_eq!(published.standing(key(1), &stamp(1)).unwrap(), Standing::Others);
        published.note(key(1), stamp(1), None).unwrap();
        for _ in 0..2 {
            assert!(!published.is_empty());
            published.merge().unwrap();
        }
        published.gone(key(1)).unwrap();
        published.merge().unwrap();
        assert!(Published::open(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn many_records_are_found_again_after_merges_and_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        for round in 0..3_u64 {
            for n in (0..5000).filter(|n| n % 3 == round) {
                published.note(key(n), stamp(n), Some([2; 32])).unwrap();
            }
            for n in (0..5000).filter(|n| n % 50 == round) {
                published.gone(key(n)).unwrap();
            }
            published.merge().unwrap();
            published = Published::open(dir.path()).unwrap();
        }
        assert_eq!(published.changes.len(), 0);
        for n in 0..6000 {
            let gone = n >= 5000 || (n % 50 < 3 && n % 50 >= n % 3);
            let standing = if gone { Standing::Others } else { Standing::Ours };
            assert_eq!(published.standing(key(n), &stamp(n)).unwrap(), standing, "{n}");
        }
    }
}
