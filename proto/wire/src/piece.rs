//! What one stream carries: a part of an encoded segment, in a fixed binary form.
//!
//! ```text
//! u8  version, 1      u8  kind        u8  part   u8  parts   u8  attempt   3 bytes 0
//! u32 bytes of all parts together     u32 bytes once decoded
//! u64 file (number in the manifest)   u64 segment (number in the file)     u64 size of the file
//! 32 bytes value
//! the part
//! ```
//!
//! Numbers are little-endian. Kinds: a *segment* of one file, an HDE container (value: its BLAKE3 chaining value, or the file's root
//! where it is the only one); a *bundle* of whole small files ([`BundleRow`]; file: the first; segment: how many); *known*: a list of
//! segments that the receiver makes of what it holds ([`Known`]; value: BLAKE3 of the list); *leaning*: a bundle whose contents are one
//! frame of zstd with a dictionary (size of the file: the dictionary's number).

mod bundle;
mod known;

use bytes::{BufMut, Bytes};

pub use self::{
    bundle::{
        AsRead, BundleRow, MAX_BUNDLE_BASIS_BYTES, MAX_BUNDLE_FILES, MAX_ROW_BYTES, ReadBundle, SMALL_FILE_BYTES,
        read_bundle, write_bundle,
    },
    known::{KNOWN_BYTES, Known, MAX_KNOWN, MAX_KNOWN_SEGMENTS, MAX_RUN, Source, read_known, write_known},
};
use crate::{
    hde::MAX_SEGMENT_BYTES,
    manifest::{MAX_ENTRIES, MAX_FILE_BYTES},
};

/// Bytes before the part.
pub const HEADER_BYTES: usize = 72;
/// A piece, header included: what one stream may carry.
pub const MAX_PIECE_BYTES: usize = (1 << 20) + (4 << 10);
/// Parts of a segment: the longest encoded segment in pieces of 1 MiB, and one for what encoding adds.
pub const MAX_PARTS: u8 = 5;
/// An encoded segment: the longest one, and what a container, or the table of a bundle, adds to it.
pub const MAX_ENCODED_BYTES: usize = MAX_SEGMENT_BYTES as usize + (4 << 10);
/// The smallest segment: below it the headers would weigh more than one part in a hundred.
pub const MIN_SEGMENT_BYTES: u32 = 64 << 10;
const VERSION: u8 = 2;

/// What the parts together are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PieceKind {
    /// A segment of one file.
    Segment,
    /// Whole small files.
    Bundle,
    /// Segments that the receiver makes of what it holds.
    Known,
    /// Whole small files, with a dictionary.
    Leaning,
}

/// The head of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the parts together are.
    pub kind: PieceKind,
    /// The number of this part.
    pub part: u8,
    /// How many there are.
    pub parts: u8,
    /// How often reading the file began anew.
    pub attempt: u8,
    /// Bytes of all parts together.
    pub encoded_bytes: u32,
    /// Bytes once decoded.
    pub decoded_bytes: u32,
    /// The file's number in the manifest; of a bundle the first one's.
    pub file: u64,
    /// The segment's number in the file; of a bundle how many files.
    pub segment: u64,
    /// The file's size; of a leaning bundle its dictionary's number.
    pub file_bytes: u64,
    /// What proves it.
    pub value: [u8; 32],
}

/// Why bytes are no piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPiece {
    /// It ends too early.
    #[error("the piece is cut short")]
    Short,
    /// A version or kind of the future.
    #[error("version or kind {0} of a piece is not known")]
    Unknown(u8),
    /// A number out of range.
    #[error("{0} of a piece is out of range")]
    Range(&'static str),
}

/// How many bytes of a segment each part takes, all but the last.
const PART_BYTES: usize = MAX_PIECE_BYTES - HEADER_BYTES;

impl Header {
    /// The pieces that carry an encoded segment. `room` is [`HEADER_BYTES`] of any contents, then the encoded segment: where
    /// it fits one piece, as most do, it is not copied, and dropped with the piece. `part`, `parts` and `encoded_bytes` are set here.
    ///
    /// # Errors
    /// When there is no room for the header, or the segment is longer than [`MAX_ENCODED_BYTES`].
    pub fn pieces<R>(mut self, mut room: R) -> Result<Vec<Bytes>, BadPiece>
    where
        R: AsRef<[u8]> + AsMut<[u8]> + Send + 'static,
    {
        let encoded = room.as_ref().get(HEADER_BYTES..).ok_or(BadPiece::Short)?;
        if encoded.len() > MAX_ENCODED_BYTES {
            return Err(BadPiece::Range("the length"));
        }
        let parts = encoded.len().div_ceil(PART_BYTES).max(1);
        self.parts = u8::try_from(parts).map_err(|_many| BadPiece::Range("the number of parts"))?;
        self.encoded_bytes = u32::try_from(encoded.len()).map_err(|_long| BadPiece::Range("the length"))?;
        if parts == 1 {
            self.part = 0;
            room.as_mut()[..HEADER_BYTES].copy_from_slice(&self.to_bytes());
            return Ok(vec![Bytes::from_owner(room)]);
        }
        let mut pieces = Vec::with_capacity(parts);
        for (part, bytes) in (0..self.parts).zip(encoded.chunks(PART_BYTES)) {
            self.part = part;
            pieces.push([self.to_bytes().as_slice(), bytes].concat().into());
        }
        Ok(pieces)
    }

