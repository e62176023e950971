//! A whole older version that both ends hold.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
};

use crate::{anchors::AnchorIndex, read_at::ReadAt, tree::root};

/// A whole older version that both ends hold.
#[derive(Debug)]
pub struct Baseline {
    bytes: Arc<dyn ReadAt>,
    index: OnceLock<AnchorIndex>,
    building: Mutex<()>,
}

impl Baseline {
    /// The baseline; its index is made when it is first needed, unless it is given.
    #[must_use]
    pub fn new(bytes: Arc<dyn ReadAt>, index: Option<AnchorIndex>) -> Self {
        let index = index.filter(|index| index.size() == bytes.size());
        let index = index.map_or_else(OnceLock::new, OnceLock::from);
        Self { bytes, index, building: Mutex::new(()) }
    }

    /// Where its contents stand, if that is known yet.
    #[must_use]
    pub fn index(&self) -> Option<&AnchorIndex> {
        self.index.get()
    }

    /// Where its contents stand, by all threads there are where that is not known yet.
    ///
    /// # Errors
    /// Where the baseline cannot be read.
    pub fn built(&self) -> io::Result<&AnchorIndex> {
        self.built_by(thread::available_parallelism().map_or(1, usize::from))
    }

    /// The same by so many threads.
    ///
    /// # Errors
    /// Where the baseline cannot be read.
    pub fn built_by(&self, threads: usize) -> io::Result<&AnchorIndex> {
        if self.index.get().is_none() {
            let _alone = self.building.lock().unwrap_or_else(PoisonError::into_inner);
            if self.index.get().is_none() {
                let index = AnchorIndex::build(&self.bytes, threads)?;
                return Ok(self.index.get_or_init(|| index));
            }
        }
        self.index.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &Arc<dyn ReadAt> {
        &self.bytes
    }

    /// Its BLAKE3; and in the same reading its index, where a new version of `size` bytes is likely to need one: contents have moved
    /// unless it is as long.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn root_for(&self, size: u64, threads: usize) -> io::Result<[u8; 32]> {
        if self.index.get().is_some() || size == self.bytes.size() {
            return self.root(threads);
        }
        let (index, root) = AnchorIndex::survey(&self.bytes, threads, true)?;
        self.index.get_or_init(|| index);
        Ok(root)
    }

    /// Its BLAKE3.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn root(&self, threads: usize) -> io::Result<[u8; 32]> {
        root(self.bytes.as_ref(), threads)
    }
}
