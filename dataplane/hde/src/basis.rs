//! What the receiver holds, known to the sender by the digests of its aligned blocks.

use std::collections::HashMap;

/// Bytes of a block's BLAKE3 digest.
pub const DIGEST_BYTES: usize = 32;
/// The smallest block; `proto_wire::hde::MAX_OPS` rests on it.
pub const MIN_BLOCK_BYTES: u32 = 1024;
/// The most blocks of a basis: 128 MiB of digests; 1 TiB in blocks of 256 KiB.
pub const MAX_BASIS_BLOCKS: usize = 1 << 22;

/// Why digests are no basis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BasisError {
    /// A block is a power of two between the smallest block and the longest segment.
    #[error("blocks of {0} bytes: not a power of two from 1 KiB to 4 MiB")]
    Block(u32),
    /// As many digests as blocks, 32 bytes each.
    #[error("{digest_bytes} bytes of digests do not fit {blocks} blocks")]
    Digests {
        /// Given.
        digest_bytes: usize,
        /// By the size.
        blocks: u64,
    },
    /// More than [`MAX_BASIS_BLOCKS`].
    #[error("{0} blocks are more than a basis may have")]
    TooMany(u64),
}

/// Finds blocks that the receiver holds, wherever they stand in the new segment at a multiple of the block's size.
#[derive(Clone, Debug)]
pub struct BasisIndex {
    block_bytes: u32,
    size: u64,
    digests: Box<[u8]>,
    /// The first eight bytes of a digest to the first block that has them.
    first: HashMap<u64, u32>,
}

impl BasisIndex {
    /// An index over `size` bytes in blocks of `block_bytes` (the last may be shorter) with the blocks' BLAKE3 digests, one after
    /// another.
    ///
    /// # Errors
    /// Where these do not fit one another, or are beyond the bounds.
    pub fn new(block_bytes: u32, size: u64, digests: &[u8]) -> Result<Self, BasisError> {
        let blocks = Self::blocks(block_bytes, size)?;
        let count = usize::try_from(blocks).map_err(|_more| BasisError::TooMany(blocks))?;
        if digests.len() != count * DIGEST_BYTES {
            return Err(BasisError::Digests { digest_bytes: digests.len(), blocks });
        }
        let mut first = HashMap::with_capacity(count);
        for (number, digest) in (0_u32..).zip(digests.as_chunks::<DIGEST_BYTES>().0) {
            first.entry(prefix(digest)).or_insert(number);
        }
        Ok(Self { block_bytes, size, digests: digests.into(), first })
    }

    /// How many blocks a basis of this size has: known before its digests are taken.
    ///
    /// # Errors
    /// Where the block is none, or there are too many.
    pub fn blocks(block_bytes: u32, size: u64) -> Result<u64, BasisError> {
        if !block_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=crate::MAX_SEGMENT_BYTES).contains(&block_bytes) {
            return Err(BasisError::Block(block_bytes));
        }
        let blocks = size.div_ceil(u64::from(block_bytes));
        let fits = usize::try_from(blocks).is_ok_and(|blocks| blocks <= MAX_BASIS_BLOCKS);
        if fits { Ok(blocks) } else { Err(BasisError::TooMany(blocks)) }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Bytes of the whole.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Where a block equal to `block` begins; `after`, the end of the reference before, is tried first, so that runs stay runs.
    pub(crate) fn find(&self, block: &[u8], after: Option<u64>) -> Option<u64> {
        let digest = *blake3::hash(block).as_bytes();
        let next = after.filter(|offset| offset.is_multiple_of(u64::from(self.block_bytes)));
        let next = next.and_then(|offset| u32::try_from(offset / u64::from(self.block_bytes)).ok());
        next.filter(|number| self.is(*number, &digest, block.len()))
            .or_else(|| self.first.get(&prefix(&digest)).copied().filter(|n| self.is(*n, &digest, block.len())))
            .map(|number| u64::from(number) * u64::from(self.block_bytes))
    }

    fn is(&self, number: u32, digest: &[u8; DIGEST_BYTES], length: usize) -> bool {
        let start = u64::from(number) * u64::from(self.block_bytes);
        let held = self.size.saturating_sub(start).min(u64::from(self.block_bytes));
        let at = usize::try_from(number).ok().map(|number| number * DIGEST_BYTES);
        let own = at.and_then(|at| self.digests.get(at..at + DIGEST_BYTES));
        u64::try_from(length) == Ok(held) && own == Some(digest.as_slice())
    }
}

fn prefix(digest: &[u8; DIGEST_BYTES]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The digests of the aligned blocks of `bytes`, one after another, appended to `digests`: what a receiver reports of what it
/// holds. `bytes` begins at a multiple of `block_bytes`.
pub fn block_digests(bytes: &[u8], block_bytes: u32, digests: &mut Vec<u8>) {
    let block = usize::try_from(block_bytes.max(1)).unwrap_or(usize::MAX);
    bytes.chunks(block).for_each(|block| digests.extend_from_slice(blake3::hash(block).as_bytes()));
}
