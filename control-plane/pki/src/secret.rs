//! The secrets of tokens: 256 random bits with a prefix that says what they open. Only their hashes are stored.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

const SECRET_BYTES: usize = 32;

/// Why there is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text is no such secret. What it was is not said: it may be one of another kind.
    #[error("not a token of the form {0}…")]
    Malformed(&'static str),
    /// There is no randomness.
    #[error("the machine has no randomness")]
    NoRandomness,
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<[u8; SECRET_BYTES]>);

        impl $name {
            /// What its text begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes a new one.
            ///
            /// # Errors
            /// There is no randomness.
            pub fn generate() -> Result<Self, SecretError> {
                random().map(Self)
            }

            /// Reads one.
            ///
            /// # Errors
            /// The text is none.
            pub fn parse(text: &str) -> Result<Self, SecretError> {
                decode(text, Self::PREFIX).map(Self)
            }

            /// The text that is given to its holder, and never kept.
            #[must_use]
            pub fn expose(&self) -> Zeroizing<String> {
                Zeroizing::new(format!("{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(self.0.as_slice())))
            }

            /// What is stored, and looked up by: SHA-256, enough for 256 random bits.
            #[must_use]
            pub fn hash(&self) -> [u8; 32] {
                hash(Self::PREFIX, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "…"))
            }
        }
    };
}

secret! {
    /// The secret of a join token: `dwcp1.…`.
    JoinSecret, "dwcp1."
}

secret! {
    /// The secret of an operator token: `dwcpo1.…`.
    OperatorSecret, "dwcpo1."
}

fn random() -> Result<Zeroizing<[u8; SECRET_BYTES]>, SecretError> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_unspecified| SecretError::NoRandomness)?;
    Ok(bytes)
}

fn decode(text: &str, prefix: &'static str) -> Result<Zeroizing<[u8; SECRET_BYTES]>, SecretError> {
    let malformed = SecretError::Malformed(prefix);
    let encoded = text.trim().strip_prefix(prefix).ok_or(malformed)?;
    // 43 characters hold 32 bytes; longer text is not even decoded.
    if encoded.len() != 43 {
        return Err(malformed);
    }
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_not_base64| malformed)?);
    let bytes = bytes.as_slice().try_into().map_err(|_length| malformed)?;
    Ok(Zeroizing::new(bytes))
}

fn hash(prefix: &str, secret: &[u8; SECRET_BYTES]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &[prefix.as_bytes(), secret.as_slice()].concat()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_is_never_shown_by_accident() {
        let secret = OperatorSecret::generate().unwrap();
        let text = secret.expose();
        assert_eq!(OperatorSecret::parse(&format!("{}\n", *text)).unwrap().hash(), secret.hash());
        assert_eq!(format!("{secret:?}"), "dwcpo1.…");
        assert!(JoinSecret::parse(&text).is_err(), "one kind does not open what the other does");
        assert!(OperatorSecret::parse("dwcpo1.short").is_err());
        assert_ne!(OperatorSecret::generate().unwrap().hash(), secret.hash());
    }
}
