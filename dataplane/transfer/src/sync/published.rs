//! What a sync published at its destination: of each file its stamp (inode, size, times) and its digest, so that what others changed since is
//! noticed and left alone.
//!
//! On disk, and of bounded memory: `published` holds records in the order of their paths' digests, `published.log` what changed since, which is
//! merged into it when it has grown. Before a file is put in place its coming stamp is written down durably (an *intent*), so that a crash between
//! that and the note of it is no change by others.

mod record;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use foundation_runtime::durable;

use self::record::{Kind, RECORD_BYTES, Record, decode, encode};
pub(crate) use self::record::{PathKey, Stamp, read_any_record};

/// Records of the log in memory, some 20 MB; then they are merged.
const MAX_CHANGES: usize = 100_000;
/// What may stand at one path after crashes; each but the last took one.
const MAX_INTENTS: usize = 16;
/// Records that are read at once where one is looked for.
const WINDOW: usize = 32;

const FILE: &str = "published";
const LOG: &str = "published.log";
/// What was damaged, for somebody to look at.
const ASIDE: &str = "published.damaged";
/// The same, of the log.
const LOG_ASIDE: &str = "published.log.damaged";
/// All that may be set aside in a sync's folder.
pub(super) const ASIDES: [&str; 2] = [ASIDE, LOG_ASIDE];

/// What the log says of a path.
#[derive(Clone, Debug, Default)]
struct Change {
    /// The newest note; the inner none: it was deleted.
    noted: Option<Option<Record>>,
    /// What was about to be put in place after it, the newest last: after a crash any of it may stand there, also while the next is about to be.
    intended: Vec<Record>,
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
    /// How long the log is.
    log_bytes: u64,
    /// What was set aside when it was opened.
    set_aside: Option<SetAside>,
}

