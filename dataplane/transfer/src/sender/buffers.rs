//! Memory for what is read and sent, used again and again: a fresh mebibyte costs the kernel 256 page faults.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of buffers that are kept: half a window.
const MAX_KEPT_BYTES: usize = 32 << 20;

/// What is kept of all transfers. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    list: Vec<Vec<u8>>,
    bytes: usize,
}

/// Bytes that go back to where they came from.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Option<Buffers>,
}

impl Buffers {
    /// One that was used before, if there is one. Its bytes are left over.
    pub(super) fn take(&self) -> Buffer {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = kept.list.pop().unwrap_or_default();
        kept.bytes -= bytes.capacity();
        drop(kept);
        Buffer { bytes, home: Some(self.clone()) }
    }

    /// Gives all of it back to the system.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
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
            let bytes = self.bytes.capacity();
            if bytes > 0 && kept.bytes + bytes <= MAX_KEPT_BYTES {
                kept.bytes += bytes;
                kept.list.push(std::mem::take(&mut self.bytes));
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
        let mut many: Vec<_> = (0..20).map(|_| buffers.take()).collect();
        many.iter_mut().for_each(|buffer| buffer.bytes().reserve_exact(4 << 20));
        drop((again, many));
        let kept = |buffers: &Buffers| buffers.0.lock().unwrap().list.len();
        // Room for eight of them, or seven besides the first.
        assert!((7..=8).contains(&kept(&buffers)), "{}", kept(&buffers));
        buffers.clear();
        assert_eq!(kept(&buffers), 0);
        assert_eq!(buffers.0.lock().unwrap().bytes, 0);
    }
}
