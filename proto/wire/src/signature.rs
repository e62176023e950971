//! What a receiver says of an object that only it holds: its content-defined chunks, by length and a shortened BLAKE3 digest.
//! `docs/protocol/hde-signature.md` describes it byte by byte and says how chunks are cut.
//!
//! ```text
//! 0      version, 1
//! 1      binary logarithm of the average chunk, 10 to 20
//! 2      bytes of a digest, 5 to 16
//! 3..    entries in the object's order, to the end; lengths are LEB128 in the fewest bytes:
//!          chunk  length, never 0, at most 4 averages; the first bytes of the chunk's BLAKE3 digest
//!          zeros  0; how many zero bytes, never 0
//! ```
//!
//! The entries describe a beginning of the object: what comes behind them is not described. [`Signature::parse`] takes any bytes and
//! promises for what it returns: every entry is whole and within its bounds, offsets do not overflow, and there are at most
//! [`MAX_CHUNKS`] chunks.

/// The most chunks: 40 MiB of signature. An average of 1 MiB reaches 4 TiB; what is beyond is not described.
pub const MAX_CHUNKS: usize = 1 << 22;
/// The smallest average, as a binary logarithm: for small files.
pub const MIN_AVERAGE_LOG: u8 = 10;
/// The largest average, as a binary logarithm, so that no chunk is longer than a segment may be.
pub const MAX_AVERAGE_LOG: u8 = 20;
/// The shortest digest. It needs only make mistakes rare (the length is compared too): the bytes are verified at their receiver.
pub const MIN_DIGEST_BYTES: usize = 5;
/// The longest digest.
pub const MAX_DIGEST_BYTES: usize = 16;
/// A chunk is at most this many averages long.
pub const MAX_AVERAGES: u32 = 4;
/// Bytes before the entries.
pub const HEAD_BYTES: usize = 3;

const VERSION: u8 = 1;

/// A part of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A chunk.
    Chunk {
        /// Its length.
        length: u32,
        /// The beginning of its digest.
        digest: &'a [u8],
    },
    /// Zero bytes.
    Zeros {
        /// How many.
        length: u64,
    },
}

/// Why bytes are no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It ends within the head or an entry.
    #[error("the signature is cut off")]
    CutOff,
    /// Another version.
    #[error("the signature has version {0}, known is 1")]
    Version(u8),
    /// An average or a digest's length that there is not.
    #[error("the signature has parameters that are not known")]
    Parameters,
    /// An entry that is empty, too long or not in its shortest form.
    #[error("the signature has an entry that is not allowed")]
    Entry,
    /// More than [`MAX_CHUNKS`].
    #[error("the signature has too many chunks")]
    TooMany,
}

/// The parameters of a signature, as its head says them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The binary logarithm of the average chunk.
    pub average_log: u8,
    /// Bytes of a digest.
    pub digest_bytes: usize,
}

impl Head {
    /// Appends the head.
    pub fn write(self, out: &mut Vec<u8>) {
        let digest_bytes = u8::try_from(self.digest_bytes).unwrap_or(u8::MAX);
        out.extend_from_slice(&[VERSION, self.average_log, digest_bytes]);
    }

    /// The longest chunk.
    #[must_use]
    pub const fn max_chunk_bytes(self) -> u32 {
        MAX_AVERAGES << self.average_log
    }

    fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), SignatureError> {
        let (&[version, average_log, digest], rest) =
            bytes.split_first_chunk::<HEAD_BYTES>().ok_or(SignatureError::CutOff)?;
        if version != VERSION {
            return Err(SignatureError::Version(version));
        }
        let digest_bytes = usize::from(digest);
        let known = (MIN_AVERAGE_LOG..=MAX_AVERAGE_LOG).contains(&average_log)
            && (MIN_DIGEST_BYTES..=MAX_DIGEST_BYTES).contains(&digest_bytes);
        if known { Ok((Self { average_log, digest_bytes }, rest)) } else { Err(SignatureError::Parameters) }
    }
}

/// Appends an entry; a chunk's digest has the bytes that the head says.
pub fn write_entry(entry: Entry<'_>, out: &mut Vec<u8>) {
    match entry {
        Entry::Chunk { length, digest } => {
            write_length(length.into(), out);
            out.extend_from_slice(digest);
        }
        Entry::Zeros { length } => {
            out.push(0);
            write_length(length, out);
        }
    }
}

/// A parsed signature.
#[derive(Clone, Copy, Debug)]
pub struct Signature<'a> {
    head: Head,
    chunks: usize,
    described_bytes: u64,
    entries: &'a [u8],
}

