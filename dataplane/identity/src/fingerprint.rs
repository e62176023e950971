//! The fingerprint of a fleet's CA: SHA-256 of its certificate's DER (D6).

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{SHA256, digest};

/// What an operator hands to a host that joins, as `sha256:HEX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CaFingerprint([u8; 32]);

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a CA fingerprint is `sha256:` and 64 hexadecimal digits")]
pub struct BadFingerprint;

impl CaFingerprint {
    /// Of a certificate, DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// The digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for CaFingerprint {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for CaFingerprint {
    type Err = BadFingerprint;

    /// Colons between the digits, as `openssl x509 -fingerprint` prints them, are taken too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String =
            text.trim().strip_prefix("sha256:").ok_or(BadFingerprint)?.chars().filter(|c| *c != ':').collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_malformed| BadFingerprint)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for CaFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_is_shown() {
        let fingerprint = CaFingerprint::of(b"certificate");
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!("sha256:00".parse::<CaFingerprint>(), Err(BadFingerprint));
        assert_eq!("00".repeat(32).parse::<CaFingerprint>(), Err(BadFingerprint));
    }
}
