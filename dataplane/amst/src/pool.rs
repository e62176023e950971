//! Buffers for pieces that arrive: made once and used again, since a fresh mebibyte costs the kernel 256 page faults.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::MAX_PIECE;

/// Buffers kept for later, at most; what is arriving at once at a few Gbit/s.
const MAX_KEPT: usize = 32;

/// Pieces below this get a buffer of their own size.
const SMALL: usize = 64 * 1024;

/// Hands out buffers. Clones hand out the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer of the length asked for. What stands in it at first is left over: whoever takes it writes all of it.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl Pool {
    pub(crate) fn take(&self, length: usize) -> Buffer {
        let bytes =
            if length < SMALL { vec![0; length] } else { self.lock().pop().unwrap_or_else(|| vec![0; MAX_PIECE]) };
        Buffer { bytes, length, pool: self.clone() }
    }

    /// Gives half of the kept buffers back to the system.
    pub(crate) fn shrink(&self) {
        let mut kept = self.lock();
        let half = kept.len() / 2;
        kept.truncate(half);
        kept.shrink_to_fit();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == MAX_PIECE {
            let mut kept = self.pool.lock();
            if kept.len() < MAX_KEPT {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}
