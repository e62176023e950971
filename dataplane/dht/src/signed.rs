//! Records under their owner's signature, as BEP 44 mutable items without salt.

use std::{fmt, time::Duration};

use ed25519_dalek::{Signer, SigningKey};
use proto_model::{NodeId, PublicKey};

use crate::record::{FleetTag, MAX_RECORD_BYTES, Record, RecordError};

/// How far a `seq` may lie ahead of the clock, in milliseconds: `seq` is the time it was made at, and one far ahead would lock
/// the key for good.
pub const MAX_SEQ_AHEAD: Duration = Duration::from_secs(24 * 3600);
/// How far clocks may differ (D4).
pub const MAX_SKEW: Duration = Duration::from_secs(300);

/// Signs records for one node.
pub trait RecordSigner: Send + Sync + fmt::Debug {
    /// Whose records.
    fn public_key(&self) -> PublicKey;
    /// Ed25519 over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

impl RecordSigner for SigningKey {
    fn public_key(&self) -> PublicKey {
        PublicKey::try_from(self.verifying_key()).expect("a signing key's public key is a usable one")
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        Signer::sign(self, message).to_bytes()
    }
}

/// A record as it travels; not believed before [`SignedRecord::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct SignedRecord {
    /// Whose it claims to be.
    pub key: PublicKey,
    /// BEP 44 `seq`.
    pub seq: i64,
    /// BEP 44 `v`, before bencoding.
    pub value: Vec<u8>,
    /// BEP 44 `sig`.
    pub signature: [u8; 64],
}

impl fmt::Debug for SignedRecord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, seq, value, signature: _ } = self;
        write!(out, "SignedRecord({key}, seq {seq}, {} bytes)", value.len())
    }
}

/// What a reader takes.
#[derive(Clone, Copy, Debug)]
pub struct Acceptance {
    /// Records of this fleet.
    pub fleet: FleetTag,
    /// The time of day, in milliseconds.
    pub now_ms: i64,
    /// The highest `seq` seen of this key.
    pub known_seq: Option<i64>,
}

/// Why a record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// Another fleet's.
    #[error("the record belongs to another fleet")]
    Fleet,
    /// The signature is not the owner's.
    #[error("the record's signature does not verify")]
    Signature,
    /// Below the highest seen: an old one, played again.
    #[error("seq {seq} is below {known}, which was seen before")]
    Rollback {
        /// Offered.
        seq: i64,
        /// Known.
        known: i64,
    },
    /// Another value was seen at this `seq`: its owner's key is used twice, or its state was set back.
    #[error("another record of seq {0} was seen before")]
    Conflict(i64),
    /// Negative or too far ahead.
    #[error("seq {0} is out of range")]
    Seq(i64),
    /// Ran out, or was taken back.
    #[error("the record has expired")]
    Expired,
    /// Issued later than clocks may differ.
    #[error("the record was issued in the future")]
    Future,
    /// Not a record.
    #[error("the value is not a record")]
    Record(#[from] RecordError),
}

impl Unacceptable {
    /// In a word, for metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Signature => "signature",
            Self::Rollback { .. } => "rollback",
            Self::Conflict(_) => "conflict",
            Self::Seq(_) => "seq",
            Self::Expired => "expired",
            Self::Future => "future",
            Self::Record(_) => "form",
        }
    }
}

/// A record whose owner's signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRecord {
    signed: SignedRecord,
    record: Record,
}

impl SignedRecord {
    /// Signs `record`.
    ///
    /// # Errors
    /// Where the record cannot be encoded.
    pub fn sign(signer: &dyn RecordSigner, seq: i64, record: &Record) -> Result<Self, RecordError> {
        let value = record.encode()?;
        let signature = signer.sign(&signable(seq, &value));
        Ok(Self { key: signer.public_key(), seq, value, signature })
    }

    /// BEP 44 target: where in the table it lies. The node's id, since there is no salt.
    #[must_use]
    pub fn target(&self) -> NodeId {
        self.key.node_id()
    }

    /// Believes it, also beside what is known; of two values at one `seq` the first stays.
    ///
    /// # Errors
    /// Whatever speaks against it.
    pub fn verify_beside(self, known: Option<&Self>, acceptance: &Acceptance) -> Result<VerifiedRecord, Unacceptable> {
        let other = known.is_some_and(|known| known.seq == self.seq && known.value != self.value);
        let verified = self.verify(acceptance)?;
        if other { Err(Unacceptable::Conflict(verified.seq())) } else { Ok(verified) }
    }

    /// Believes it, or says why not.
    ///
    /// # Errors
    /// Whatever speaks against it.
    pub fn verify(self, acceptance: &Acceptance) -> Result<VerifiedRecord, Unacceptable> {
        if self.value.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(self.value.len()).into());
        }
        let ahead = i64::try_from(MAX_SEQ_AHEAD.as_millis()).expect("a day in milliseconds is an i64");
        if self.seq < 0 || self.seq > acceptance.now_ms.saturating_add(ahead) {
            return Err(Unacceptable::Seq(self.seq));
        }
        if let Some(known) = acceptance.known_seq.filter(|known| self.seq < *known) {
            return Err(Unacceptable::Rollback { seq: self.seq, known });
        }
        let verified = self.verify_signature()?;
        let now_s = u64::try_from(acceptance.now_ms / 1000).unwrap_or(0);
        if verified.record.fleet != acceptance.fleet {
            return Err(Unacceptable::Fleet);
        }
        if verified.record.issued_s > now_s.saturating_add(MAX_SKEW.as_secs()) {
            return Err(Unacceptable::Future);
        }
        if verified.record.expired(now_s) { Err(Unacceptable::Expired) } else { Ok(verified) }
    }

    /// Checks the signature and the form, not the time: for records that this host has kept itself.
    ///
    /// # Errors
    /// Where one of them is wrong.
    pub fn verify_signature(self) -> Result<VerifiedRecord, Unacceptable> {
        if !self.key.verifies(&signable(self.seq, &self.value), &self.signature) {
            return Err(Unacceptable::Signature);
        }
        let record = Record::decode(&self.value)?;
        Ok(VerifiedRecord { signed: self, record })
    }
}

impl VerifiedRecord {
    /// What it says.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// As it was signed.
    #[must_use]
    pub const fn signed(&self) -> &SignedRecord {
        &self.signed
    }

    /// Whose it is.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.signed.key
    }

    /// BEP 44 `seq`.
    #[must_use]
    pub const fn seq(&self) -> i64 {
        self.signed.seq
    }
}

/// BEP 44: what is signed, without salt; the value is one bencoded byte string.
pub(crate) fn signable(seq: i64, value: &[u8]) -> Vec<u8> {
    let mut message = format!("3:seqi{seq}e1:v{}:", value.len()).into_bytes();
    message.extend_from_slice(value);
    message
}

#[cfg(test)]
mod tests;