    /// Where this part begins in what the parts are together.
    #[must_use]
    pub fn part_offset(&self) -> usize {
        usize::from(self.part) * PART_BYTES
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let kind = match self.kind {
            PieceKind::Segment => 0,
            PieceKind::Bundle => 1,
            PieceKind::Known => 2,
            PieceKind::Leaning => 3,
        };
        let mut bytes = [0; HEADER_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_slice(&[VERSION, kind, self.part, self.parts, self.attempt, 0, 0, 0]);
        out.put_u32_le(self.encoded_bytes);
        out.put_u32_le(self.decoded_bytes);
        out.put_u64_le(self.file);
        out.put_u64_le(self.segment);
        out.put_u64_le(self.file_bytes);
        out.put_slice(&self.value);
        bytes
    }

    /// Header and part of a piece, with every number within its bound.
    ///
    /// # Errors
    /// [`BadPiece`].
    pub fn parse(piece: &Bytes) -> Result<(Self, Bytes), BadPiece> {
        if piece.len() > MAX_PIECE_BYTES {
            return Err(BadPiece::Range("the length"));
        }
        let mut rest: &[u8] = piece;
        let [version, kind, part, parts, attempt, ..] = take::<8>(&mut rest)?;
        if version != VERSION {
            return Err(BadPiece::Unknown(version));
        }
        let kind = match kind {
            0 => PieceKind::Segment,
            1 => PieceKind::Bundle,
            2 => PieceKind::Known,
            3 => PieceKind::Leaning,
            other => return Err(BadPiece::Unknown(other)),
        };
        let header = Self {
            kind,
            part,
            parts,
            attempt,
            encoded_bytes: u32::from_le_bytes(take(&mut rest)?),
            decoded_bytes: u32::from_le_bytes(take(&mut rest)?),
            file: u64::from_le_bytes(take(&mut rest)?),
            segment: u64::from_le_bytes(take(&mut rest)?),
            file_bytes: u64::from_le_bytes(take(&mut rest)?),
            value: take(&mut rest)?,
        };
        header.check(rest.len())?;
        Ok((header, piece.slice(HEADER_BYTES..)))
    }

    fn check(&self, part_len: usize) -> Result<(), BadPiece> {
        let encoded = usize::try_from(self.encoded_bytes).unwrap_or(usize::MAX);
        let parts = usize::from(self.parts);
        let start = self.part_offset();
        let in_range = |ok: bool, what| if ok { Ok(()) } else { Err(BadPiece::Range(what)) };
        in_range(encoded <= MAX_ENCODED_BYTES, "the length of the segment")?;
        in_range(self.decoded_bytes <= MAX_SEGMENT_BYTES, "the decoded length")?;
        in_range(self.parts <= MAX_PARTS && parts == encoded.div_ceil(PART_BYTES).max(1), "the number of parts")?;
        in_range(self.part < self.parts, "the part's number")?;
        in_range(part_len == PART_BYTES.min(encoded - start), "the length of the part")?;
        in_range(self.file < MAX_ENTRIES, "the file's number")?;
        in_range(self.file_bytes <= MAX_FILE_BYTES, "the file's size")?;
        in_range(self.attempt <= 1, "the attempt")
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadPiece> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(BadPiece::Short)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            kind: PieceKind::Segment,
            part: 0,
            parts: 0,
            attempt: 0,
            encoded_bytes: 0,
            decoded_bytes: 7,
            file: 3,
            segment: 9,
            file_bytes: 1 << 40,
            value: [8; 32],
        }
    }

    #[test]
    fn the_longest_segment_travels_in_five_parts_and_comes_back() {
        let encoded: Vec<u8> = (0_u8..=250).cycle().take(MAX_ENCODED_BYTES).collect();
        for len in [0, 1, PART_BYTES, PART_BYTES + 1, MAX_ENCODED_BYTES] {
            let room = [[7; HEADER_BYTES].as_slice(), &encoded[..len]].concat();
            let pieces = header().pieces(room).unwrap();
            let mut whole = Vec::new();
            for (part, piece) in pieces.iter().enumerate() {
                let (head, bytes) = Header::parse(piece).unwrap();
                assert_eq!((usize::from(head.part), usize::from(head.parts)), (part, pieces.len()));
                assert_eq!((head.file, head.segment, head.value), (3, 9, [8; 32]));
                assert_eq!(head.part_offset(), whole.len());
                whole.extend_from_slice(&bytes);
            }
            assert_eq!(whole, encoded[..len]);
        }
    }

    proptest! {
        #[test]
        fn takes_any_bytes_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let [version, kind, ..] = bytes.as_mut_slice() {
                *version = VERSION;
                *kind %= 4;
            }
            drop(Header::parse(&bytes.clone().into()));
        }
    }
}
