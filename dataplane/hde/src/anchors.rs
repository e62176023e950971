//! Where contents stand in a baseline: anchors of its whole length, in at most 64 MB.

use std::{
    hint::black_box,
    io,
    sync::{Arc, mpsc::sync_channel},
    thread,
};

use crate::{
    read_at::ReadAt,
    sampling::{Rate, WINDOW, sample},
    tree::{PART_BYTES, Tree, part_value},
};

/// The densest sampling: one of 2^5 places.
const DENSEST: u32 = 5;

/// More than so many miss the processor's cache: a large baseline has more only …
const FEW: u64 = 1 << 20;
/// … where these would be less dense than one of 2^8 places.
const LARGE: u32 = 8;

/// How many anchors of a baseline there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Density {
    /// No more than a processor's cache holds, where these are dense enough: what they miss is found near what they find.
    Usual,
    /// As many as there may be.
    Fine,
}

impl Density {
    /// The sampling of so many bytes.
    fn rate(self, size: u64) -> Rate {
        let mut rate = DENSEST;
        let too_many =
            |rate: u32| size >> rate > MAX_ANCHORS || self == Self::Usual && rate < LARGE && size >> rate > FEW;
        while too_many(rate) {
            rate += 1;
        }
        Rate(rate)
    }

    /// The least dense one that is the same for so many bytes.
    pub(crate) fn least(self, size: u64) -> Self {
        if self.rate(size) == Self::Usual.rate(size) { Self::Usual } else { self }
    }
}

/// The most anchors that are aimed at; the table has room for twice as many.
const MAX_ANCHORS: u64 = 4 << 20;
/// Entries of a bucket: half a cache line.
const WAYS: usize = 4;
/// An entry is a place plus one, in its low bits …
const PLACE_BITS: u32 = 40;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// The same window is kept at most so often.
const REPEATS: usize = 2;
/// What a thread samples at once while an index is built.
const PIECE_BYTES: u64 = 1 << 20;
/// Anchors whose buckets are read together: more than a processor has loads under way.
const TOGETHER: usize = 32;
const MAGIC: [u8; 8] = *b"DWCPHDX\x02";
const HEAD_BYTES: usize = 20;

/// Where contents stand in a baseline. Bounded by its [`Density`], whatever the baseline's size.
#[derive(Clone)]
pub struct AnchorIndex {
    table: Table,
    density: Density,
    rate: Rate,
    size: u64,
}

impl std::fmt::Debug for AnchorIndex {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("AnchorIndex").field("rate", &self.rate).field("size", &self.size).finish_non_exhaustive()
    }
}

impl AnchorIndex {
    /// The index of `bytes`; the same at any number of threads.
    ///
    /// # Errors
    /// Where the bytes cannot be read.
    pub fn build(bytes: &Arc<dyn ReadAt>, density: Density, threads: usize) -> io::Result<Self> {
        Self::survey(bytes, density, threads, false).map(|(index, _)| index)
    }

    /// The same, and in the same reading the BLAKE3 of the bytes where `hashed`.
    pub(crate) fn survey(
        bytes: &Arc<dyn ReadAt>,
        density: Density,
        threads: usize,
        hashed: bool,
    ) -> io::Result<(Self, [u8; 32])> {
        let size = bytes.size();
        let rate = density.rate(size);
        let mut table = Table::new(size >> rate.0);
        let mut tree = Tree::default();
        let mut take = |number: u64, piece: &Piece| {
            let first = number * PIECE_BYTES;
            piece.values.iter().for_each(|value| tree.push(*value));
            for anchors in piece.anchors.chunks(TOGETHER) {
                table.touch(anchors);
                anchors.iter().for_each(|(place, hash)| table.insert(*hash, first + u64::from(*place)));
            }
        };
        let pieces = size.div_ceil(PIECE_BYTES);
        let threads = u64::try_from(threads.clamp(1, 64)).unwrap_or(1).min(pieces.max(1));
        let read = |piece: &mut Piece, number: u64| piece.read(bytes.as_ref(), number * PIECE_BYTES, rate, hashed);
        if threads == 1 {
            let mut piece = Piece::default();
            for number in 0..pieces {
                read(&mut piece, number)?;
                take(number, &piece);
            }
        } else {
            thread::scope(|scope| -> io::Result<()> {
                // Each has its share of the pieces, and is some pieces ahead of who takes them in order.
                let lane = |first: u64| {
                    let (send, made) = sync_channel::<io::Result<Piece>>(1);
                    let (give, free) = sync_channel::<Piece>(2);
                    scope.spawn(move || {
                        for number in (first..pieces).step_by(usize::try_from(threads).unwrap_or(1)) {
                            let mut piece = free.try_recv().unwrap_or_default();
                            let result = read(&mut piece, number).map(|()| piece);
                            if send.send(result).is_err() {
                                break;
                            }
                        }
                    });
                    (made, give)
                };
                let lanes: Vec<_> = (0..threads).map(lane).collect();
                for (number, (made, give)) in (0..pieces).zip(lanes.iter().cycle()) {
                    let piece = made.recv().map_err(|_ended| io::Error::other("a thread ended early"))??;
                    take(number, &piece);
                    // Its thread may have no more to do.
                    let _kept = give.try_send(piece);
                }
                Ok(())
            })?;
        }
        Ok((Self { table, density, rate, size }, tree.root()))
    }

