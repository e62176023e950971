//! How many objects are open: file descriptors are bounded.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How many are open.
#[derive(Debug, Default)]
pub(crate) struct OpenObjects(AtomicUsize);

/// One that is, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<OpenObjects>);

impl OpenObjects {
    /// A place among at most so many; else their number.
    pub(crate) fn enter(self: &Arc<Self>, most: usize) -> Result<Place, usize> {
        let entered = self.0.fetch_update(Relaxed, Relaxed, |open| (open < most).then_some(open + 1));
        entered.map(|_before| Place(Arc::clone(self)))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}
