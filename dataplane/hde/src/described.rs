//! What of a segment the other end has described by a signature.

use crate::{
    signature::{Run, SignatureIndex},
    version::Version,
};

/// Finds stretches of segments; keeps its buffers.
#[derive(Debug, Default)]
pub(crate) struct Described {
    bytes: Vec<u8>,
    runs: Vec<Run>,
}

impl Described {
    /// The stretches of segment `number` that are in the described object, in order. Chunks that cross the segment's borders are found
    /// where the version can be read there.
    pub(crate) fn runs(&mut self, version: &Version, index: &SignatureIndex, number: u64, segment: &[u8]) -> &[Run] {
        self.runs.clear();
        let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let start = number.saturating_mul(version.segment_bytes().into());
        let end = start.saturating_add(wide(segment.len()));
        let context = wide(index.context_bytes());
        let before = start.min(context);
        let behind = version.size().saturating_sub(end).min(context);
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or_default();
        self.bytes.clear();
        self.bytes.resize(length(before), 0);
        let read =
            |offset, room: &mut [u8]| version.source().is_some_and(|source| source.read_at(offset, room).is_ok());
        if !read(start - before, &mut self.bytes) {
            self.bytes.clear();
        }
        let from = self.bytes.len();
        self.bytes.extend_from_slice(segment);
        let to = self.bytes.len();
        self.bytes.resize(to + length(behind), 0);
        if !read(end, &mut self.bytes[to..]) {
            self.bytes.truncate(to);
        }
        index.runs(&self.bytes, &(from..to), &mut self.runs);
        &self.runs
    }
}
