//! Signed tree heads: C2SP tlog-checkpoint in a C2SP signed-note with an Ed25519 signature.
//!
//! ```text
//! <origin>
//! <size>
//! <root, base64>
//!
//! — <key name> <base64 of key id ‖ signature>
//! ```
//!
//! The key id is the first four bytes of SHA-256(key name ‖ LF ‖ 0x01 ‖ public key); a verifier key is written
//! `<name>+<key id, hexadecimal>+<base64 of 0x01 ‖ public key>`.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::{Hash, hash::sha256};

/// The signature algorithm's number in C2SP signed-note.
const ED25519: u8 = 0x01;

/// The longest note that is read: an origin, a size, a root and a few witnesses' signatures need far less.
const MAX_NOTE_BYTES: usize = 16 * 1024;

/// How many lines of signatures are looked at; C2SP demands at least 16.
const MAX_SIGNATURES: usize = 100;

/// A tree head, unsigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name; it changes when the log begins anew.
    pub origin: String,
    /// How many leaves the tree has.
    pub size: u64,
    /// The tree's root.
    pub root: Hash,
}

/// A public key that signs checkpoints, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: VerifyingKey,
}

/// What is wrong with a checkpoint or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It does not have the form.
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    /// A key's name is empty, or has a space or a plus.
    #[error("not a key name: {0:?}")]
    KeyName(String),
    /// It is no verifier key, or its id does not fit.
    #[error("not a verifier key: {0}")]
    VerifierKey(&'static str),
    /// None of its signatures is by the key.
    #[error("the checkpoint is not signed by {0}")]
    Unsigned(String),
    /// A signature by the key's name and id is wrong.
    #[error("the signature by {0} is wrong")]
    BadSignature(String),
}

impl Checkpoint {
    /// The signed text: origin, size and root, a line each.
    #[must_use]
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// Signs the head with a key of this name.
    ///
    /// # Errors
    /// The key's name, or the origin, cannot stand in a note.
    pub fn sign(&self, key_name: &str, key: &SigningKey) -> Result<String, CheckpointError> {
        let verifier = VerifierKey::new(key_name, key.verifying_key())?;
        if self.origin.is_empty() || self.origin.contains(char::is_control) {
            return Err(CheckpointError::Malformed("the origin is empty or has control characters"));
        }
        let body = self.body();
        let mut signed = verifier.id().to_vec();
        signed.extend_from_slice(&key.sign(body.as_bytes()).to_bytes());
        Ok(format!("{body}\n\u{2014} {key_name} {}\n", STANDARD.encode(signed)))
    }

    /// Reads a signed note, and checks that this key signed it. Signatures by others are ignored.
    ///
    /// # Errors
    /// It has no such form, or no right signature by the key.
    pub fn parse_and_verify(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let (body, signatures) = split(note)?;
        let head = Self::parse_body(body)?;
        key.verify(body, signatures)?;
        Ok(head)
    }

    /// Reads a signed note without believing it.
    ///
    /// # Errors
    /// It has no such form.
    pub fn parse_unverified(note: &str) -> Result<Self, CheckpointError> {
        Self::parse_body(split(note)?.0)
    }

    fn parse_body(body: &str) -> Result<Self, CheckpointError> {
        let mut lines = body.lines();
        let mut line = |what| lines.next().filter(|line| !line.is_empty()).ok_or(CheckpointError::Malformed(what));
        let origin = line("there is no origin")?.to_owned();
        let digits = line("there is no size")?;
        let size: u64 = digits.parse().map_err(|_not_a_number| CheckpointError::Malformed("the size is no number"))?;
        if size.to_string() != digits {
            return Err(CheckpointError::Malformed("the size has leading zeros or a sign"));
        }
        let root = STANDARD
            .decode(line("there is no root")?)
            .ok()
            .and_then(|bytes| Hash::try_from(bytes.as_slice()).ok())
            .ok_or(CheckpointError::Malformed("the root is no hash"))?;
        Ok(Self { origin, size, root })
    }
}

/// The text with its last line feed, and the signature lines: the last empty line parts them.
fn split(note: &str) -> Result<(&str, &str), CheckpointError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(CheckpointError::Malformed("it is too long"));
    }
    if note.contains(|c: char| c.is_control() && c != '\n') {
        return Err(CheckpointError::Malformed("it has control characters"));
    }
    let at = note.rfind("\n\n").ok_or(CheckpointError::Malformed("there are no signatures"))?;
    let (body, signatures) = (&note[..=at], &note[at + 2..]);
    if signatures.is_empty() || !signatures.ends_with('\n') {
        return Err(CheckpointError::Malformed("there are no signatures"));
    }
    Ok((body, signatures))
}

