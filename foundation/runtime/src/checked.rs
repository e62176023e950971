//! Files that say themselves whether they are whole: what was written ends with its SHA-256, so that a flipped bit, a missing
//! end or an emptied file is never taken for another value. This is against disks and accidents; who may write the file may
//! also write the digest.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde_json::Value;

/// The member of a JSON object that holds the digest of all others.
const MEMBER: &str = "sha256";

/// What is wrong with a file: a clause for the sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Nothing is in it.
    #[error("it is empty")]
    Empty,
    /// It is no JSON object.
    #[error("it is not JSON: {0}")]
    Malformed(String),
    /// It has no digest.
    #[error("its digest is missing")]
    NoDigest,
    /// The digest is of something else.
    #[error("its digest is not that of what it says")]
    Digest,
}

/// The bytes of a file: these, and their digest.
#[must_use]
pub fn seal(bytes: &[u8]) -> Vec<u8> {
    [bytes, digest(&SHA256, bytes).as_ref()].concat()
}

/// What [`seal`] was given.
///
/// # Errors
/// The file is damaged.
pub fn open(file: &[u8]) -> Result<&[u8], Damage> {
    if file.is_empty() {
        return Err(Damage::Empty);
    }
    let at = file.len().checked_sub(SHA256_OUTPUT_LEN).ok_or(Damage::NoDigest)?;
    let (bytes, sealed) = file.split_at(at);
    if digest(&SHA256, bytes).as_ref() == sealed { Ok(bytes) } else { Err(Damage::Digest) }
}

/// The bytes of a file for people: a JSON object with one more member. What is no object has none, and does not open again.
#[must_use]
pub fn seal_json(mut value: Value) -> Vec<u8> {
    let sealed = digest_of(&value);
    if let Value::Object(members) = &mut value {
        members.insert(MEMBER.to_owned(), sealed.into());
    }
    format!("{value:#}\n").into_bytes()
}

/// What [`seal_json`] was given.
///
/// # Errors
/// The file is damaged.
pub fn open_json(file: &[u8]) -> Result<Value, Damage> {
    if file.is_empty() {
        return Err(Damage::Empty);
    }
    let mut value: Value = serde_json::from_slice(file).map_err(|error| Damage::Malformed(error.to_string()))?;
    let sealed = value.as_object_mut().and_then(|members| members.remove(MEMBER)).ok_or(Damage::NoDigest)?;
    if sealed == digest_of(&value).as_str() { Ok(value) } else { Err(Damage::Digest) }
}

fn digest_of(value: &Value) -> String {
    let sealed = digest(&SHA256, value.to_string().as_bytes());
    sealed.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found_or_changes_nothing() {
        let said = serde_json::json!({"epoch": 7, "name": "site-a", "list": ["x", {"y": 1}]});
        let (json, bytes) = (seal_json(said.clone()), seal(b"some bytes"));
        assert_eq!(open_json(&json).unwrap(), said);
        assert_eq!(open(&bytes).unwrap(), b"some bytes");
        for bit in 0..json.len() * 8 {
            let mut flipped = json.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open_json(&flipped).is_ok_and(|value| value == said) || open_json(&flipped).is_err(), "bit {bit}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&flipped), Err(Damage::Digest), "bit {bit}");
        }
        for length in 0..bytes.len() {
            open(&bytes[..length]).unwrap_err();
        }
        for length in 0..json.len() - 1 {
            open_json(&json[..length]).unwrap_err();
        }
        assert_eq!(open_json(b"{}"), Err(Damage::NoDigest));
    }
}
