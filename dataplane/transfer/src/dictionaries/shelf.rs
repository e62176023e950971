//! Dictionaries on disk: `sent/PEER/DIGEST` beside `sent/PEER/classes`, and `received/PEER/DIGEST`. A file is what its name says, or it is removed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use blake3::Hash;
use dataplane_hde::{Class, Classes, Dictionary, MAX_CLASSES, Record};
use foundation_runtime::durable;
use proto_model::{ByteCount, PublicKey};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use serde::{Deserialize, Serialize};

/// What is known of the classes of a peer: its BLAKE3 in hex and a line's end, then JSON.
const CLASSES_FILE: &str = "classes";
/// Dictionaries of each peer that shipped them; beyond, the one that was not used for longest goes.
const MAX_RECEIVED: usize = MAX_CLASSES;

/// A file is as old as its last use.
const NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};

/// How many dictionaries there are, and how large they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DictionaryTotals {
    /// Trained here, for all peers.
    pub trained: u64,
    /// Their bytes.
    pub trained_bytes: u64,
    /// Shipped by peers.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    totals: Mutex<DictionaryTotals>,
}

/// A class as it lies on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct KeptClass {
    class: String,
    version: u32,
    dictionary: Option<String>,
    price: u64,
    held: bool,
    with: u64,
    without: u64,
    best_permille: u64,
    dropped: u32,
    pass: u64,
}

/// A dictionary's file.
struct Found {
    path: PathBuf,
    bytes: u64,
    used: (i64, i64),
    received: bool,
}

impl Shelf {
    pub(super) fn new(folder: PathBuf) -> Self {
        let this = Self { folder, totals: Mutex::default() };
        this.count();
        this
    }

    pub(super) fn totals(&self) -> DictionaryTotals {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, peer: &PublicKey) -> PathBuf {
        self.folder.join("sent").join(peer.to_string())
    }

    fn from(&self, peer: &PublicKey) -> PathBuf {
        self.folder.join("received").join(peer.to_string())
    }

    /// What was kept of the classes of a peer; where that is damaged or gone, all is learnt anew.
    pub(super) fn classes(&self, peer: &PublicKey) -> Classes {
        let folder = self.sent(peer);
        let records = fs::read(folder.join(CLASSES_FILE)).ok().and_then(|bytes| records(&bytes)).unwrap_or_default();
        Classes::kept(records, |id| read(&folder.join(id.to_hex().as_str()), id))
    }

    pub(super) fn keep_classes(
        &self,
        peer: &PublicKey,
        records: &[Record],
        dictionaries: &[Dictionary],
    ) -> io::Result<()> {
        let folder = self.sent(peer);
        if records.is_empty() && !folder.exists() {
            return Ok(());
        }
        durable::create_dir(&folder, 0o700)?;
        let names: Vec<String> = dictionaries.iter().map(|dictionary| dictionary.id().to_hex().to_string()).collect();
        for (name, dictionary) in names.iter().zip(dictionaries) {
            let path = folder.join(name);
            if !path.exists() {
                durable::replace(&path, dictionary.bytes(), 0o600)?;
            }
        }
        let bytes = kept_bytes(records)?;
        if fs::read(folder.join(CLASSES_FILE)).ok().is_none_or(|before| before != bytes) {
            durable::replace(&folder.join(CLASSES_FILE), &bytes, 0o600)?;
        }
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let is_needed = |name: &str| name == CLASSES_FILE || names.iter().any(|needed| needed == name);
            if !name.to_str().is_some_and(is_needed) {
                fs::remove_file(folder.join(name))?;
            }
        }
        Ok(())
    }

    /// A dictionary that a peer shipped: used now.
    pub(super) fn received(&self, peer: &PublicKey, id: Hash) -> Option<Dictionary> {
        let path = self.from(peer).join(id.to_hex().as_str());
        let dictionary = read(&path, id)?;
        // Where its age cannot be set it goes sooner.
        drop(fs::File::open(&path).and_then(|file| Ok(futimens(&file, &NOW)?)));
        Some(dictionary)
    }

    pub(super) fn keep_received(&self, peer: &PublicKey, dictionary: &Dictionary) -> io::Result<()> {
        let folder = self.from(peer);
        durable::create_dir(&folder, 0o700)?;
        durable::replace(&folder.join(dictionary.id().to_hex().as_str()), dictionary.bytes(), 0o600)?;
        let mut held = Vec::new();
        list(&folder, true, &mut held)?;
        held.sort_by_key(|found| found.used);
        for found in held.iter().take(held.len().saturating_sub(MAX_RECEIVED)) {
            remove(found)?;
        }
        Ok(())
    }

    /// Removes those that were not used for longest, of whatever peer, while there are more than may be.
    pub(super) fn prune(&self, most: ByteCount) -> io::Result<()> {
        let mut all = self.all()?;
        all.sort_by_key(|found| found.used);
        let mut bytes: u64 = all.iter().map(|found| found.bytes).sum();
        for found in &all {
            if bytes <= most.bytes() {
                break;
            }
            metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.dictionaries").increment(1);
            remove(found)?;
            bytes -= found.bytes;
        }
        Ok(())
    }

    /// Counts what there is.
    pub(super) fn count(&self) {
        let mut totals = DictionaryTotals::default();
        for found in self.all().unwrap_or_default() {
            let (count, bytes) = if found.received {
                (&mut totals.received, &mut totals.received_bytes)
            } else {
                (&mut totals.trained, &mut totals.trained_bytes)
            };
            *count += 1;
            *bytes += found.bytes;
        }
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        show(totals.trained_bytes + totals.received_bytes);
    }

    fn all(&self) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for (side, received) in [("sent", false), ("received", true)] {
            let peers = match fs::read_dir(self.folder.join(side)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                peers => peers?,
            };
            for peer in peers {
                list(&peer?.path(), received, &mut all)?;
            }
        }
        Ok(all)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a size that is shown")]
