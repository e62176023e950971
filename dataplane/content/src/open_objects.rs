//! Which objects are open: file descriptors are bounded, and what is read is not written to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto_model::Digest;

/// Which are open, and how often.
#[derive(Debug, Default)]
pub(crate) struct OpenObjects(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    all: usize,
    each: HashMap<Digest, usize>,
}

/// One that is, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<OpenObjects>, Digest);

impl OpenObjects {
    /// A place among at most so many; else their number.
    pub(crate) fn enter(self: &Arc<Self>, digest: Digest, most: usize) -> Result<Place, usize> {
        let mut open = self.lock();
        if open.all >= most {
            return Err(open.all);
        }
        open.all += 1;
        *open.each.entry(digest).or_default() += 1;
        Ok(Place(Arc::clone(self), digest))
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().all
    }

    /// Whether somebody reads this one, or is about to.
    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.lock().each.contains_key(&digest)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.lock();
        open.all -= 1;
        if let Some(count) = open.each.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.each.remove(&self.1);
            }
        }
    }
}
