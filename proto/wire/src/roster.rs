//! The roster's entries and heads as the control plane signs them, and as agents check them (D1).

use ed25519_dalek::{SigningKey, VerifyingKey};
use prost::Message;
use proto_model::{RosterEntry, RosterHead};
use proto_rpc::agent as rpc;

use crate::{
    grant::{OpenError, checked},
    signed::{self, Context, Signed},
};

/// An entry with 64 labels of full length has below 10 KiB.
pub const MAX_ENTRY_BYTES: usize = 16 << 10;
/// A head is four numbers.
pub const MAX_HEAD_BYTES: usize = 256;

/// Signs an entry.
#[must_use]
pub fn sign_entry(key: &SigningKey, entry: &RosterEntry) -> Signed {
    signed::sign(key, Context::RosterEntry, rpc::RosterEntry::from(entry.clone()).encode_to_vec())
}

/// The entry, if `key` signed it.
///
/// # Errors
/// [`OpenError`].
pub fn open_entry(key: &VerifyingKey, entry: &Signed) -> Result<RosterEntry, OpenError> {
    let payload = checked(key, Context::RosterEntry, entry, MAX_ENTRY_BYTES)?;
    Ok(rpc::RosterEntry::decode(payload).map_err(|_bytes| OpenError::Encoding)?.try_into()?)
}

/// Signs a head.
#[must_use]
pub fn sign_head(key: &SigningKey, head: &RosterHead) -> Signed {
    signed::sign(key, Context::RosterHead, rpc::RosterHead::from(*head).encode_to_vec())
}

/// The head, if `key` signed it.
///
/// # Errors
/// [`OpenError`].
pub fn open_head(key: &VerifyingKey, head: &Signed) -> Result<RosterHead, OpenError> {
    let payload = checked(key, Context::RosterHead, head, MAX_HEAD_BYTES)?;
    Ok(rpc::RosterHead::decode(payload).map_err(|_bytes| OpenError::Encoding)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use proto_model::{Labels, NodeUid, PublicKey, from_unix_ms};
    use uuid::Uuid;

    use super::*;
    use crate::signed::BadSignature;

    #[test]
    fn entries_and_heads_come_back_and_are_not_taken_for_each_other() {
        let key = SigningKey::from_bytes(&[9; 32]);
        let entry = RosterEntry {
            epoch: 1.into(),
            sequence: 7.into(),
            uid: NodeUid::new(Uuid::from_u128(5)),
            name: "site-b".parse().unwrap(),
            public_key: PublicKey::try_from(key.verifying_key()).unwrap(),
            labels: Labels::from_pairs([("region", "north")]).unwrap(),
            relay: true,
            revoked: false,
        };
        let head = RosterHead { epoch: 1.into(), sequence: 7.into(), members: 3, time: from_unix_ms(9).unwrap() };
        let (signed_entry, signed_head) = (sign_entry(&key, &entry), sign_head(&key, &head));
        assert_eq!(open_entry(&key.verifying_key(), &signed_entry), Ok(entry));
        assert_eq!(open_head(&key.verifying_key(), &signed_head), Ok(head));
        assert_eq!(open_head(&key.verifying_key(), &signed_entry), Err(OpenError::Signature(BadSignature)));
        assert_eq!(open_entry(&key.verifying_key(), &signed_head), Err(OpenError::Signature(BadSignature)));
    }
}