fn show(bytes: u64) {
    metrics::gauge!("dwcp_hde_dictionary_size_bytes").set(bytes as f64);
}

fn remove(found: &Found) -> io::Result<()> {
    crate::dictionaries::happened("evicted");
    tracing::info!(path = %found.path.display(), "a dictionary of small files was removed to make room");
    durable::remove(&found.path)
}

fn list(folder: &Path, received: bool, into: &mut Vec<Found>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(true) = name.to_str().map(|name| name.parse::<Hash>().is_ok()) else { continue };
        let data = entry.metadata()?;
        into.push(Found { path: entry.path(), bytes: data.len(), used: (data.mtime(), data.mtime_nsec()), received });
    }
    Ok(())
}

/// The dictionary in a file; one that is something else is removed.
fn read(path: &Path, id: Hash) -> Option<Dictionary> {
    let longest = u64::try_from(dataplane_hde::MAX_DICTIONARY_BYTES).unwrap_or(u64::MAX);
    let is_short = fs::metadata(path).ok()?.len() <= longest;
    let dictionary = is_short.then(|| fs::read(path).ok().and_then(|bytes| Dictionary::from_bytes(&bytes, id).ok()));
    let dictionary = dictionary.flatten();
    if dictionary.is_none() {
        tracing::warn!(path = %path.display(), "a dictionary of small files is damaged and was removed");
        drop(fs::remove_file(path));
    }
    dictionary
}

fn kept_bytes(records: &[Record]) -> io::Result<Vec<u8>> {
    let kept = |record: &Record| KeptClass {
        class: record.class.to_string(),
        version: record.version,
        dictionary: record.dictionary.map(|id| id.to_hex().to_string()),
        price: record.price,
        held: record.held,
        with: record.with,
        without: record.without,
        best_permille: record.best_permille,
        dropped: record.dropped,
        pass: record.pass,
    };
    let json = serde_json::to_vec(&records.iter().map(kept).collect::<Vec<_>>()).map_err(io::Error::from)?;
    Ok([blake3::hash(&json).to_hex().as_bytes(), b"\n", &json].concat())
}

fn records(bytes: &[u8]) -> Option<Vec<Record>> {
    let (digest, rest) = bytes.split_at_checked(2 * blake3::OUT_LEN)?;
    let json = rest.strip_prefix(b"\n")?;
    let kept: Vec<KeptClass> =
        (blake3::hash(json).to_hex().as_bytes() == digest).then(|| serde_json::from_slice(json).ok())??;
    let record = |kept: KeptClass| {
        Some(Record {
            class: Class::named(kept.class.as_bytes())?,
            version: kept.version,
            dictionary: kept.dictionary.and_then(|id| id.parse().ok()),
            price: kept.price,
            held: kept.held,
            with: kept.with,
            without: kept.without,
            best_permille: kept.best_permille,
            dropped: kept.dropped,
            pass: kept.pass,
        })
    };
    Some(kept.into_iter().filter_map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dictionary(number: u64) -> Dictionary {
        let bytes = blake3::Hasher::new().update(&number.to_le_bytes()).finalize().as_bytes().repeat(64);
        Dictionary::from_bytes(&bytes, blake3::hash(&bytes)).unwrap()
    }

    fn key(number: u8) -> PublicKey {
        let key = ed25519_dalek::SigningKey::from_bytes(&[number; 32]).verifying_key();
        PublicKey::try_from(key.as_bytes().as_slice()).unwrap()
    }

    #[test]
    fn a_peer_has_so_many_dictionaries_here_and_all_have_so_many_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("dictionaries"));
        let one = key(1);
        (0..40).for_each(|number| shelf.keep_received(&one, &dictionary(number)).unwrap());
        shelf.count();
        assert_eq!(shelf.totals(), DictionaryTotals { received: 32, received_bytes: 65_536, ..Default::default() });
        assert!(shelf.received(&one, dictionary(0).id()).is_none());
        // Used again: it stays, though it is the oldest.
        assert!(shelf.received(&one, dictionary(8).id()).is_some());
        assert!(shelf.received(&key(2), dictionary(9).id()).is_none(), "another peer's is nobody else's");
        shelf.keep_received(&key(2), &dictionary(100)).unwrap();
        shelf.prune(ByteCount::new(4096)).unwrap();
        shelf.count();
        assert_eq!(shelf.totals().received, 2);
        assert!(shelf.received(&one, dictionary(8).id()).is_some());
    }

    #[test]
    fn what_is_damaged_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, one, held) = (Shelf::new(dir.path().join("dictionaries")), key(1), dictionary(1));
        shelf.keep_received(&one, &held).unwrap();
        let path = shelf.from(&one).join(held.id().to_hex().as_str());
        fs::write(&path, b"other").unwrap();
        assert!(shelf.received(&one, held.id()).is_none() && !path.exists());

        let mut classes = Classes::default();
        let class = Class::named(b"json").unwrap();
        classes.sample(&class, b"{}", [1; 32]);
        classes.trained(&class, Some(held.clone()));
        let dictionaries: Vec<_> = classes.dictionaries().cloned().collect();
        shelf.keep_classes(&one, &classes.records(), &dictionaries).unwrap();
        assert_eq!(shelf.classes(&one).dictionary(&class), Some(&held));
        let state = shelf.sent(&one).join(CLASSES_FILE);
        let mut bytes = fs::read(&state).unwrap();
        bytes[70] ^= 1;
        fs::write(&state, bytes).unwrap();
        assert!(shelf.classes(&one).records().is_empty());
    }
}
