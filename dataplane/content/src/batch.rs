//! [`Batch`]: objects on their way into the store. They share what makes them durable: few files are synced one by one, many by
//! one call for their file system, before they are renamed and after.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    io::Read,
    mem,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    sync::Arc,
};

use proto_model::Digest;

use crate::{
    copy::{FromStart, copy, hash, reflink},
    folders::{Opened, occupied, place, stat_in},
    room::Promised,
    shards::Shard,
    store::{ContentError, ContentStore},
};

/// So many files are synced one by one, and held open for that; more by one call, which also writes what others have not synced.
const MAX_SYNCED_ALONE: usize = 8;
/// So many folders, likewise.
const MAX_FOLDERS_ALONE: usize = 16;
/// So many objects are put in their place at once: what a death in between costs, and the memory for their names.
const MAX_STAGED: usize = 4096;

/// Objects that are added together. Dropped, it leaves nothing; committed, they are durable.
#[derive(Debug)]
pub struct Batch {
    store: ContentStore,
    opened: Arc<Opened>,
    staged: Vec<Staged>,
    /// Folders whose names have to be durable.
    touched: BTreeSet<u8>,
    added: Vec<Added>,
    /// File systems that do not share blocks with the store's.
    not_shared: HashSet<u64>,
    /// Room for what is staged.
    room: Promised,
}

/// An object that is in the store. As long as this is held, nobody collects it: refer to it meanwhile.
#[derive(Debug)]
pub struct Added {
    /// What it is.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Whether it shares its blocks with the file that it was added from.
    pub is_shared: bool,
    store: ContentStore,
}

impl Drop for Added {
    fn drop(&mut self) {
        self.store.0.pins.unpin(self.digest);
    }
}

/// A file that is written, and not in its place.
#[derive(Debug)]
struct Staged {
    name: String,
    digest: Digest,
    size: u64,
    /// As long as it may be synced alone.
    file: Option<File>,
}

impl Batch {
    pub(crate) fn new(store: ContentStore, opened: Arc<Opened>) -> Self {
        let room = store.0.room.promised();
        Self {
            store,
            opened,
            staged: Vec::new(),
            touched: BTreeSet::new(),
            added: Vec::new(),
            not_shared: HashSet::new(),
            room,
        }
    }

    /// Adds all of an open file, from its beginning. Its blocks are shared where the file system can. Where it is known what
    /// the file is, it is not read if the store has that already, and refused if it is something else by now.
    ///
    /// # Errors
    /// It cannot be read, there is no room, or it is not what was expected.
    pub fn add_file(&mut self, file: &File, expected: Option<Digest>) -> Result<Digest, ContentError> {
        if let Some(digest) = expected
            && let Some(size) = self.present(digest)?
        {
            self.note(digest, size, false);
            self.store.0.pins.unpin(digest);
            return Ok(digest);
        }
        if let Some(digest) = self.share(file, expected)? {
            return Ok(digest);
        }
        let (name, to) = self.opened.begin()?;
        let written = self.write(FromStart::new(file), &to);
        self.stage(name, to, written, expected, false)
    }

    /// Adds an open file where that costs next to nothing: its blocks can be shared, or the store has an equal object. Gives
    /// nothing where it would have to be copied.
    ///
    /// # Errors
    /// It cannot be read, there is no room, or it is not what was expected.
    pub fn share_file(&mut self, file: &File, expected: Digest) -> Result<Option<Digest>, ContentError> {
        if let Some(size) = self.present(expected)? {
            self.note(expected, size, true);
            self.store.0.pins.unpin(expected);
            return Ok(Some(expected));
        }
        self.share(file, Some(expected))
    }