impl VerifierKey {
    /// A key and its name.
    ///
    /// # Errors
    /// The name is empty, or has a space, a control character or a plus.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, CheckpointError> {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') {
            return Err(CheckpointError::KeyName(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), key })
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key itself.
    #[must_use]
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let hash = sha256(&[self.name.as_bytes(), b"\n", &[ED25519], self.key.as_bytes()]);
        [hash[0], hash[1], hash[2], hash[3]]
    }

    fn verify(&self, body: &str, signatures: &str) -> Result<(), CheckpointError> {
        let id = self.id();
        for line in signatures.lines().take(MAX_SIGNATURES) {
            let (name, blob) = line
                .strip_prefix("\u{2014} ")
                .and_then(|rest| rest.split_once(' '))
                .ok_or(CheckpointError::Malformed("a line of signatures has no name and no signature"))?;
            let blob =
                STANDARD.decode(blob).map_err(|_not_base64| CheckpointError::Malformed("a signature is no base64"))?;
            let Some((found, signature)) = blob.split_first_chunk::<4>() else {
                return Err(CheckpointError::Malformed("a signature is too short"));
            };
            if name != self.name || *found != id {
                continue;
            }
            return Signature::from_slice(signature)
                .and_then(|signature| self.key.verify_strict(body.as_bytes(), &signature))
                .map_err(|_wrong| CheckpointError::BadSignature(self.name.clone()));
        }
        Err(CheckpointError::Unsigned(self.name.clone()))
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut typed = vec![ED25519];
        typed.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(typed))
    }
}

impl FromStr for VerifierKey {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let wrong = CheckpointError::VerifierKey;
        // Base64 has pluses of its own: only the first two part the fields.
        let mut fields = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(wrong("name+id+key is expected"));
        };
        let typed = STANDARD.decode(key).map_err(|_not_base64| wrong("the key is no base64"))?;
        let Some((&ED25519, key)) = typed.split_first() else { return Err(wrong("the key is not Ed25519")) };
        let bytes = key.try_into().map_err(|_length| wrong("the key is not 32 bytes long"))?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_point| wrong("the key is no point of the curve"))?;
        let parsed = Self::new(name, key)?;
        if hex::encode(parsed.id()) != id {
            return Err(wrong("the id is not that of the name and the key"));
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf_hash;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn head() -> Checkpoint {
        Checkpoint { origin: "example.org/log".to_owned(), size: 42, root: leaf_hash(b"root") }
    }

    #[test]
    fn reads_the_verifier_key_and_the_note_of_the_go_reference() {
        // golang.org/x/mod/sumdb/note, the example of its documentation.
        let key: VerifierKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        assert_eq!(hex::encode(key.id()), "c74f20a3");
        let body =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        key.verify(body, line).unwrap();
        assert_eq!(
            key.verify(&body.replace("your", "my"), line),
            Err(CheckpointError::BadSignature("PeterNeumann".to_owned()))
        );
    }

    #[test]
    fn a_signed_head_reads_back_only_under_its_key() {
        let verifier = VerifierKey::new("example.org/key", key().verifying_key()).unwrap();
        let note = head().sign("example.org/key", &key()).unwrap();
        assert_eq!(Checkpoint::parse_and_verify(&note, &verifier), Ok(head()));
        assert_eq!(verifier.to_string().parse(), Ok(verifier.clone()));

        let stranger = VerifierKey::new("example.org/key", SigningKey::from_bytes(&[8; 32]).verifying_key()).unwrap();
        assert!(matches!(Checkpoint::parse_and_verify(&note, &stranger), Err(CheckpointError::Unsigned(_))));
        let larger = note.replace("\n42\n", "\n43\n");
        assert!(matches!(Checkpoint::parse_and_verify(&larger, &verifier), Err(CheckpointError::BadSignature(_))));
    }

    #[test]
    fn refuses_what_is_no_checkpoint() {
        for text in ["", "a\n1\n", "a\n01\nAAAA\n\n— k AAAA\n", "a\n1\nAAAA\n\n", "\n\n\n\n"] {
            assert!(Checkpoint::parse_unverified(text).is_err(), "{text:?}");
        }
        assert!(head().sign("two words", &key()).is_err());
        assert!("a+00000000+AAAA".parse::<VerifierKey>().is_err());
    }
}