    /// The baseline's size.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How dense it is.
    #[must_use]
    pub const fn density(&self) -> Density {
        self.density
    }

    /// Whether it is as dense as that.
    #[must_use]
    pub fn serves(&self, density: Density) -> bool {
        density.rate(self.size) == self.rate
    }

    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    pub(crate) const fn table(&self) -> &Table {
        &self.table
    }

    /// As it is kept beside a baseline.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.table.entries.len() * 8);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.rate.0.to_le_bytes());
        self.table.entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_le_bytes()));
        bytes
    }

    /// What [`Self::to_bytes`] made; none for other bytes. A damaged index makes deltas larger, never wrong.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, entries) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let (magic, rest) = head.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let rate = Rate(u32::from_le_bytes(rest.first_chunk::<4>().copied()?));
        let size = u64::from_le_bytes(*size);
        let density = [Density::Usual, Density::Fine].into_iter().find(|density| density.rate(size) == rate)?;
        let buckets = Table::buckets(size >> rate.0);
        let (words, rest) = entries.as_chunks::<8>();
        let expected = usize::try_from(buckets).ok()?.checked_mul(WAYS)?;
        let sound = *magic == MAGIC && words.len() == expected && rest.is_empty();
        let entries = sound.then(|| words.iter().map(|word| u64::from_le_bytes(*word)).collect())?;
        Some(Self { table: Table { entries, buckets }, density, rate, size })
    }
}

/// A part of a baseline while an index is built.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    values: Vec<[u8; 32]>,
    anchors: Vec<(u32, u64)>,
}

impl Piece {
    /// Reads a piece in parts that stay in the processor's cache while they are hashed and sampled.
    fn read(&mut self, source: &dyn ReadAt, first: u64, rate: Rate, hashed: bool) -> io::Result<()> {
        let behind = u64::try_from(WINDOW).unwrap_or(0) - 1;
        self.values.clear();
        self.anchors.clear();
        let end = (first + PIECE_BYTES).min(source.size());
        let mut at = first;
        while at < end {
            let part = PART_BYTES.min(end - at);
            let length = (source.size() - at).min(part + behind);
            let (part, length) = (usize::try_from(part).unwrap_or(0), usize::try_from(length).unwrap_or(0));
            self.bytes.resize(length, 0);
            source.read_at(at, &mut self.bytes)?;
            if hashed {
                self.values.push(part_value(&self.bytes[..part], at, source.size() <= PART_BYTES));
            }
            let known = self.anchors.len();
            sample(&self.bytes, part, rate, &mut self.anchors);
            let shift = u32::try_from(at - first).unwrap_or(0);
            self.anchors[known..].iter_mut().for_each(|(place, _)| *place += shift);
            at += PART_BYTES;
        }
        Ok(())
    }
}

/// A hash table of places: buckets of four, filled in order, never evicting.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    entries: Vec<u64>,
    buckets: u64,
}

impl Table {
    /// A table for so many anchors: two in each bucket.
    pub(crate) fn new(anchors: u64) -> Self {
        let buckets = Self::buckets(anchors);
        Self { entries: vec![0; usize::try_from(buckets).unwrap_or(0) * WAYS], buckets }
    }

    fn buckets(anchors: u64) -> u64 {
        (anchors.min(MAX_ANCHORS) / 2).max(64)
    }

    /// By the upper half of the hash; tags are of the lower one.
    fn bucket(&self, hash: u64) -> usize {
        usize::try_from(((hash >> 32) * self.buckets) >> 32).unwrap_or(0) * WAYS
    }

    /// Goes to the buckets of some anchors, so that waits for memory overlap; writes, or a new page would be asked for twice.
    fn touch(&mut self, anchors: &[(u32, u64)]) {
        for (_, hash) in anchors {
            let at = self.bucket(*hash);
            if let Some(entry) = self.entries.get_mut(at) {
                *entry = black_box(*entry);
            }
        }
    }

    /// Adds a place, unless its bucket is full or has the window twice. Without a branch that waits for memory.
    pub(crate) fn insert(&mut self, hash: u64, place: u64) {
        let at = self.bucket(hash);
        let Some(bucket) = self.entries.get_mut(at..at + WAYS) else { return };
        let tag = hash << PLACE_BITS;
        let used = bucket.iter().filter(|entry| **entry != 0).count();
        let same = bucket.iter().filter(|entry| **entry != 0 && **entry & !PLACE_MASK == tag).count();
        let free = used < WAYS && same < REPEATS && place < PLACE_MASK;
        let slot = &mut bucket[used.min(WAYS - 1)];
        *slot = if free { tag | (place + 1) } else { *slot };
    }

    /// The places of windows that may have this hash.
    pub(crate) fn find(&self, hash: u64) -> impl Iterator<Item = u64> + '_ {
        let at = self.bucket(hash);
        let tag = hash << PLACE_BITS;
        let bucket = self.entries.get(at..at + WAYS).unwrap_or_default();
        bucket.iter().filter(move |entry| **entry != 0 && **entry & !PLACE_MASK == tag).map(|e| (e & PLACE_MASK) - 1)
    }
}
