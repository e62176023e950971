//! Compresses literals and whole segments, with or without a prefix that both ends have, by contexts and buffers that are kept from
//! segment to segment; and makes them whole again, whatever the bytes are.
//!
//! A prefix is bytes that both ends hold and that are like the literals: zstd finds matches in it as if it stood before them. It is no part of
//! the output. The decoder allocates nothing but a context of zstd (about 160 KB): output goes into room that the caller has made.

mod unpacker;

use std::fmt;

use proto_wire::hde::LiteralCodec;
use zstd::zstd_safe::{CCtx, CParameter, ResetDirective};

pub(crate) use self::unpacker::Unpacker;
use crate::cost::{Effort, Permille};

/// The probe looks at this many pieces, evenly spread …
const PROBE_PIECES: usize = 8;
/// … of this many bytes: 3 % of a segment of 1 MiB, under 1 % of one of 4 MiB.
const PROBE_PIECE_BYTES: usize = 4 << 10;
/// What is shorter is compressed without a probe: the probe would cost as much.
pub(crate) const PROBE_FROM_BYTES: usize = 4 * PROBE_PIECES * PROBE_PIECE_BYTES;
/// The level of the probe: the fastest whose result says something of the others'.
const PROBE_LEVEL: i8 = 1;
/// Tables have at least so many places whatever the level, as a logarithm …
const FAST_TABLE_LOG: u32 = 17;
/// … and are made no larger than this for a long prefix: 16 MB. What comes last in the prefix is found first.
const MAX_TABLE_LOG: u32 = 22;

/// Compressors with their memory; one a thread.
pub(crate) struct Literals {
    /// Kept for what has no prefix. None where there was no memory for it.
    zstd: Option<CCtx<'static>>,
    /// The level that it is set to.
    level: i8,
    lz4: Option<Box<lz4_flex::block::CompressTable>>,
    snappy: Option<Box<snap::raw::Encoder>>,
    /// The compressed bytes of the present stretch.
    packed: Vec<u8>,
    sample: Vec<u8>,
}

impl fmt::Debug for Literals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Literals").finish_non_exhaustive()
    }
}

impl Default for Literals {
    fn default() -> Self {
        Self::new()
    }
}

impl Literals {
    /// Contexts are made when they are needed.
    pub(crate) const fn new() -> Self {
        Self { zstd: None, level: i8::MIN, lz4: None, snappy: None, packed: Vec::new(), sample: Vec::new() }
    }

    /// How much a sample of `bytes` keeps when it is compressed fast, in about 30 microseconds; short bytes are taken for compressible.
    pub(crate) fn probe(&mut self, bytes: &[u8]) -> Permille {
        if bytes.len() < PROBE_FROM_BYTES {
            return Permille(500);
        }
        let mut sample = std::mem::take(&mut self.sample);
        sample.clear();
        for piece in bytes.chunks(bytes.len() / PROBE_PIECES).take(PROBE_PIECES) {
            sample.extend_from_slice(&piece[..piece.len().min(PROBE_PIECE_BYTES)]);
        }
        let packed = self.zstd(&sample, PROBE_LEVEL).unwrap_or(sample.len());
        let kept = u16::try_from(packed * 1000 / sample.len()).unwrap_or(1000);
        self.sample = sample;
        Permille(kept)
    }

    /// Compressed, where that is shorter than they are. Only zstd makes use of a prefix.
    pub(crate) fn compress(&mut self, bytes: &[u8], prefix: &[u8], effort: Effort) -> Option<(LiteralCodec, &[u8])> {
        let (codec, length) = match effort {
            Effort::Store => return None,
            Effort::Zstd(level) if prefix.is_empty() => (LiteralCodec::Zstd, self.zstd(bytes, level)?),
            Effort::Zstd(level) => (LiteralCodec::Zstd, self.zstd_with_prefix(bytes, prefix, level)?),
            Effort::Lz4 => (LiteralCodec::Lz4, self.lz4(bytes)?),
            Effort::Snappy => (LiteralCodec::Snappy, self.snappy(bytes)?),
        };
        (length < bytes.len()).then(|| (codec, &self.packed[..length]))
    }

    fn zstd(&mut self, bytes: &[u8], level: i8) -> Option<usize> {
        // A context that cannot be made (no memory) makes the literals raw, not the transfer fail.
        if self.zstd.is_none() {
            self.zstd = CCtx::try_create();
            self.level = i8::MIN;
        }
        let zstd = self.zstd.as_mut()?;
        if self.level != level {
            zstd.reset(ResetDirective::SessionAndParameters).ok()?;
            zstd.set_parameter(CParameter::CompressionLevel(level.into())).ok()?;
            self.level = level;
        }
        // The capacity bounds the output: what does not become shorter is given up.
        self.packed.clear();
        self.packed.reserve(bytes.len());
        let length = zstd.compress2(&mut self.packed, bytes).ok();
        if length.is_none() {
            self.level = i8::MIN;
        }
        length
    }

    /// A context may not outlive a prefix, so this one is made anew: the allocator keeps its pages.
    fn zstd_with_prefix(&mut self, bytes: &[u8], prefix: &[u8], level: i8) -> Option<usize> {
        let mut zstd = CCtx::try_create()?;
        zstd.set_parameter(CParameter::CompressionLevel(level.into())).ok()?;
        let window = ceil_log2(prefix.len() + bytes.len()).max(10);
        zstd.set_parameter(CParameter::WindowLog(window)).ok()?;
        if let Some(tables) = table_log(prefix.len(), level) {
            zstd.set_parameter(CParameter::HashLog(tables)).ok()?;
        }
        zstd.ref_prefix(prefix).ok()?;
        self.packed.clear();
        self.packed.reserve(bytes.len());
        zstd.compress2(&mut self.packed, bytes).ok()
    }

    fn lz4(&mut self, bytes: &[u8]) -> Option<usize> {
        let table = self.lz4.get_or_insert_with(|| Box::new(lz4_flex::block::CompressTable::large()));
        grow(&mut self.packed, lz4_flex::block::get_maximum_output_size(bytes.len()));
        lz4_flex::block::compress_into_with_table(bytes, &mut self.packed, table).ok()
    }

    fn snappy(&mut self, bytes: &[u8]) -> Option<usize> {
        let snappy = self.snappy.get_or_insert_with(|| Box::new(snap::raw::Encoder::new()));
        grow(&mut self.packed, snap::raw::max_compress_len(bytes.len()));
        snappy.compress(bytes, &mut self.packed).ok()
    }
}

/// How large zstd's table must be for a prefix to be found; none where the level's own is large enough.
fn table_log(prefix: usize, level: i8) -> Option<u32> {
    let log = match level {
        // Fast ones note one place of some, and zstd looks at eight times as much prefix as there are places in the table.
        ..=4 => ceil_log2(prefix / 8 + 1),
        // Every place.
        5..=12 => ceil_log2(prefix),
        // Their own tables have 2^22 places.
        13.. => 0,
    };
    (log > FAST_TABLE_LOG).then_some(log.min(MAX_TABLE_LOG))
}

fn ceil_log2(length: usize) -> u32 {
    length.max(1).next_power_of_two().ilog2()
}

/// Makes room of at least `length` bytes; what was made once is kept.
fn grow(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}

#[cfg(test)]
mod tests;
