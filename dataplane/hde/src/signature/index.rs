//! Finds what a receiver holds in the bytes of a new version.

use std::ops::Range;

use proto_wire::signature::{self, Entry};

use super::{Chunker, Cut, Signature};

/// Where a digest's slot is taken, the next ones are tried, at most so many: a peer's digests may be made to collide.
const MAX_PROBES: usize = 32;
/// A slot without a chunk.
const EMPTY: u32 = u32::MAX;

/// New bytes that the receiver holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they begin in the wanted bytes.
    pub start: usize,
    /// How many.
    pub length: usize,
    /// Where they stand in the object that was described.
    pub offset: u64,
}

/// A signature, made ready to be looked up: about 30 bytes a chunk, 120 MiB for the longest.
#[derive(Debug)]
pub struct SignatureIndex {
    chunker: Chunker,
    digest_bytes: usize,
    described_bytes: u64,
    starts: Vec<u64>,
    lengths: Vec<u32>,
    digests: Vec<u8>,
    /// Numbers of chunks by digest, open addressing; a power of two.
    slots: Vec<u32>,
}

impl SignatureIndex {
    /// The index of a signature.
    #[must_use]
    pub fn new(signature: &Signature) -> Self {
        let parsed = signature::Signature::parse(signature.as_bytes()).expect("checked when the signature was made");
        let chunks = parsed.chunks();
        let mut index = Self {
            chunker: Chunker::new(parsed.head().average_log),
            digest_bytes: parsed.head().digest_bytes,
            described_bytes: parsed.described_bytes(),
            starts: Vec::with_capacity(chunks),
            lengths: Vec::with_capacity(chunks),
            digests: Vec::with_capacity(chunks * parsed.head().digest_bytes),
            slots: vec![EMPTY; (chunks * 2 + 1).next_power_of_two()],
        };
        let mut start = 0;
        for entry in parsed.entries() {
            match entry {
                Entry::Chunk { length, digest } => {
                    index.insert(start, length, digest);
                    start += u64::from(length);
                }
                Entry::Zeros { length } => start += length,
            }
        }
        index
    }

    /// Bytes of the object that the signature describes.
    #[must_use]
    pub const fn described_bytes(&self) -> u64 {
        self.described_bytes
    }

    /// How many bytes before and behind a segment help to find the chunks at its ends.
    #[must_use]
    pub fn context_bytes(&self) -> usize {
        self.chunker.max_bytes()
    }

    /// Where a chunk of this digest and length begins. `digest` is a BLAKE3 digest or a beginning of it.
    #[must_use]
    pub fn find(&self, digest: &[u8], length: usize) -> Option<u64> {
        self.number(digest, length).map(|number| self.starts[number])
    }

    /// Appends what of `bytes[wanted]` the receiver holds, in order and without overlap, as long runs as there are. What of `bytes`
    /// stands before and behind is context: up to [`SignatureIndex::context_bytes`] on each side, so that chunks which cross
    /// the borders are found.
    pub fn runs(&self, bytes: &[u8], wanted: &Range<usize>, runs: &mut Vec<Run>) {
        let mut pen = Pen { wanted, runs };
        // Everything before `free` is written; `next` is the chunk that goes on where the last found one ended.
        let (mut at, mut free, mut next) = (0, 0, None);
        while at < bytes.len().min(wanted.end) {
            if let Some(number) = next.filter(|number| self.continues(*number, &bytes[at..])) {
                let length = self.length(number);
                pen.write(at, length, self.starts[number]);
                at += length;
                free = at;
                next = self.after(number);
                continue;
            }
            match self.chunker.cut_last(&bytes[at..]) {
                Cut::Zeros(length) => at += length,
                Cut::Chunk(length) => {
                    let found = self.number(blake3::hash(&bytes[at..at + length]).as_bytes(), length);
                    if let Some(number) = found {
                        let (from, first) = self.backwards(&bytes[free..at], number);
                        pen.write(free + from, at - free - from + length, self.starts[first]);
                        free = at + length;
                    }
                    at += length;
                    next = found.and_then(|number| self.after(number));
                }
            }
        }
    }

    /// How far the chunks before `number` are found at the end of `bytes`: where that begins, and with which chunk.
    fn backwards(&self, bytes: &[u8], mut number: usize) -> (usize, usize) {
        let mut end = bytes.len();
        while let Some(before) = number.checked_sub(1) {
            let length = self.length(before);
            let joins = self.after(before) == Some(number) && length <= end;
            if !joins || !self.is(before, blake3::hash(&bytes[end - length..end]).as_bytes(), length) {
                break;
            }
            (end, number) = (end - length, before);
        }
        (end, number)
    }

    /// The chunk that follows without zeros between.
    fn after(&self, number: usize) -> Option<usize> {
        let end = self.starts[number] + u64::from(self.lengths[number]);
        self.starts.get(number + 1).filter(|start| **start == end).map(|_| number + 1)
    }

    fn continues(&self, number: usize, bytes: &[u8]) -> bool {
        let length = self.length(number);
        length <= bytes.len() && self.is(number, blake3::hash(&bytes[..length]).as_bytes(), length)
    }

    fn length(&self, number: usize) -> usize {
        usize::try_from(self.lengths[number]).unwrap_or(usize::MAX)
    }

    fn is(&self, number: usize, digest: &[u8], length: usize) -> bool {
        let from = number * self.digest_bytes;
        self.length(number) == length
            && digest.get(..self.digest_bytes) == Some(&self.digests[from..from + self.digest_bytes])
    }

    fn number(&self, digest: &[u8], length: usize) -> Option<usize> {
        self.probe(digest)
            .map(|slot| self.slots[slot])
            .take_while(|number| *number != EMPTY)
            .filter_map(|number| usize::try_from(number).ok())
            .find(|number| self.is(*number, digest, length))
    }

    /// The slots in which a digest may be.
    fn probe(&self, digest: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let mut word = [0; 8];
        word.iter_mut().zip(digest.iter().take(self.digest_bytes)).for_each(|(to, from)| *to = *from);
        let (mask, word) = (self.slots.len() - 1, u64::from_le_bytes(word));
        let first = usize::try_from(word % (1 << 32)).unwrap_or(0);
        (0..MAX_PROBES).map(move |step| (first + step) & mask)
    }

    fn insert(&mut self, start: u64, length: u32, digest: &[u8]) {
        let number = self.starts.len();
        self.starts.push(start);
        self.lengths.push(length);
        self.digests.extend_from_slice(digest);
        for slot in self.probe(digest) {
            match usize::try_from(self.slots[slot]) {
                Ok(held) if self.slots[slot] != EMPTY => {
                    // The first of equal chunks is the one to refer to.
                    if self.is(held, digest, self.length(number)) {
                        return;
                    }
                }
                Ok(_) | Err(_) => {
                    self.slots[slot] = u32::try_from(number).expect("at most 2^22 chunks");
                    return;
                }
            }
        }
    }
}

/// Writes runs, cut to what is wanted.
struct Pen<'a> {
    wanted: &'a Range<usize>,
    runs: &'a mut Vec<Run>,
}

impl Pen<'_> {
    fn write(&mut self, at: usize, length: usize, offset: u64) {
        let (from, to) = (at.max(self.wanted.start), (at + length).min(self.wanted.end));
        if from >= to {
            return;
        }
        let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let (start, length, offset) = (from - self.wanted.start, to - from, offset + wide(from - at));
        match self.runs.last_mut() {
            Some(last) if last.start + last.length == start && last.offset + wide(last.length) == offset => {
                last.length += length;
            }
            Some(_) | None => self.runs.push(Run { start, length, offset }),
        }
    }
}
