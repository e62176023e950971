//! Flushes of received files, one at a time. The kernel tells of a failed one once, to whoever asks first: a second one that
//! succeeds says nothing of what the first lost. So it is remembered, and what it covered counts as never written.

use std::{
    collections::HashSet,
    io,
    sync::{Mutex, PoisonError},
};

/// What an attempt can no longer make durable.
#[derive(Debug, Default)]
pub(super) struct Flushes(Mutex<Failed>);

#[derive(Debug, Default)]
struct Failed {
    /// Temporary files, by their names.
    files: HashSet<Vec<u8>>,
    /// A flush of the whole file system: what it lost may be any of them.
    all: bool,
}

impl Flushes {
    /// Makes one file durable, unless that failed before.
    pub(super) fn of(&self, name: &[u8], flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.all || failed.files.contains(name) {
            return Err(failed_before());
        }
        flush().inspect_err(|_| failed.files.extend([name.to_vec()]))
    }

    /// Makes all of a file system durable, unless that failed before for one of the files that matter.
    pub(super) fn of_all(
        &self,
        mut names: impl Iterator<Item = Vec<u8>>,
        flush: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.all || !failed.files.is_empty() && names.any(|name| failed.files.contains(&name)) {
            return Err(failed_before());
        }
        flush().inspect_err(|_| failed.all = true)
    }
}

fn failed_before() -> io::Error {
    io::Error::other("an earlier flush of it failed")
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    fn fails() -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn after_a_flush_that_failed_none_succeeds_for_what_it_covered() {
        let flushes = Flushes::default();
        flushes.of(b"a", || Ok(())).unwrap();
        flushes.of(b"a", fails).unwrap_err();
        flushes.of(b"a", || panic!("asked again")).unwrap_err();
        flushes.of_all(iter::once(b"a".to_vec()), || panic!("asked again")).unwrap_err();
        flushes.of(b"b", || Ok(())).unwrap();
        flushes.of_all(iter::once(b"b".to_vec()), || Ok(())).unwrap();

        flushes.of_all(iter::empty(), fails).unwrap_err();
        flushes.of(b"b", || panic!("asked again")).unwrap_err();
    }
}
