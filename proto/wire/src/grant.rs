//! Grants as the control plane signs them, and as both ends of a transfer check them (D16).

use ed25519_dalek::{SigningKey, VerifyingKey};
use prost::Message;
use proto_model::{Grant, InvalidField};
use proto_rpc::agent as rpc;

use crate::signed::{self, BadSignature, Context, Signed};

/// A grant with 1,024 paths of full length would be larger than a control frame; this is more than any honest one.
pub const MAX_GRANT_BYTES: usize = 512 << 10;

/// Why signed bytes are no grant, or no roster entry or head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not signed by that key for that purpose.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// Larger than any honest one.
    #[error("the signed message is too large")]
    TooLarge,
    /// Signed, but not an encoded message.
    #[error("the signed message cannot be decoded")]
    Encoding,
    /// Signed, but not understood here.
    #[error("the signed message is not valid: {0}")]
    Field(#[from] InvalidField),
}

/// Signs a grant.
#[must_use]
pub fn sign(key: &SigningKey, grant: &Grant) -> Signed {
    signed::sign(key, Context::Grant, rpc::Grant::from(grant.clone()).encode_to_vec())
}

/// The grant, if `key` signed it. Whom it binds and when it holds is for the caller to check.
///
/// # Errors
/// [`OpenError`].
pub fn open(key: &VerifyingKey, grant: &Signed) -> Result<Grant, OpenError> {
    let payload = checked(key, Context::Grant, grant, MAX_GRANT_BYTES)?;
    Ok(rpc::Grant::decode(payload).map_err(|_bytes| OpenError::Encoding)?.try_into()?)
}

pub(crate) fn checked<'a>(
    key: &VerifyingKey,
    context: Context,
    message: &'a Signed,
    max_bytes: usize,
) -> Result<&'a [u8], OpenError> {
    if message.payload.len() > max_bytes {
        return Err(OpenError::TooLarge);
    }
    Ok(signed::open(key, context, message)?)
}

#[cfg(test)]
mod tests {
    use proto_model::{GrantParty, NodeUid, PublicKey, TransferId, TransferOptions, from_unix_ms};
    use uuid::Uuid;

    use super::*;

    fn party(seed: u8) -> GrantParty {
        let key = PublicKey::try_from(SigningKey::from_bytes(&[seed; 32]).verifying_key()).unwrap();
        GrantParty { uid: NodeUid::new(Uuid::from_u128(seed.into())), key }
    }

    #[test]
    fn only_the_grant_key_makes_grants() {
        let grant = Grant {
            fleet: "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse().unwrap(),
            epoch: 1.into(),
            transfer: TransferId::from_parts(1, &[1; 10]),
            source: party(1),
            destination: party(2),
            source_paths: vec!["data:/x".parse().unwrap()],
            destination_path: "in:/".parse().unwrap(),
            options: TransferOptions::default(),
            not_before: from_unix_ms(1).unwrap(),
            not_after: from_unix_ms(2).unwrap(),
        };
        let key = SigningKey::from_bytes(&[9; 32]);
        let signed = sign(&key, &grant);
        assert_eq!(open(&key.verifying_key(), &signed), Ok(grant));
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        assert_eq!(open(&other, &signed), Err(OpenError::Signature(BadSignature)));
        let empty = signed::sign(&key, Context::Grant, Vec::new());
        assert!(matches!(open(&key.verifying_key(), &empty), Err(OpenError::Field(_))));
        let entry = signed::sign(&key, Context::RosterEntry, signed.payload);
        assert_eq!(open(&key.verifying_key(), &entry), Err(OpenError::Signature(BadSignature)));
    }
}
