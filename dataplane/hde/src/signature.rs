//! Signatures: what a receiver says of an object that only it holds, so that the sender refers to it.
//!
//! The object is cut into content-defined chunks ([`Chunker`]); the signature is their lengths and shortened BLAKE3 digests in the
//! form of `proto_wire::signature`. A [`SignatureBuilder`] makes it from the object's bytes in one pass that also gives the BLAKE3
//! digest of the whole; the sender's [`SignatureIndex`] finds the chunks again in new bytes. One message instead of rsync's two
//! round trips. A match is a claim: the digests are short, and whoever puts the new version together verifies its bytes.
//!
//! Chunks get longer with the object ([`average_log`]): 1 KiB up to 32 MiB, 4 KiB at 1 GiB, 16 KiB at 32 GiB, so that the signature
//! is 0.6 % of a small object, 0.17 % of one of 1 GiB and 0.02 % of a very large one.

mod chunker;
mod index;

use std::io::{self, Read};

pub(crate) use chunker::table as gear;
pub use chunker::{Chunker, Cut};
pub use index::{Run, SignatureIndex};
pub use proto_wire::signature::SignatureError;
use proto_wire::signature::{Entry, Head, MAX_AVERAGE_LOG, MAX_CHUNKS, MIN_AVERAGE_LOG, MIN_DIGEST_BYTES, write_entry};

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// Objects that may have more chunks than this have longer digests. With as many new chunks, a digest of 40 bits and a length that is the same
/// err once in some 10,000 objects, which costs a segment sent again; a byte more would cost 256 KiB each time.
const SHORT_DIGEST_CHUNKS: u64 = 1 << 18;
/// Their digests: with the length, about 75 bits are compared.
const LONG_DIGEST_BYTES: usize = 8;

/// The binary logarithm of the average chunk of an object of `size` bytes: about four times its cube
/// root. On real pairs of versions shorter chunks cost more signature than they save, longer ones more literals.
#[must_use]
pub fn average_log(size: u64) -> u8 {
    let third = u8::try_from((size.max(1).ilog2() + 1) / 3).unwrap_or(u8::MAX);
    let mut log = (third + 2).clamp(MIN_AVERAGE_LOG, MAX_AVERAGE_LOG);
    // Half of the bound, as chunks may be shorter than their average.
    let most = u64::try_from(MAX_CHUNKS / 2).unwrap_or(u64::MAX);
    while log < MAX_AVERAGE_LOG && size >> log > most {
        log += 1;
    }
    log
}

fn head(size: u64) -> Head {
    let average_log = average_log(size);
    let many = size >> average_log > SHORT_DIGEST_CHUNKS;
    Head { average_log, digest_bytes: if many { LONG_DIGEST_BYTES } else { MIN_DIGEST_BYTES } }
}

/// The signature of an object, in its wire form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    bytes: Vec<u8>,
}

impl Signature {
    /// The signature of all that `reader` gives, and its BLAKE3 digest. `size` is what is expected and decides the chunks' average.
    ///
    /// # Errors
    /// Of the reader.
    pub fn read(reader: &mut dyn Read, size: u64) -> io::Result<(Self, blake3::Hash)> {
        let mut builder = SignatureBuilder::new(size);
        let mut room = vec![0; READ_BYTES];
        loop {
            match reader.read(&mut room) {
                Ok(0) => return Ok(builder.finish()),
                Ok(length) => builder.push(&room[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A signature from a peer.
    ///
    /// # Errors
    /// Where the bytes are none.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SignatureError> {
        proto_wire::signature::Signature::parse(&bytes)?;
        Ok(Self { bytes })
    }

    /// The wire form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The wire form.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Makes a signature of bytes that come one after another. Holds at most two longest chunks beside the signature.
#[derive(Debug)]
pub struct SignatureBuilder {
    head: Head,
    chunker: Chunker,
    whole: blake3::Hasher,
    /// Bytes of the chunk that is not yet whole.
    pending: Vec<u8>,
    bytes: Vec<u8>,
    chunks: usize,
    /// Zeros that are not yet written.
    zeros: u64,
}

impl SignatureBuilder {
    /// Of an object of about `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::with(head(size))
    }

    fn with(head: Head) -> Self {
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        let chunker = Chunker::new(head.average_log);
        Self { head, chunker, whole: blake3::Hasher::new(), pending: Vec::new(), bytes, chunks: 0, zeros: 0 }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.whole.update(bytes);
        for part in bytes.chunks(READ_BYTES) {
            self.pending.extend_from_slice(part);
            self.cut(self.chunker.max_bytes());
        }
    }

    /// The signature, and the BLAKE3 digest of all bytes.
    #[must_use]
    pub fn finish(mut self) -> (Signature, blake3::Hash) {
        self.cut(1);
        self.write_zeros();
        (Signature { bytes: self.bytes }, self.whole.finalize())
    }

    /// Cuts what is pending while it has `enough` bytes; 1: all of it, as nothing follows.
    fn cut(&mut self, enough: usize) {
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while rest.len() >= enough {
            let cut = if enough > 1 { self.chunker.cut(rest) } else { self.chunker.cut_last(rest) };
            match cut {
                Cut::Chunk(length) => self.chunk(&rest[..length]),
                Cut::Zeros(length) => self.zeros += u64::try_from(length).unwrap_or(u64::MAX),
            }
            rest = &rest[cut.length()..];
        }
        let done = pending.len() - rest.len();
        self.pending = pending;
        self.pending.drain(..done);
    }

    fn chunk(&mut self, chunk: &[u8]) {
        self.write_zeros();
        self.chunks += 1;
        if self.chunks <= MAX_CHUNKS {
            let length = u32::try_from(chunk.len()).expect("a chunk is at most 4 MiB");
            let digest = blake3::hash(chunk);
            write_entry(Entry::Chunk { length, digest: &digest.as_bytes()[..self.head.digest_bytes] }, &mut self.bytes);
        }
    }

    fn write_zeros(&mut self) {
        let length = std::mem::take(&mut self.zeros);
        if length > 0 && self.chunks <= MAX_CHUNKS {
            write_entry(Entry::Zeros { length }, &mut self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
