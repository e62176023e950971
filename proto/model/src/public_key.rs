//! [`PublicKey`].

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signature, VerifyingKey};

use crate::{NodeId, newtype::serde_as_text};

/// An Ed25519 public key: a point of the curve, and none of the weak ones that accept forged signatures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// The bytes are no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Not 32 of them.
    #[error("an Ed25519 public key has 32 bytes, not {0}")]
    Length(usize),
    /// Not the text form.
    #[error("an Ed25519 public key is written as 64 hexadecimal digits")]
    Text,
    /// No point, or of small order.
    #[error("not a usable Ed25519 public key")]
    NotAKey,
}

impl PublicKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// Where they are no point of the curve, or one of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, PublicKeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_no_point| PublicKeyError::NotAKey)?;
        if key.is_weak() { Err(PublicKeyError::NotAKey) } else { Ok(Self(key)) }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The bytes, owned.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The key as the signature library takes it.
    #[must_use]
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.0
    }

    /// Its address in the DHT.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId::of(self)
    }

    /// Whether the signature is this key's over the message, by the strict rules.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        let bytes = bytes.try_into().map_err(|_length| PublicKeyError::Length(bytes.len()))?;
        Self::from_bytes(bytes)
    }
}

impl TryFrom<VerifyingKey> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(key: VerifyingKey) -> Result<Self, Self::Error> {
        Self::from_bytes(key.as_bytes())
    }
}

impl From<PublicKey> for Vec<u8> {
    fn from(key: PublicKey) -> Self {
        key.as_bytes().to_vec()
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_not_hex| PublicKeyError::Text)?;
        Self::from_bytes(&bytes)
    }
}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

serde_as_text!(PublicKey);

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    #[test]
    fn refuses_weak_keys_and_wrong_lengths() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey::from_bytes(&identity), Err(PublicKeyError::NotAKey));
        assert_eq!(PublicKey::try_from([0; 31].as_slice()), Err(PublicKeyError::Length(31)));
    }

    #[test]
    fn verifies_its_own_signatures_and_no_others() {
        let signer = SigningKey::from_bytes(&[7; 32]);
        let key = PublicKey::try_from(signer.verifying_key()).expect("a key that was made is one");
        let signature = signer.sign(b"x").to_bytes();
        assert!(key.verifies(b"x", &signature));
        assert!(!key.verifies(b"y", &signature));
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}
