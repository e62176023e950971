//! Bytes with an Ed25519 signature over them and a context, so that what was signed for one purpose is never taken for
//! another. The signed bytes are kept as they are: nobody has to encode a message again to check it.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use proto_rpc::agent::SignedBytes;

/// What a signature is for. Its words stand in front of the signed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Who may move what from where to where.
    Grant,
    /// Who may measure the path to whom.
    BenchGrant,
    /// Who may keep what in step, run after run.
    SyncGrant,
    /// One member of the fleet.
    RosterEntry,
    /// How far the roster goes.
    RosterHead,
}

impl Context {
    fn words(self) -> &'static [u8] {
        match self {
            Self::Grant => b"dwcp grant v1",
            Self::BenchGrant => b"dwcp bench grant v1",
            Self::SyncGrant => b"dwcp sync grant v1",
            Self::RosterEntry => b"dwcp roster entry v1",
            Self::RosterHead => b"dwcp roster head v1",
        }
    }

    /// The words, a zero byte, the payload: no word contains a zero, so no two contexts share a message.
    fn message(self, payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.words().len() + 1 + payload.len());
        message.extend_from_slice(self.words());
        message.push(0);
        message.extend_from_slice(payload);
        message
    }
}

/// Bytes and their signature; not yet believed until [`open`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What was signed, an encoded message.
    pub payload: Vec<u8>,
    /// Ed25519 over the context and the payload.
    pub signature: [u8; 64],
}

/// The signature does not fit the key, the context or the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// A signature that is not 64 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature has 64 bytes, not {0}")]
pub struct BadSignatureLength(pub usize);

/// Signs `payload` for `context`.
#[must_use]
pub fn sign(key: &SigningKey, context: Context, payload: Vec<u8>) -> Signed {
    let signature = key.sign(&context.message(&payload)).to_bytes();
    Signed { payload, signature }
}

/// The payload, if `key` signed it for `context`.
///
/// # Errors
/// [`BadSignature`]. Verification is strict: weak keys and malleable signatures are refused too.
pub fn open<'a>(key: &VerifyingKey, context: Context, signed: &'a Signed) -> Result<&'a [u8], BadSignature> {
    key.verify_strict(&context.message(&signed.payload), &Signature::from_bytes(&signed.signature))
        .map_err(|_refused| BadSignature)?;
    Ok(&signed.payload)
}

impl Signed {
    /// One string of bytes, for a database column or a file: the signature, then the payload.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.signature.as_slice(), &self.payload].concat()
    }

    /// From [`Signed::to_bytes`].
    ///
    /// # Errors
    /// When there is not even a signature.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSignatureLength> {
        let (signature, payload) = bytes.split_first_chunk::<64>().ok_or(BadSignatureLength(bytes.len()))?;
        Ok(Self { payload: payload.to_vec(), signature: *signature })
    }
}

impl TryFrom<SignedBytes> for Signed {
    type Error = BadSignatureLength;

    fn try_from(bytes: SignedBytes) -> Result<Self, Self::Error> {
        let signature = bytes.signature.as_slice().try_into();
        let signature = signature.map_err(|_wrong| BadSignatureLength(bytes.signature.len()))?;
        Ok(Self { payload: bytes.payload, signature })
    }
}

impl From<Signed> for SignedBytes {
    fn from(signed: Signed) -> Self {
        Self { payload: signed.payload, signature: signed.signature.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes(&[byte; 32])
    }

    #[test]
    fn opens_only_what_this_key_signed_for_this_purpose() {
        let signed = sign(&key(1), Context::Grant, b"payload".to_vec());
        assert_eq!(open(&key(1).verifying_key(), Context::Grant, &signed), Ok(b"payload".as_slice()));
        assert_eq!(open(&key(2).verifying_key(), Context::Grant, &signed), Err(BadSignature));
        assert_eq!(open(&key(1).verifying_key(), Context::RosterEntry, &signed), Err(BadSignature));
        let changed = Signed { payload: b"Payload".to_vec(), ..signed };
        assert_eq!(open(&key(1).verifying_key(), Context::Grant, &changed), Err(BadSignature));
    }

    #[test]
    fn survives_the_way_through_a_message_and_a_column() {
        let signed = sign(&key(3), Context::RosterHead, vec![0, 1, 2]);
        assert_eq!(Signed::try_from(SignedBytes::from(signed.clone())), Ok(signed.clone()));
        assert_eq!(Signed::from_bytes(&signed.to_bytes()), Ok(signed));
        assert_eq!(Signed::from_bytes(&[0; 63]), Err(BadSignatureLength(63)));
        let short = SignedBytes { payload: vec![], signature: vec![0; 65] };
        assert_eq!(Signed::try_from(short), Err(BadSignatureLength(65)));
    }
}
