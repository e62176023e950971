//! The first line of an export.

use std::io;

use foundation_merkle::{Checkpoint, CheckpointError, Hash, MAX_PROOF_HASHES, VerifierKey};
use serde_json::{Map, Value, json};

use crate::canonical_json;

/// The longest header that is read: a head, two proofs and a signature need a fifth of it.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// The form's number, the value of the member that marks the file.
const VERSION: u64 = 1;

/// The first line of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHeader {
    /// The signed head that covers the records.
    pub checkpoint: String,
    /// The key that signed it, as a C2SP verifier key.
    pub verifier_key: String,
    /// The first record.
    pub first: u64,
    /// One past the last record.
    pub next: u64,
    /// The full subtrees on the left of the first record, largest first.
    pub left: Vec<Hash>,
    /// The proof that the log of `next` events is the beginning of the one that the head covers.
    pub consistency: Vec<Hash>,
    /// The CA's signature over the verifier key, so that who trusts the CA can trust the key; empty where there is none.
    pub ca_signature: Vec<u8>,
}

/// A file cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// The first line is no header.
    #[error("line 1: not the header of an export: {0}")]
    Header(&'static str),
    /// A newer program wrote it.
    #[error("line 1: the form has the number {0}, this program knows {VERSION}: a newer one is needed")]
    Version(u64),
    /// The head or its key.
    #[error("line 1: {0}")]
    Head(#[from] CheckpointError),
}

impl ExportHeader {
    /// The line, with its line feed: RFC 8785 canonical JSON.
    #[must_use]
    pub fn line(&self) -> String {
        let hashes = |hashes: &[Hash]| hashes.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut line = canonical_json(&json!({
            "ca_signature": hex::encode(&self.ca_signature),
            "checkpoint": self.checkpoint,
            "consistency": hashes(&self.consistency),
            "dwcp_audit_export": VERSION,
            "first": self.first,
            "left": hashes(&self.left),
            "next": self.next,
            "verifier_key": self.verifier_key,
        }));
        line.push('\n');
        line
    }

    /// Reads the line, without its line feed.
    ///
    /// # Errors
    /// It is not of the form, or of another version of it.
    pub fn parse(line: &[u8]) -> Result<Self, ExportError> {
        let malformed = ExportError::Header;
        if line.len() > MAX_HEADER_BYTES {
            return Err(malformed("it is too long"));
        }
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else {
            return Err(malformed("it is no JSON object"));
        };
        match fields.remove("dwcp_audit_export").and_then(|version| version.as_u64()) {
            Some(VERSION) => {}
            Some(newer) => return Err(ExportError::Version(newer)),
            None => return Err(malformed("it has no dwcp_audit_export")),
        }
        let header = Self {
            checkpoint: text(&mut fields, "checkpoint")?,
            verifier_key: text(&mut fields, "verifier_key")?,
            first: number(&mut fields, "first")?,
            next: number(&mut fields, "next")?,
            left: hashes(&mut fields, "left")?,
            consistency: hashes(&mut fields, "consistency")?,
            ca_signature: hex::decode(text(&mut fields, "ca_signature")?)
                .map_err(|_digits| malformed("ca_signature is not hexadecimal"))?,
        };
        if header.first > header.next {
            return Err(malformed("first is above next"));
        }
        if header.line().strip_suffix('\n').map(str::as_bytes) != Some(line) {
            return Err(malformed("it is not in canonical form"));
        }
        Ok(header)
    }

    /// The head, if this key signed it.
    ///
    /// # Errors
    /// It did not, or the head does not cover the records.
    pub fn head(&self, key: &VerifierKey) -> Result<Checkpoint, ExportError> {
        let head = Checkpoint::parse_and_verify(&self.checkpoint, key)?;
        if self.next > head.size {
            return Err(ExportError::Header("the head does not cover the records"));
        }
        Ok(head)
    }

    /// The key that the file itself names; to be trusted only where it is the known one, or the CA signed it.
    ///
    /// # Errors
    /// It is none.
    pub fn key(&self) -> Result<VerifierKey, ExportError> {
        Ok(self.verifier_key.parse()?)
    }
}

fn text(fields: &mut Map<String, Value>, name: &str) -> Result<String, ExportError> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(ExportError::Header("a text is missing")),
    }
}

fn number(fields: &mut Map<String, Value>, name: &str) -> Result<u64, ExportError> {
    fields.remove(name).and_then(|value| value.as_u64()).ok_or(ExportError::Header("a number is missing"))
}

fn hashes(fields: &mut Map<String, Value>, name: &str) -> Result<Vec<Hash>, ExportError> {
    let Some(Value::Array(values)) = fields.remove(name) else { return Err(ExportError::Header("a proof is missing")) };
    if values.len() > MAX_PROOF_HASHES {
        return Err(ExportError::Header("a proof has too many hashes"));
    }
    let hash = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    values.iter().map(hash).collect::<Option<_>>().ok_or(ExportError::Header("a hash is none"))
}
