//! Room for what comes: within the store's own bound, and above what its file system keeps free.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_model::ByteCount;

use crate::{
    folders::Opened,
    store::{ContentError, Limits},
};

/// Files take whole blocks on most file systems.
const BLOCK_BYTES: u64 = 4096;

/// Room is taken in steps, so that not every small object looks at the file system.
const STEP_BYTES: u64 = 4 << 20;

/// Bytes that were promised to what is being written.
#[derive(Debug, Default)]
pub(crate) struct Room(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    promised: u64,
    /// Of those, what the file system has by now.
    written: u64,
}

/// Bytes that may be written; given back when dropped, since what has been put counts by itself.
#[derive(Debug)]
pub(crate) struct Promised {
    room: Arc<Mutex<Book>>,
    bytes: u64,
    written: u64,
}

impl Room {
    /// No room yet; it grows.
    pub(crate) fn promised(&self) -> Promised {
        Promised { room: Arc::clone(&self.0), bytes: 0, written: 0 }
    }
}

impl Promised {
    /// So many bytes are written next.
    pub(crate) fn write(&mut self, opened: &Opened, limits: &Limits, bytes: u64) -> Result<(), ContentError> {
        let bytes = blocks(bytes);
        if self.written + bytes > self.bytes {
            // Near a bound only what is needed.
            match self.take(opened, limits, bytes.max(STEP_BYTES)) {
                Err(ContentError::Full { .. } | ContentError::NoSpace { .. }) => self.take(opened, limits, bytes)?,
                taken => taken?,
            }
        }
        self.written += bytes;
        self.book().written += bytes;
        Ok(())
    }

    /// Takes so many bytes more.
    fn take(&mut self, opened: &Opened, limits: &Limits, bytes: u64) -> Result<(), ContentError> {
        opened.shards.count(opened)?;
        let mut book = self.book();
        let held = opened.shards.held().1;
        let wanted = held.saturating_add(book.promised).saturating_add(bytes);
        if let Some(missing) = wanted.checked_sub(limits.max_bytes.bytes()).filter(|missing| *missing > 0) {
            return Err(ContentError::Full { max: limits.max_bytes, missing: ByteCount::new(missing) });
        }
        let (free, _all) = opened.space()?;
        let coming = book.promised.saturating_sub(book.written).saturating_add(bytes);
        let wanted = coming.saturating_add(limits.reserve.bytes());
        if let Some(missing) = wanted.checked_sub(free).filter(|missing| *missing > 0) {
            return Err(ContentError::NoSpace { reserve: limits.reserve, missing: ByteCount::new(missing) });
        }
        book.promised += bytes;
        drop(book);
        self.bytes += bytes;
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        let (bytes, written) = (self.bytes, self.written);
        let mut book = self.book();
        book.promised = book.promised.saturating_sub(bytes);
        book.written = book.written.saturating_sub(written);
    }
}

pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}