    /// The bound of the store that it goes to.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.store.limits().max_bytes.bytes()
    }

    /// Bytes that the store holds, as far as it has been counted.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.opened.shards.held().1
    }

    fn share(&mut self, file: &File, expected: Option<Digest>) -> Result<Option<Digest>, ContentError> {
        let data = file.metadata()?;
        if self.not_shared.contains(&data.dev()) {
            return Ok(None);
        }
        let (name, to) = self.opened.begin()?;
        if !reflink(file, &to) {
            self.not_shared.insert(data.dev());
            self.opened.abandon(&name)?;
            return Ok(None);
        }
        // What it shares counts as if it were its own: it is, once the other file changes.
        let bytes = data.blocks().saturating_mul(512);
        let room = self.room.write(&self.opened, &self.store.limits(), bytes);
        let written = room.and_then(|()| Ok(hash(FromStart::new(&to))?));
        self.stage(name, to, written, expected, true).map(Some)
    }

    /// Adds all that a reader gives.
    ///
    /// # Errors
    /// It cannot be read, or there is no room.
    pub fn add_reader(&mut self, from: impl Read) -> Result<Digest, ContentError> {
        let (name, to) = self.opened.begin()?;
        let written = self.write(from, &to);
        self.stage(name, to, written, None, false)
    }

    /// Makes all of it durable. What is given is not collected as long as it is held.
    ///
    /// # Errors
    /// The file system refuses: then some objects may be in the store, and nobody needs them.
    pub fn commit(mut self) -> Result<Vec<Added>, ContentError> {
        self.flush()?;
        Ok(mem::take(&mut self.added))
    }

    pub(crate) fn store(&self) -> &ContentStore {
        &self.store
    }

    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Room for so many bytes more.
    pub(crate) fn promise(&mut self, bytes: u64) -> Result<(), ContentError> {
        self.room.write(&self.opened, &self.store.limits(), bytes)
    }

    fn write(&mut self, from: impl Read, mut to: &File) -> Result<(Digest, u64), ContentError> {
        let (room, opened, limits) = (&mut self.room, &self.opened, self.store.limits());
        copy(from, &mut to, |bytes| room.write(opened, &limits, bytes))
    }

    /// Takes what was written among what is to be put in its place, or throws it away.
    pub(crate) fn stage(
        &mut self,
        name: String,
        file: File,
        written: Result<(Digest, u64), ContentError>,
        expected: Option<Digest>,
        is_shared: bool,
    ) -> Result<Digest, ContentError> {
        let checked = written.and_then(|(found, size)| match expected {
            Some(expected) if expected != found => Err(ContentError::Changed { expected, found }),
            Some(_) | None => Ok((found, size)),
        });
        let (digest, size) = match checked {
            Ok(written) => written,
            Err(error) => {
                // The first error is what the caller needs; the next start removes what is left.
                drop(self.opened.abandon(&name));
                return Err(error);
            }
        };
        self.note(digest, size, is_shared);
        let file = (self.staged.len() < MAX_SYNCED_ALONE).then_some(file);
        self.staged.push(Staged { name, digest, size, file });
        if self.staged.len() >= MAX_STAGED {
            self.flush()?;
        }
        Ok(digest)
    }

    fn note(&mut self, digest: Digest, size: u64, is_shared: bool) {
        self.store.0.pins.pin(digest);
        self.touched.insert(place(digest).0);
        self.added.push(Added { digest, size, is_shared, store: self.store.clone() });
    }

    /// The size of an object that is there already: then it is pinned.
    fn present(&self, digest: Digest) -> Result<Option<u64>, ContentError> {
        self.store.0.pins.pin(digest);
        let (shard, _name) = place(digest);
        let found = {
            let _locked = self.opened.shards.lock(shard);
            self.opened.stat(digest)
        };
        if !matches!(found, Ok(Some(_))) {
            self.store.0.pins.unpin(digest);
        }
        Ok(found?.map(|stat| u64::try_from(stat.st_size).unwrap_or_default()))
    }

    /// Puts what is staged in its place, durably.
    fn flush(&mut self) -> Result<(), ContentError> {
        let staged = mem::take(&mut self.staged);
        if staged.len() > MAX_SYNCED_ALONE {
            self.opened.sync_all()?;
        } else {
            for file in staged.iter().filter_map(|staged| staged.file.as_ref()) {
                file.sync_all()?;
            }
        }
        let mut by_shard: BTreeMap<u8, Vec<Staged>> = BTreeMap::new();
        for staged in staged {
            by_shard.entry(place(staged.digest).0).or_default().push(staged);
        }
        let left: Vec<String> = by_shard.values().flatten().map(|staged| staged.name.clone()).collect();
        let put = self.put_all(by_shard).and_then(|()| self.sync_folders());
        if put.is_err() {
            left.iter().for_each(|name| drop(self.opened.abandon(name)));
        }
        // What is in its place counts by itself.
        self.room = self.store.0.room.promised();
        put
    }

    fn put_all(&self, by_shard: BTreeMap<u8, Vec<Staged>>) -> Result<(), ContentError> {
        for (number, staged) in by_shard {
            let folder = self.opened.shard(number)?;
            let mut shard = self.opened.shards.counted(&self.opened, number)?;
            for staged in staged {
                self.put(&folder, &mut shard, &staged)?;
            }
        }
        Ok(())
    }

    fn put(&self, folder: &OwnedFd, shard: &mut Shard, staged: &Staged) -> Result<(), ContentError> {
        let (_shard, name) = place(staged.digest);
        if let Some(present) = stat_in(folder, &name)? {
            if u64::try_from(present.st_size).is_ok_and(|size| size == staged.size) {
                self.opened.abandon(&staged.name)?;
                return Ok(());
            }
            // It is not what its name says: this one is.
            self.opened.remove(staged.digest, folder, shard)?;
        }
        let bytes = occupied(&self.opened.begun(&staged.name)?);
        self.opened.put(&staged.name, folder, &name)?;
        self.opened.shards.put(shard, 1, bytes);
        Ok(())
    }

    /// Also of objects that were there: another batch may have put them a moment ago.
    fn sync_folders(&mut self) -> Result<(), ContentError> {
        let touched = mem::take(&mut self.touched);
        if touched.len() > MAX_FOLDERS_ALONE {
            self.opened.sync_all()?;
        } else {
            for number in touched {
                rustix::fs::fsync(self.opened.shard(number)?).map_err(std::io::Error::from)?;
            }
        }
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for staged in &self.staged {
            // The next start removes what is left.
            drop(self.opened.abandon(&staged.name));
        }
    }
}
