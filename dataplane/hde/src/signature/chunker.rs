//! Cuts bytes where their contents say so.
//!
//! FastCDC with normalised chunks: a gear hash over the last 64 bytes, a cut where it is below a bound, the bound four times
//! harder than the average before the average length and four times easier behind it, never before a quarter of the average nor
//! behind four of it. A zero byte adds nothing to the hash, so 64 zeros always cut, and a stretch of at least 64 zeros at the
//! beginning of a chunk is a stretch of its own: holes cost nothing, however long.

use std::sync::OnceLock;

use proto_wire::signature::MAX_AVERAGES;

/// Bytes that a hash remembers.
const WINDOW_BYTES: usize = 64;
/// A chunk is at least a quarter of the average.
const MIN_SHIFT: u8 = 2;
/// Bits by which a cut is harder before the average, and easier behind it.
const NORMAL_BITS: u8 = 2;

/// What the table of the gear hash is made of.
const TABLE_SEED: &[u8] = b"dwcp hde gear 1";

/// Where bytes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The first bytes are a chunk of this length.
    Chunk(usize),
    /// The first bytes are this many zeros.
    Zeros(usize),
}

impl Cut {
    /// Bytes before the cut; never 0 where there are bytes.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Chunk(length) | Self::Zeros(length) => length,
        }
    }
}

/// Cuts by one average. The same bytes are cut the same wherever they stand, but for the first chunk or two.
#[derive(Clone, Debug)]
pub struct Chunker {
    average: usize,
    hard: u64,
    easy: u64,
}

impl Chunker {
    /// With chunks of about 2^`average_log` bytes; from 2^10 to 2^20.
    #[must_use]
    pub fn new(average_log: u8) -> Self {
        let log = average_log.clamp(proto_wire::signature::MIN_AVERAGE_LOG, proto_wire::signature::MAX_AVERAGE_LOG);
        Self { average: 1 << log, hard: u64::MAX >> (log + NORMAL_BITS), easy: u64::MAX >> (log - NORMAL_BITS) }
    }

    /// The longest chunk.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.average.saturating_mul(usize::try_from(MAX_AVERAGES).unwrap_or(usize::MAX))
    }

    /// The first cut of `bytes`, of which more follow: at least [`Chunker::max_bytes`], so that what follows decides nothing.
    #[must_use]
    pub fn cut(&self, bytes: &[u8]) -> Cut {
        match leading_zeros(bytes) {
            // So that the stretch is one also where its rest is short.
            zeros if zeros == bytes.len() && zeros > WINDOW_BYTES => Cut::Zeros(zeros - WINDOW_BYTES),
            zeros if zeros >= WINDOW_BYTES => Cut::Zeros(zeros),
            _ => Cut::Chunk(self.chunk(bytes)),
        }
    }

    /// The first cut of the last `bytes`.
    #[must_use]
    pub fn cut_last(&self, bytes: &[u8]) -> Cut {
        match leading_zeros(bytes) {
            zeros if zeros >= WINDOW_BYTES => Cut::Zeros(zeros),
            _ => Cut::Chunk(self.chunk(bytes)),
        }
    }

    fn chunk(&self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(self.max_bytes())];
        let min = self.average >> MIN_SHIFT;
        if bytes.len() <= min {
            return bytes.len();
        }
        let table = table();
        let mut hash = 0_u64;
        for byte in &bytes[min - WINDOW_BYTES..min] {
            hash = (hash << 1).wrapping_add(table[usize::from(*byte)]);
        }
        let (before, behind) = bytes[min..].split_at((bytes.len() - min).min(self.average - min));
        let mut find = |bytes: &[u8], bound: u64| {
            bytes.iter().position(|byte| {
                hash = (hash << 1).wrapping_add(table[usize::from(*byte)]);
                hash < bound
            })
        };
        match find(before, self.hard) {
            Some(at) => min + at + 1,
            None => find(behind, self.easy).map_or(bytes.len(), |at| self.average + at + 1),
        }
    }
}

/// How many zeros `bytes` begins with.
fn leading_zeros(bytes: &[u8]) -> usize {
    const STEP: usize = 64;
    let whole = bytes.chunks_exact(STEP).take_while(|step| step.iter().fold(0, |any, byte| any | byte) == 0).count();
    let from = whole * STEP;
    from + bytes[from..].iter().take_while(|byte| **byte == 0).count()
}

pub(crate) fn table() -> &'static [u64; 256] {
    static TABLE: OnceLock<[u64; 256]> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut stream = blake3::Hasher::new().update(TABLE_SEED).finalize_xof();
        let mut table = std::array::from_fn(|_| {
            let mut word = [0; 8];
            stream.fill(&mut word);
            u64::from_le_bytes(word)
        });
        table[0] = 0;
        table
    })
}
