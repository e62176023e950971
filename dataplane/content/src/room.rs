//! Room for what comes: within the store's own bound, and above what its file system keeps free.

use std::sync::{Arc, Mutex, PoisonError};

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
pub(crate) struct Room(Arc<Mutex<u64>>);

/// Bytes that may be written; given back when dropped, since what has been put counts by itself.
#[derive(Debug)]
pub(crate) struct Promised {
    room: Arc<Mutex<u64>>,
    bytes: u64,
    used: u64,
}

impl Room {
    /// No room yet; it grows.
    pub(crate) fn promised(&self) -> Promised {
        Promised { room: Arc::clone(&self.0), bytes: 0, used: 0 }
    }
}

impl Promised {
    /// So many bytes are written next.
    pub(crate) fn write(&mut self, opened: &Opened, limits: &Limits, bytes: u64) -> Result<(), ContentError> {
        let bytes = blocks(bytes);
        if self.used + bytes > self.bytes {
            // Near a bound only what is needed.
            match self.take(opened, limits, bytes.max(STEP_BYTES)) {
                Err(ContentError::Full { .. } | ContentError::NoSpace { .. }) => self.take(opened, limits, bytes)?,
                taken => taken?,
            }
        }
        self.used += bytes;
        Ok(())
    }

    /// Takes so many bytes more.
    fn take(&mut self, opened: &Opened, limits: &Limits, bytes: u64) -> Result<(), ContentError> {
        opened.shards.count(opened)?;
        let mut promised = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let held = opened.shards.held().1;
        let sum = promised.saturating_add(bytes);
        let max = limits.max_bytes.bytes();
        if held.saturating_add(sum) > max {
            let missing = held.saturating_add(sum) - max;
            return Err(ContentError::Full { max: limits.max_bytes, missing: ByteCount::new(missing) });
        }
        let (free, _all) = opened.space()?;
        let wanted = sum.saturating_add(limits.reserve.bytes());
        if wanted > free {
            let missing = ByteCount::new(wanted - free);
            return Err(ContentError::NoSpace { reserve: limits.reserve, missing });
        }
        *promised = sum;
        drop(promised);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        let mut promised = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        *promised = promised.saturating_sub(self.bytes);
    }
}

pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}
