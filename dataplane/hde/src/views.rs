//! Reads a source here and there, through a small cache.

use std::io;

use crate::read_at::ReadAt;

/// Blocks that are kept.
const BLOCKS: usize = 256;
/// Bytes that are read at once where candidates are looked at and compared: a few pages, 4 MB in all.
const CANDIDATE_BYTES: usize = 16 << 10;
/// The same where bytes are copied, mostly in their order: 1 MB in all.
const COPY_BYTES: usize = 4 << 10;

/// The cache of one source; for the next one it is [`Self::forget`] first.
#[derive(Debug)]
pub(crate) struct Views {
    blocks: Vec<Block>,
    block_bytes: usize,
    /// What is at least so long is read past the blocks.
    long: usize,
}

impl Default for Views {
    fn default() -> Self {
        Self { blocks: Vec::new(), block_bytes: CANDIDATE_BYTES, long: CANDIDATE_BYTES }
    }
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// Its number plus one; 0 for none.
    number: u64,
    bytes: Vec<u8>,
}

impl Views {
    /// One for copies.
    pub(crate) const fn of_copies() -> Self {
        Self { blocks: Vec::new(), block_bytes: COPY_BYTES, long: COPY_BYTES / 2 }
    }

    /// What was read is of another source, or may have changed.
    pub(crate) fn forget(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.number = 0);
    }

    /// Bytes from `offset` on: at least one, unless the source ends there.
    pub(crate) fn at(&mut self, source: &dyn ReadAt, offset: u64) -> io::Result<&[u8]> {
        if offset >= source.size() {
            return Ok(&[]);
        }
        let (number, within) = self.split(offset);
        Ok(self.block(source, number)?.get(within..).unwrap_or_default())
    }

    /// Bytes before `offset`, at most the source's size: at least one, unless it is 0.
    pub(crate) fn before(&mut self, source: &dyn ReadAt, offset: u64) -> io::Result<&[u8]> {
        if offset == 0 || offset > source.size() {
            return Ok(&[]);
        }
        let (number, within) = self.split(offset - 1);
        Ok(self.block(source, number)?.get(..=within).unwrap_or_default())
    }

    /// Fills `room` from `offset` on: long ones past the cache.
    pub(crate) fn read(&mut self, source: &dyn ReadAt, offset: u64, room: &mut [u8]) -> io::Result<()> {
        if room.len() >= self.long {
            return source.read_at(offset, room);
        }
        let mut filled = 0;
        while filled < room.len() {
            let held = self.at(source, offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX)))?;
            let length = held.len().min(room.len() - filled);
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            room[filled..filled + length].copy_from_slice(&held[..length]);
            filled += length;
        }
        Ok(())
    }

    fn block(&mut self, source: &dyn ReadAt, number: u64) -> io::Result<&[u8]> {
        if self.blocks.is_empty() {
            self.blocks.resize(BLOCKS, Block::default());
        }
        let place = usize::try_from(number % u64::try_from(BLOCKS).unwrap_or(1)).unwrap_or(0);
        let block = &mut self.blocks[place];
        if block.number != number + 1 {
            block.number = 0;
            let first = number * u64::try_from(self.block_bytes).unwrap_or(1);
            let length = usize::try_from(source.size() - first).unwrap_or(usize::MAX).min(self.block_bytes);
            block.bytes.resize(length, 0);
            source.read_at(first, &mut block.bytes)?;
            block.number = number + 1;
        }
        Ok(&block.bytes)
    }

    fn split(&self, offset: u64) -> (u64, usize) {
        let block = u64::try_from(self.block_bytes).unwrap_or(1);
        (offset / block, usize::try_from(offset % block).unwrap_or(0))
    }
}