impl<'a> Signature<'a> {
    /// Parses and checks.
    ///
    /// # Errors
    /// On whatever breaks the form described above.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SignatureError> {
        let (head, entries) = Head::parse(bytes)?;
        let (mut rest, mut chunks, mut described_bytes) = (entries, 0, 0_u64);
        while !rest.is_empty() {
            let length = match next_entry(head, &mut rest)? {
                Entry::Chunk { length, .. } => {
                    chunks += 1;
                    u64::from(length)
                }
                Entry::Zeros { length } => length,
            };
            if chunks > MAX_CHUNKS {
                return Err(SignatureError::TooMany);
            }
            described_bytes = described_bytes.checked_add(length).ok_or(SignatureError::Entry)?;
        }
        Ok(Self { head, chunks, described_bytes, entries })
    }

    /// The parameters.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// How many chunks; at most [`MAX_CHUNKS`].
    #[must_use]
    pub const fn chunks(&self) -> usize {
        self.chunks
    }

    /// How long the described beginning of the object is.
    #[must_use]
    pub const fn described_bytes(&self) -> u64 {
        self.described_bytes
    }

    /// The entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + 'a {
        let (head, mut rest) = (self.head, self.entries);
        std::iter::from_fn(move || if rest.is_empty() { None } else { next_entry(head, &mut rest).ok() })
    }
}

fn next_entry<'a>(head: Head, bytes: &mut &'a [u8]) -> Result<Entry<'a>, SignatureError> {
    let length = read_length(bytes)?;
    if length == 0 {
        let length = read_length(bytes)?;
        return if length == 0 { Err(SignatureError::Entry) } else { Ok(Entry::Zeros { length }) };
    }
    let length = u32::try_from(length).ok().filter(|length| *length <= head.max_chunk_bytes());
    let length = length.ok_or(SignatureError::Entry)?;
    let (digest, rest) = bytes.split_at_checked(head.digest_bytes).ok_or(SignatureError::CutOff)?;
    *bytes = rest;
    Ok(Entry::Chunk { length, digest })
}

fn write_length(mut length: u64, out: &mut Vec<u8>) {
    loop {
        let low = length.to_le_bytes()[0] & 0x7f;
        length >>= 7;
        if length == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn read_length(bytes: &mut &[u8]) -> Result<u64, SignatureError> {
    let mut length = 0_u64;
    for shift in (0..).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(SignatureError::CutOff)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // Ten bytes hold 70 bits; and a last byte of 0 would be a second way to say the same.
        if shift > 63 || (shift == 63 && part > 1) || (shift > 0 && byte == 0) {
            return Err(SignatureError::Entry);
        }
        length |= part << shift;
        if byte < 0x80 {
            break;
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_wrote(parts in prop::collection::vec((1..4_194_304_u32, 1..u64::from(u32::MAX), any::<[u8; 8]>()), 0..40)) {
            let head = Head { average_log: 20, digest_bytes: 8 };
            let mut bytes = Vec::new();
            head.write(&mut bytes);
            let mut described = 0;
            for (length, zeros, digest) in &parts {
                write_entry(Entry::Zeros { length: *zeros }, &mut bytes);
                write_entry(Entry::Chunk { length: *length, digest }, &mut bytes);
                described += u64::from(*length) + zeros;
            }
            let read = Signature::parse(&bytes).expect("our own bytes");
            prop_assert_eq!((read.head(), read.chunks(), read.described_bytes()), (head, parts.len(), described));
            let mut again = Vec::new();
            read.head().write(&mut again);
            read.entries().for_each(|entry| write_entry(entry, &mut again));
            prop_assert_eq!(again, bytes);
        }

        #[test]
        fn takes_any_bytes_and_writes_them_again(bytes in prop::collection::vec(any::<u8>(), 0..200), sound in any::<bool>()) {
            let mut bytes = bytes;
            if sound && bytes.len() > HEAD_BYTES {
                bytes[..HEAD_BYTES].copy_from_slice(&[1, 12, 6]);
            }
            if let Ok(read) = Signature::parse(&bytes) {
                let mut again = Vec::new();
                read.head().write(&mut again);
                read.entries().for_each(|entry| write_entry(entry, &mut again));
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn refuses_what_is_beyond_its_bounds() {
        let refused = |bytes: &[u8]| Signature::parse(bytes).expect_err("beyond the bounds");
        assert_eq!(refused(&[]), SignatureError::CutOff);
        assert_eq!(refused(&[2, 12, 8]), SignatureError::Version(2));
        assert_eq!(refused(&[1, 9, 8]), SignatureError::Parameters);
        assert_eq!(refused(&[1, 21, 8]), SignatureError::Parameters);
        assert_eq!(refused(&[1, 12, 17]), SignatureError::Parameters);
        // A chunk of 4,097 averages' bytes over the most; a length in two forms; no zeros; 2^64 zeros twice.
        assert_eq!(refused(&[1, 10, 6, 0x81, 0x20, 0, 0, 0, 0, 0, 0]), SignatureError::Entry);
        assert_eq!(refused(&[1, 10, 6, 0x81, 0, 0, 0, 0, 0, 0, 0]), SignatureError::Entry);
        assert_eq!(refused(&[1, 10, 6, 0, 0]), SignatureError::Entry);
        let most = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert!(Signature::parse(&[&[1, 10, 6][..], &most].concat()).is_ok());
        assert_eq!(refused(&[&[1, 10, 6][..], &most, &most].concat()), SignatureError::Entry);
        assert_eq!(refused(&[1, 10, 6, 5, 0]), SignatureError::CutOff);
        let many = [1, 0, 0, 0, 0, 0, 0].repeat(MAX_CHUNKS + 1);
        assert_eq!(refused(&[&[1, 10, 6][..], &many].concat()), SignatureError::TooMany);
    }
}
