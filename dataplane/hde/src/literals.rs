//! Compresses literals, by contexts and buffers that are kept from segment to segment.

use proto_wire::hde::LiteralCodec;
use zstd::bulk;

use crate::options::{Algorithm, Level};

/// Literals shorter than this are compressed without a probe: the probe would cost as much.
const PROBE_FROM_BYTES: usize = 128 << 10;
/// The probe looks at this many pieces, evenly spread …
const PROBE_PIECES: usize = 8;
/// … of this many bytes: under 1 % of a segment of 4 MiB.
const PROBE_PIECE_BYTES: usize = 4 << 10;
/// What the probe must save for compression to be tried, as a divisor: 1/64. Media and archives save less, text and
/// floating-point numbers more.
const PROBE_SAVES: usize = 64;
/// The level of the probe: the fastest.
const PROBE_LEVEL: i32 = 1;

/// One compressor with its memory.
pub(crate) struct Literals {
    compressor: Compressor,
    /// The compressed bytes of the present segment.
    packed: Vec<u8>,
    probe: Option<bulk::Compressor<'static>>,
    sample: Vec<u8>,
}

#[allow(clippy::large_enum_variant, reason = "one an encoder, held for its life")]
enum Compressor {
    Zstd(Option<bulk::Compressor<'static>>),
    Lz4(Box<lz4_flex::block::CompressTable>),
    Snappy(Box<snap::raw::Encoder>),
}

impl Literals {
    pub(crate) fn new(algorithm: Algorithm, level: Level) -> Self {
        let compressor = match algorithm {
            // A context that cannot be made (no memory) makes the literals raw, not the transfer fail.
            Algorithm::Zstd => Compressor::Zstd(bulk::Compressor::new(level.get()).ok()),
            Algorithm::Lz4 => Compressor::Lz4(Box::new(lz4_flex::block::CompressTable::large())),
            Algorithm::Snappy => Compressor::Snappy(Box::new(snap::raw::Encoder::new())),
        };
        let probe = bulk::Compressor::new(PROBE_LEVEL).ok();
        Self { compressor, packed: Vec::new(), probe, sample: Vec::new() }
    }

    /// Compressed, where that is shorter than they are.
    pub(crate) fn compress(&mut self, literals: &[u8]) -> Option<(LiteralCodec, &[u8])> {
        if literals.len() >= PROBE_FROM_BYTES && !self.promises(literals) {
            return None;
        }
        let (codec, length) = self.pack(literals).filter(|(_, length)| *length < literals.len())?;
        Some((codec, &self.packed[..length]))
    }

    /// Whether compressing a sample saves anything.
    fn promises(&mut self, literals: &[u8]) -> bool {
        let Some(probe) = &mut self.probe else { return true };
        self.sample.clear();
        let step = literals.len() / PROBE_PIECES;
        for piece in literals.chunks(step).take(PROBE_PIECES) {
            self.sample.extend_from_slice(&piece[..piece.len().min(PROBE_PIECE_BYTES)]);
        }
        let most = self.sample.len() - self.sample.len() / PROBE_SAVES;
        self.packed.clear();
        self.packed.reserve(self.sample.len() + self.sample.len() / 8);
        probe.compress_to_buffer(&self.sample, &mut self.packed).is_ok_and(|length| length < most)
    }

    fn pack(&mut self, literals: &[u8]) -> Option<(LiteralCodec, usize)> {
        match &mut self.compressor {
            Compressor::Zstd(zstd) => {
                self.packed.clear();
                // The capacity bounds the output: what does not become shorter is given up.
                self.packed.reserve(literals.len());
                let length = zstd.as_mut()?.compress_to_buffer(literals, &mut self.packed).ok()?;
                Some((LiteralCodec::Zstd, length))
            }
            Compressor::Lz4(table) => {
                grow(&mut self.packed, lz4_flex::block::get_maximum_output_size(literals.len()));
                let packed = lz4_flex::block::compress_into_with_table(literals, &mut self.packed, table);
                Some((LiteralCodec::Lz4, packed.ok()?))
            }
            Compressor::Snappy(snappy) => {
                grow(&mut self.packed, snap::raw::max_compress_len(literals.len()));
                Some((LiteralCodec::Snappy, snappy.compress(literals, &mut self.packed).ok()?))
            }
        }
    }
}

/// Makes room of at least `length` bytes; what was made once is kept.
fn grow(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}
