//! Memory for what is read and sent, used again and again: a fresh mebibyte costs the kernel 256 page faults.

use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that are kept: as many segments as a window of the default size has.
const MAX_KEPT: usize = 32;

/// What is kept of one attempt. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// Bytes that go back to where they came from.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Option<Buffers>,
}

impl Buffers {
    /// One that was used before, if there is one. Its bytes are left over.
    pub(super) fn take(&self) -> Buffer {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { bytes: kept.unwrap_or_default(), home: Some(self.clone()) }
    }
}

impl Buffer {
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, home: None }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(Buffers(kept)) = &self.home {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < MAX_KEPT && self.bytes.capacity() > 0 {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_out_again_and_not_too_much_of_it_is_kept() {
        let buffers = Buffers::default();
        let mut first = buffers.take();
        first.bytes().resize(1 << 20, 7);
        let place = first.as_ref().as_ptr();
        drop(first);
        let again = buffers.take();
        assert!(again.as_ref().as_ptr() == place && again.as_ref().len() == 1 << 20);
        drop(Buffer::from(vec![1]));
        let mut many: Vec<_> = (0..2 * MAX_KEPT).map(|_| buffers.take()).collect();
        many.iter_mut().for_each(|buffer| buffer.bytes().push(1));
        drop((again, many));
        assert_eq!(buffers.0.lock().unwrap().len(), MAX_KEPT);
    }
}
