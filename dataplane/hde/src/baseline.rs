//! A whole older version that both ends hold.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
};

use crate::{
    anchors::{AnchorIndex, Density},
    read_at::ReadAt,
    tree::root,
};

/// A whole older version that both ends hold.
#[derive(Debug)]
pub struct Baseline {
    bytes: Arc<dyn ReadAt>,
    usual: OnceLock<AnchorIndex>,
    fine: OnceLock<AnchorIndex>,
    building: Mutex<()>,
}

impl Baseline {
    /// The baseline; its index is made when it is first needed, unless it is given.
    #[must_use]
    pub fn new(bytes: Arc<dyn ReadAt>, index: Option<AnchorIndex>) -> Self {
        let baseline = Self { bytes, usual: OnceLock::new(), fine: OnceLock::new(), building: Mutex::new(()) };
        if let Some(index) = index.filter(|index| index.size() == baseline.bytes.size()) {
            baseline.slot(index.density()).get_or_init(|| index);
        }
        baseline
    }

    fn slot(&self, density: Density) -> &OnceLock<AnchorIndex> {
        match density.least(self.bytes.size()) {
            Density::Usual => &self.usual,
            Density::Fine => &self.fine,
        }
    }

    /// Where its contents stand, if that is known yet.
    #[must_use]
    pub fn index(&self, density: Density) -> Option<&AnchorIndex> {
        self.slot(density).get()
    }

    /// Where its contents stand, by all threads there are where that is not known yet.
    ///
    /// # Errors
    /// Where the baseline cannot be read.
    pub fn built(&self, density: Density) -> io::Result<&AnchorIndex> {
        self.built_by(density, thread::available_parallelism().map_or(1, usize::from))
    }

    /// The same by so many threads.
    ///
    /// # Errors
    /// Where the baseline cannot be read.
    pub fn built_by(&self, density: Density, threads: usize) -> io::Result<&AnchorIndex> {
        let slot = self.slot(density);
        if slot.get().is_none() {
            let _alone = self.building.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.get().is_none() {
                let index = AnchorIndex::build(&self.bytes, density, threads)?;
                return Ok(slot.get_or_init(|| index));
            }
        }
        slot.get().ok_or_else(|| io::ErrorKind::NotFound.into())
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
    pub fn root_for(&self, size: u64, density: Density, threads: usize) -> io::Result<[u8; 32]> {
        let slot = self.slot(density);
        if slot.get().is_some() || size == self.bytes.size() {
            return self.root(threads);
        }
        let (index, root) = AnchorIndex::survey(&self.bytes, density, threads, true)?;
        slot.get_or_init(|| index);
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
