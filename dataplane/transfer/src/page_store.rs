//! The manifest on disk, at both ends: never whole in memory (D18). And beside it what became of each entry.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use foundation_runtime::durable;
use prost::Message;
use proto_rpc::peer;
use proto_wire::manifest::{BadPage, Entry, MAX_PAGE_BYTES, Page, TreeHasher};

use crate::fates::{Fate, Fates, Reader};

/// Decoded pages that are kept: the one being read, the one being asked for, and two more for pieces out of order.
const CACHED_PAGES: usize = 4;

/// Pages, appended in order, read at random.
#[derive(Debug)]
pub(crate) struct PageStore {
    file: File,
    fates: Fates,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    places: Vec<Place>,
    end: u64,
    cache: Vec<Arc<Page>>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    first_index: u64,
    offset: u64,
    len: usize,
}

impl PageStore {
    /// An empty store in this folder; what an earlier attempt left is gone.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        let open = |name: &str| {
            // Anew, so that what may still run of an earlier attempt writes elsewhere.
            durable::remove(&folder.join(name))?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600).open(folder.join(name))
        };
        Ok(Self { file: open("pages")?, fates: Fates::new(open("fates")?), state: Mutex::default() })
    }

    /// Appends a page.
    pub(crate) fn append(&self, page: &peer::ManifestPage) -> io::Result<()> {
        let bytes = page.encode_to_vec();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(&bytes, state.end)?;
        let place = Place { first_index: page.first_index, offset: state.end, len: bytes.len() };
        state.places.push(place);
        state.end += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// How many pages there are.
    pub(crate) fn pages(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).places.len()
    }

    /// A page by its number.
    pub(crate) fn page(&self, number: usize) -> io::Result<Option<Arc<Page>>> {
        let place = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(place) = state.places.get(number).copied() else { return Ok(None) };
            if let Some(at) = state.cache.iter().position(|page| page.first_index == place.first_index) {
                let page = state.cache.remove(at);
                state.cache.push(Arc::clone(&page));
                return Ok(Some(page));
            }
            place
        };
        let page = Arc::new(self.load(place)?);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cache.len() >= CACHED_PAGES {
            state.cache.remove(0);
        }
        state.cache.push(Arc::clone(&page));
        Ok(Some(page))
    }

    fn load(&self, place: Place) -> io::Result<Page> {
        // A page was at most this long when it was appended.
        let mut bytes = vec![0; place.len.min(2 * MAX_PAGE_BYTES)];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        let damaged = |_error| io::Error::from(io::ErrorKind::InvalidData);
        let page = peer::ManifestPage::decode(bytes.as_slice()).map_err(damaged)?;
        let damaged = |error: BadPage| io::Error::new(io::ErrorKind::InvalidData, error);
        Page::trusted(page).map_err(damaged)
    }

    /// An entry by its number.
    pub(crate) fn entry(&self, index: u64) -> io::Result<Option<Entry>> {
        let number = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.places.partition_point(|place| place.first_index <= index)
        };
        let Some(number) = number.checked_sub(1) else { return Ok(None) };
        let Some(page) = self.page(number)? else { return Ok(None) };
        let at = usize::try_from(index - page.first_index).ok();
        Ok(at.and_then(|at| page.entries.get(at)).cloned())
    }

    /// Keeps what became of an entry.
    pub(crate) fn set_fate(&self, index: u64, fate: Fate) -> io::Result<()> {
        self.fates.set(index, fate)
    }

    /// What became of entries.
    pub(crate) fn fates(&self) -> Reader<'_> {
        self.fates.read()
    }

    /// The digest of the tree of all entries that are in place, as they were read; and of those that the sender could read.
    /// At the sender both are the same.
    pub(crate) fn tree_digests(&self) -> io::Result<Digests> {
        let (mut in_place, mut sent) = (TreeHasher::default(), TreeHasher::default());
        let mut fates = self.fates.read();
        self.for_each(|index, entry| {
            let (moved, made) = match fates.get(index)? {
                Fate::Kept => (None, true),
                Fate::Moved(moved) => (Some(moved), true),
                Fate::NotMade(moved) => (moved, false),
                Fate::LeftOut => return Ok(()),
            };
            let applied = moved.map(|moved| moved.apply(entry));
            let (entry, root) = (applied.as_ref().unwrap_or(entry), moved.as_ref().map(|moved| &moved.root));
            sent.push(entry, root);
            if made {
                in_place.push(entry, root);
            }
            Ok(())
        })?;
        Ok(Digests { in_place: in_place.finish(), sent: sent.finish() })
    }

    /// All entries in order, and what became of each.
    pub(crate) fn for_each_fate(&self, mut visit: impl FnMut(u64, &Entry, Fate) -> io::Result<()>) -> io::Result<()> {
        let mut fates = self.fates.read();
        self.for_each(|index, entry| visit(index, entry, fates.get(index)?))
    }

    /// Entries from one number to before another, until the visitor has seen enough.
    pub(crate) fn for_range(&self, first: u64, end: u64, mut visit: impl FnMut(&Entry) -> bool) -> io::Result<()> {
        let mut number = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.places.partition_point(|place| place.first_index <= first).saturating_sub(1)
        };
        while let Some(page) = self.page(number)? {
            for (index, entry) in (page.first_index..).zip(&page.entries) {
                if index >= end || (index >= first && !visit(entry)) {
                    return Ok(());
                }
            }
            number += 1;
        }
        Ok(())
    }

    /// All entries, in order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(u64, &Entry) -> io::Result<()>) -> io::Result<()> {
        let mut number = 0;
        while let Some(page) = self.page(number)? {
            for (index, entry) in (page.first_index..).zip(&page.entries) {
                visit(index, entry)?;
            }
            number += 1;
        }
        Ok(())
    }
}

/// What a tree comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digests {
    /// Of what is in place.
    pub(crate) in_place: [u8; 32],
    /// Of what the sender could read.
    pub(crate) sent: [u8; 32],
}