/// What was damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetAside {
    pub(crate) path: PathBuf,
    /// Records that were saved.
    pub(crate) saved: u64,
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
        let (changes, logged, set_aside) = read_log(folder)?;
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(LOG))?;
        let records = bytes / u64::try_from(RECORD_BYTES).unwrap_or(1);
        // What follows is not whole: nothing is written after it.
        let log_bytes = bytes_of(logged);
        log.set_len(log_bytes)?;
        Ok(Self { folder: folder.to_owned(), sorted, records, log, changes, logged, log_bytes, set_aside })
    }

    /// What was set aside when this was opened, said once.
    pub(crate) fn take_set_aside(&mut self) -> Option<SetAside> {
        self.set_aside.take()
    }

    /// How a file stands to what was published.
    pub(crate) fn standing(&self, key: PathKey, now: &Stamp) -> io::Result<Standing> {
        let intended = self.changes.get(&key).map_or(&[][..], |change| &change.intended);
        if intended.iter().any(|intended| intended.stamp.is(now) == Some(true)) {
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
            Some(change) if !change.intended.is_empty() => self.put(Kind::Intent, key, None),
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
        if let Err(error) = self.log.write_all(&encode(kind, key, record)) {
            // Half a record would hide what is written after it.
            self.log.set_len(self.log_bytes)?;
            return Err(error);
        }
        self.log_bytes += RECORD_BYTES as u64;
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
        let open: Vec<_> = self
            .changes
            .iter()
            .flat_map(|(key, change)| change.intended.iter().map(|record| (*key, *record)))
            .collect();
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

    /// Sets damaged records aside, and goes on with those that are whole. Files of the others are not known as this sync's any more: equal ones are taken
    /// as such again, others are left alone.
    pub(crate) fn mend(&mut self) -> io::Result<SetAside> {
        let (path, aside) = (self.folder.join(FILE), self.folder.join(ASIDE));
        let mut saved = 0_u64;
        let mut last = None;
        let made = self.folder.join("published.new");
        let mut out =
            BufWriter::new(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&made)?);
        let mut reader = BufReader::new(File::open(&path)?);
        let mut bytes = [0; RECORD_BYTES];
        while reader.read_exact(&mut bytes).is_ok() {
            let Some((kind, key, Some(record))) = decode(&bytes).filter(|(_, key, _)| last < Some(*key)) else {
                continue;
            };
            out.write_all(&encode(kind, key, Some(record)))?;
            (last, saved) = (Some(key), saved + 1);
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        // At no moment is there no record: a death in between finds the damaged one once more.
        durable::remove(&aside)?;
        if fs::hard_link(&path, &aside).is_err() {
            fs::copy(&path, &aside)?;
        }
        fs::rename(&made, &path)?;
        durable::sync_folder(&self.folder)?;
        *self = Self::open(&self.folder)?;
        Ok(SetAside { path: aside, saved })
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

/// The log's length of so many records.
fn bytes_of(records: usize) -> u64 {
    u64::try_from(records.saturating_mul(RECORD_BYTES)).unwrap_or(u64::MAX)
}

/// Reads the log: what it says, and how many records stand for that on the disk. One that is not whole before others that are was damaged: the log is
/// set aside, and those that are whole go on. Each says of its path how it is at last, whatever was said of it before, so what was lost is at most
/// that a file of the sync's is taken for another's.
fn read_log(folder: &Path) -> io::Result<(HashMap<PathKey, Change>, usize, Option<SetAside>)> {
    let path = folder.join(LOG);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((HashMap::new(), 0, None)),
        Err(error) => return Err(error),
    };
    let (mut changes, mut whole, mut last) = (HashMap::new(), Vec::new(), 0);
    for (at, one) in bytes.as_chunks::<RECORD_BYTES>().0.iter().enumerate() {
        let Some((kind, key, record)) = decode(one) else { continue };
        apply(&mut changes, kind, key, record);
        whole.extend_from_slice(one);
        last = at + 1;
    }
    let count = whole.len() / RECORD_BYTES;
    if count == last {
        return Ok((changes, count, None));
    }
    let aside = folder.join(LOG_ASIDE);
    durable::replace(&aside, &bytes, 0o600)?;
    durable::replace(&path, &whole, 0o600)?;
    Ok((changes, count, Some(SetAside { path: aside, saved: u64::try_from(count).unwrap_or(u64::MAX) })))
}

fn head(key: PathKey) -> u64 {
    key.head()
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
        Kind::Noted => *change = Change { noted: Some(record), intended: Vec::new() },
        Kind::Intent => match record {
            Some(record) => {
                change.intended.retain(|before| *before != record);
                if change.intended.len() >= MAX_INTENTS {
                    change.intended.remove(0);
                }
                change.intended.push(record);
            }
            // The newest was withdrawn; what is older may be in place.
            None => drop(change.intended.pop()),
        },
    }
    if change.noted.is_none() && change.intended.is_empty() {
        changes.remove(&key);
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
    fn what_a_crash_left_in_place_is_ours_also_while_the_next_is_about_to_be_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        published.note(key(1), stamp(1), None).unwrap();
        published.merge().unwrap();
        let ours = |published: &Published, there: &[u64]| {
            for n in 1..6 {
                let wanted = if there.contains(&n) { Standing::Ours } else { Standing::Others };
                assert_eq!(published.standing(key(1), &stamp(n)).unwrap(), wanted, "{n} of {there:?}");
            }
        };
        // Crashes before any of it is noted: nobody knows which is in place.
        for n in [2, 3] {
            published.intend(&[(key(1), stamp(n))]).unwrap();
            published.merge().unwrap();
            published = Published::open(dir.path()).unwrap();
        }
        ours(&published, &[1, 2, 3]);
        published.intend(&[(key(1), stamp(4))]).unwrap();
        ours(&published, &[1, 2, 3, 4]);
        published.withdraw(key(1)).unwrap();
        ours(&published, &[1, 2, 3]);
        published.note(key(9), stamp(9), None).unwrap();
        published.merge().unwrap();
        published = Published::open(dir.path()).unwrap();
        ours(&published, &[1, 2, 3]);
        published.note(key(1), stamp(5), None).unwrap();
        ours(&published, &[5]);
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

    #[test]
    fn a_damaged_record_in_the_middle_of_the_log_is_said_and_what_follows_is_kept() {
        for hurt in [0, 30, 95] {
            let dir = tempfile::tempdir().unwrap();
            let mut published = Published::open(dir.path()).unwrap();
            for n in 0..20 {
                published.note(key(n), stamp(n), Some([7; 32])).unwrap();
            }
            published.gone(key(3)).unwrap();
            published.intend(&[(key(30), stamp(30))]).unwrap();
            drop(published);
            let path = dir.path().join(LOG);
            let mut bytes = fs::read(&path).unwrap();
            bytes[8 * RECORD_BYTES + hurt] ^= 0x10;
            // And a torn write at the end, which is no damage.
            bytes.extend([5; 100]);
            fs::write(&path, &bytes).unwrap();
            let mut published = Published::open(dir.path()).unwrap();
            let aside = published.take_set_aside().unwrap();
            assert_eq!((fs::read(&aside.path).unwrap(), aside.saved), (bytes, 21));
            assert_eq!(aside.path.file_name().unwrap(), LOG_ASIDE);
            for merged in [false, true] {
                for n in 0..40 {
                    let others = matches!(n, 3 | 8) || (20..30).contains(&n) || n > 30;
                    let wanted = if others { Standing::Others } else { Standing::Ours };
                    assert_eq!(published.standing(key(n), &stamp(n)).unwrap(), wanted, "{n} {merged}");
                }
                if !merged {
                    // It is said once, and what is written from now on is found again.
                    published = Published::open(dir.path()).unwrap();
                    assert_eq!(published.take_set_aside(), None);
                    published.note(key(8), stamp(8), None).unwrap();
                    published.gone(key(8)).unwrap();
                    published.merge().unwrap();
                }
            }
        }
    }

    #[test]
    fn a_damaged_record_is_set_aside_and_what_of_it_is_whole_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<_> = (0..500_u64).map(|n| PathKey::of(&n.to_le_bytes())).collect();
        let stamp = |n: u64| Stamp { inode: n, size: n, modified: (1, 2), changed: Some((3, 4)) };
        let mut published = Published::open(dir.path()).unwrap();
        for (n, key) in (0..).zip(&keys) {
            published.note(*key, stamp(n), Some([7; 32])).unwrap();
        }
        published.merge().unwrap();
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[100 * RECORD_BYTES + 30] ^= 1;
        bytes.truncate(400 * RECORD_BYTES + 5);
        fs::write(&path, &bytes).unwrap();
        let mut published = Published::open(dir.path()).unwrap();
        let damaged = (0..).zip(&keys).any(|(n, key)| published.standing(*key, &stamp(n)).is_err());
        assert!(damaged, "it is noticed");
        let aside = published.mend().unwrap();
        assert_eq!((fs::read(aside.path).unwrap(), aside.saved), (bytes, 399));
        let standings: Vec<_> = (0..).zip(&keys).map(|(n, key)| published.standing(*key, &stamp(n)).unwrap()).collect();
        assert_eq!(standings.iter().filter(|standing| **standing == Standing::Ours).count(), 399);
        assert_eq!(standings.iter().filter(|standing| **standing == Standing::Others).count(), 101);
        // What is noted anew is known again, and survives.
        published.note(keys[0], stamp(1000), None).unwrap();
        published.merge().unwrap();
        let published = Published::open(dir.path()).unwrap();
        assert_eq!(published.standing(keys[0], &stamp(1000)).unwrap(), Standing::Ours);
    }
}
