//! A stretch of the log as a file that verifies by itself: a header with the signed head and two proofs, then a line for each record.
//!
//! The hashes on the left of the first record and the records together give the root of the log as it was after the last record;
//! the consistency proof leads from that root to the signed head. So nothing in the file but the head's signature has to be believed.
//! The form is fixed, byte for byte, in docs/protocol/audit-export.md.

mod header;
mod verifier;

use foundation_merkle::Hash;

pub use self::{
    header::{ExportError, ExportHeader, MAX_HEADER_BYTES},
    verifier::{ExportFinding, ExportReport, ExportVerifier},
};

/// The longest leaf that is read: several times what any event of this program has.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

const RECORD_START: &str = "{\"leaf_hash\":\"";
const RECORD_MIDDLE: &str = "\",\"record\":";
const RECORD_END: &str = "}";
const HASH_DIGITS: usize = 64;

/// A record's line with its line feed. The leaf stands in it as it was hashed.
#[must_use]
pub fn record_line(leaf: &[u8], hash: &Hash) -> Vec<u8> {
    let mut line = Vec::with_capacity(leaf.len() + HASH_DIGITS + 32);
    line.extend_from_slice(RECORD_START.as_bytes());
    line.extend_from_slice(hash.to_string().as_bytes());
    line.extend_from_slice(RECORD_MIDDLE.as_bytes());
    line.extend_from_slice(leaf);
    line.extend_from_slice(RECORD_END.as_bytes());
    line.push(b'\n');
    line
}

/// The hash that is said to be the leaf's, and the leaf.
fn parse_record_line(line: &[u8]) -> Option<(Hash, &[u8])> {
    let rest = line.strip_prefix(RECORD_START.as_bytes())?;
    let (digits, rest) = rest.split_at_checked(HASH_DIGITS)?;
    let digits = std::str::from_utf8(digits).ok()?;
    let hash: Hash = digits.parse().ok()?;
    // One form only: upper case would be another file with the same meaning.
    if hash.to_string() != digits {
        return None;
    }
    let leaf = rest.strip_prefix(RECORD_MIDDLE.as_bytes())?.strip_suffix(RECORD_END.as_bytes())?;
    Some((hash, leaf))
}

#[cfg(test)]
mod tests;
