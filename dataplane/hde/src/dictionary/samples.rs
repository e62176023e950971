//! What a dictionary is trained of.

use std::collections::BTreeMap;

/// A dictionary is trained of at most so many bytes of samples.
pub(super) const SAMPLE_BYTES: usize = 1 << 20;
/// So many objects at least …
const MIN_SAMPLES: usize = 64;
/// … with so many bytes.
const MIN_SAMPLE_BYTES: usize = 64 << 10;

/// Objects of a class: those with the least digests, as many as fit. So they are the same in whatever order the objects come.
#[derive(Debug, Default)]
pub(super) struct Samples {
    by_digest: BTreeMap<[u8; 32], Vec<u8>>,
    bytes: usize,
    /// From this digest on there was no room.
    bar: Option<[u8; 32]>,
}

impl Samples {
    pub(super) fn add(&mut self, object: &[u8], digest: [u8; 32]) {
        if self.bar.is_some_and(|bar| digest >= bar) || self.by_digest.contains_key(&digest) {
            return;
        }
        self.bytes += object.len();
        self.by_digest.insert(digest, object.to_vec());
        while self.bytes > SAMPLE_BYTES
            && let Some((digest, dropped)) = self.by_digest.pop_last()
        {
            self.bytes -= dropped.len();
            self.bar = Some(digest);
        }
    }

    pub(super) fn are_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    pub(super) fn suffice(&self) -> bool {
        self.by_digest.len() >= MIN_SAMPLES && self.bytes >= MIN_SAMPLE_BYTES
    }

    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(self).by_digest.into_values().collect()
    }
}
