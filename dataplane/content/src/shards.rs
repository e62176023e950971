//! What lies in the 256 folders of objects: how many, and how many bytes. A folder is counted when that is first asked, by going
//! through it once, and by what is put and removed from then on.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use proto_model::Digest;
use rustix::fs::Dir;

use crate::folders::{INDEX_END, Opened, digest_of, occupied, place, stat_in, unlink};

/// What lies in the folders.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Mutex<Shard>>,
    objects: AtomicU64,
    bytes: AtomicU64,
    are_counted: AtomicBool,
}

/// One folder, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    counts: Option<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    objects: u64,
    bytes: u64,
}

/// What a file is that lies among objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    Object(Digest),
    Index(Digest),
    /// Nothing that this store put there.
    Foreign,
}

impl Default for Shards {
    fn default() -> Self {
        Self {
            shards: (0..=u8::MAX).map(|_number| Mutex::default()).collect(),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            are_counted: AtomicBool::new(false),
        }
    }
}

impl Shards {
    /// Objects and bytes of the folders that are counted.
    pub(crate) fn held(&self) -> (u64, u64) {
        (self.objects.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Nothing is put into this folder, or removed from it, while this is held.
    pub(crate) fn lock(&self, number: u8) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(number)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same of a folder that is counted from now on.
    pub(crate) fn counted<'a>(&'a self, opened: &Opened, number: u8) -> io::Result<MutexGuard<'a, Shard>> {
        let mut shard = self.lock(number);
        if shard.counts.is_none() {
            self.count_one(opened, number, &mut shard)?;
        }
        Ok(shard)
    }

    /// Counts a folder again: others may have removed things from it, or put them there.
    pub(crate) fn count_again(&self, opened: &Opened, number: u8) -> io::Result<()> {
        self.count_one(opened, number, &mut self.lock(number))
    }

    fn count_one(&self, opened: &Opened, number: u8, shard: &mut Shard) -> io::Result<()> {
        let (mut objects, mut bytes) = (0_u64, 0_u64);
        if let Some(folder) = opened.present_shard(number)? {
            for_each(&folder, number, |listed, name| {
                if let Some(stat) = stat_in(&folder, name)? {
                    objects += u64::from(matches!(listed, Listed::Object(_)));
                    bytes += occupied(&stat);
                }
                Ok(())
            })?;
        }
        let before = shard.counts.take().unwrap_or_default();
        self.objects.fetch_sub(before.objects, Relaxed);
        self.bytes.fetch_sub(before.bytes, Relaxed);
        shard.counts = Some(Counts::default());
        self.put(shard, objects, bytes);
        Ok(())
    }

    /// Counts all folders.
    pub(crate) fn count(&self, opened: &Opened) -> io::Result<()> {
        if !self.are_counted.load(Relaxed) {
            for number in 0..=u8::MAX {
                drop(self.counted(opened, number)?);
            }
            self.are_counted.store(true, Relaxed);
        }
        Ok(())
    }

    /// Something was put into a counted folder.
    pub(crate) fn put(&self, shard: &mut Shard, objects: u64, bytes: u64) {
        let counts = shard.counts.get_or_insert_default();
        counts.objects += objects;
        counts.bytes += bytes;
        self.objects.fetch_add(objects, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Something was removed from a counted folder. What was written to behind our back may count for less than it did.
    pub(crate) fn removed(&self, shard: &mut Shard, objects: u64, bytes: u64) {
        let counts = shard.counts.get_or_insert_default();
        let (objects, bytes) = (objects.min(counts.objects), bytes.min(counts.bytes));
        counts.objects -= objects;
        counts.bytes -= bytes;
        // What all folders hold is the sum of what each holds.
        self.objects.fetch_sub(objects, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

impl Opened {
    /// Removes an object, and what lies beside it. Gives the bytes that are free now. The folder is locked and counted.
    pub(crate) fn remove(&self, digest: Digest, folder: &OwnedFd, shard: &mut Shard) -> io::Result<u64> {
        let (_number, name) = place(digest);
        let mut freed = 0;
        // The index first: without an object it is a leftover, without an index an object is whole.
        for (end, is_object) in [(INDEX_END, false), ("", true)] {
            let name = format!("{name}{end}");
            if let Some(stat) = stat_in(folder, &name)? {
                unlink(folder, &name)?;
                self.shards.removed(shard, u64::from(is_object), occupied(&stat));
                freed += occupied(&stat);
            }
        }
        Ok(freed)
    }
}

/// Goes through a folder of objects.
pub(crate) fn for_each(
    folder: &OwnedFd,
    number: u8,
    mut each: impl FnMut(Listed, &str) -> io::Result<()>,
) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let of = |name: &[u8]| digest_of(number, name);
        let listed = match (of(name), name.strip_suffix(INDEX_END.as_bytes()).and_then(of)) {
            (Some(digest), _) => Listed::Object(digest),
            (None, Some(digest)) => Listed::Index(digest),
            (None, None) => Listed::Foreign,
        };
        if let Ok(name) = std::str::from_utf8(name) {
            each(listed, name)?;
        }
    }
    Ok(())
}

/// Objects that are being put, or were put and are not referred to yet: nobody collects them.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<Pinned>);

#[derive(Debug, Default)]
struct Pinned {
    counts: HashMap<Digest, usize>,
    /// While a collection looks for who needs what, everything that is pinned is remembered to its end.
    since: Option<HashSet<Digest>>,
}

impl Pins {
    pub(crate) fn pin(&self, digest: Digest) {
        let mut pinned = self.lock();
        *pinned.counts.entry(digest).or_default() += 1;
        if let Some(since) = &mut pinned.since {
            since.insert(digest);
        }
    }

    pub(crate) fn unpin(&self, digest: Digest) {
        let mut pinned = self.lock();
        if let Some(count) = pinned.counts.get_mut(&digest) {
            *count -= 1;
            if *count == 0 {
                pinned.counts.remove(&digest);
            }
        }
    }

    /// A collection looks from now on.
    pub(crate) fn watch(&self) {
        self.lock().since = Some(HashSet::new());
    }

    /// It has ended.
    pub(crate) fn unwatch(&self) {
        self.lock().since = None;
    }

    /// Whether an object was pinned at any time since a collection began to look.
    pub(crate) fn holds(&self, digest: Digest) -> bool {
        let pinned = self.lock();
        pinned.counts.contains_key(&digest) || pinned.since.as_ref().is_some_and(|since| since.contains(&digest))
    }

    fn lock(&self) -> MutexGuard<'_, Pinned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
