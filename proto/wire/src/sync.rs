//! The standing grant of a sync, as the control plane signs it and both ends check it (D16), and what opens one of its runs.

use ed25519_dalek::{SigningKey, VerifyingKey};
use prost::Message;
use proto_model::{InvalidField, SyncGrant, SyncRun, TransferId};
use proto_rpc::{agent, peer as rpc, peer::open_sync::Source};

use crate::{
    frames::BadFrame,
    grant::{MAX_GRANT_BYTES, OpenError, checked},
    signed::{self, Context, Signed},
};

/// Opens one run of a standing sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSync {
    /// The standing grant; not yet checked.
    pub grant: Signed,
    /// The run's number, from 1 on.
    pub run: u64,
    /// What the source is, by the sender's word.
    pub source: SyncSource,
}

/// What the source of a sync is: it decides what of the destination is to be empty before the first run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncSource {
    /// A file; only its own name is looked at.
    OneFile,
    /// A folder, as a folder of its own name.
    FolderByName,
    /// A folder's contents, in the destination itself.
    Contents,
}

/// Signs a standing grant.
#[must_use]
pub fn sign(key: &SigningKey, grant: &SyncGrant) -> Signed {
    signed::sign(key, Context::SyncGrant, agent::SyncGrant::from(grant.clone()).encode_to_vec())
}

/// The standing grant, if `key` signed it as one. Whom it binds, when it holds and for which runs is for the caller to check.
///
/// # Errors
/// [`OpenError`].
pub fn open(key: &VerifyingKey, grant: &Signed) -> Result<SyncGrant, OpenError> {
    let payload = checked(key, Context::SyncGrant, grant, MAX_GRANT_BYTES)?;
    Ok(agent::SyncGrant::decode(payload).map_err(|_bytes| OpenError::Encoding)?.try_into()?)
}

impl SyncSource {
    fn from_number(number: i32) -> Result<Self, InvalidField> {
        match Source::try_from(number).unwrap_or(Source::Unspecified) {
            Source::Unspecified => Err(InvalidField::new("sync.source", "says nothing")),
            Source::OneFile => Ok(Self::OneFile),
            Source::FolderByName => Ok(Self::FolderByName),
            Source::Contents => Ok(Self::Contents),
        }
    }
}

impl From<SyncSource> for Source {
    fn from(source: SyncSource) -> Self {
        match source {
            SyncSource::OneFile => Self::OneFile,
            SyncSource::FolderByName => Self::FolderByName,
            SyncSource::Contents => Self::Contents,
        }
    }
}

impl TryFrom<rpc::OpenSync> for OpenSync {
    type Error = BadFrame;

    fn try_from(open: rpc::OpenSync) -> Result<Self, BadFrame> {
        let grant = open.grant.ok_or_else(|| InvalidField::missing("sync.grant"))?;
        if open.run == 0 {
            return Err(InvalidField::missing("sync.run").into());
        }
        let run = SyncRun::check_number(open.run).map_err(|error| InvalidField::new("sync.run", error))?;
        Ok(Self { grant: grant.try_into()?, run, source: SyncSource::from_number(open.source)? })
    }
}

impl From<OpenSync> for rpc::OpenSync {
    fn from(open: OpenSync) -> Self {
        Self { grant: Some(open.grant.into()), run: open.run, source: Source::from(open.source).into() }
    }
}

/// Whether a transfer's id is the one of this run.
#[must_use]
pub fn is_run(grant: &SyncGrant, run: u64, transfer: TransferId) -> bool {
    grant.sync().run(run) == transfer
}

#[cfg(test)]
mod tests {
    use proto_model::{Grant, GrantParty, NodeUid, PublicKey, TransferOptions, from_unix_ms};
    use uuid::Uuid;

    use super::*;
    use crate::{grant, signed::BadSignature};

    fn party(seed: u8) -> GrantParty {
        let key = PublicKey::try_from(SigningKey::from_bytes(&[seed; 32]).verifying_key()).unwrap();
        GrantParty { uid: NodeUid::new(Uuid::from_u128(seed.into())), key }
    }

    fn standing() -> SyncGrant {
        let grant = Grant {
            fleet: "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse().unwrap(),
            epoch: 1.into(),
            transfer: TransferId::from_parts(1, &[1; 10]),
            source: party(1),
            destination: party(2),
            source_paths: vec!["data:/x".parse().unwrap()],
            destination_path: "in:/".parse().unwrap(),
            options: TransferOptions { delete: true, ..TransferOptions::default() },
            not_before: from_unix_ms(1).unwrap(),
            not_after: from_unix_ms(2).unwrap(),
        };
        SyncGrant { grant, name: "photos".parse().unwrap(), serial: 3, overwrite: 1 }
    }

    #[test]
    fn a_standing_grant_is_none_for_one_transfer_nor_the_other_way_round() {
        let (key, standing) = (SigningKey::from_bytes(&[9; 32]), standing());
        let signed = sign(&key, &standing);
        assert_eq!(open(&key.verifying_key(), &signed), Ok(standing.clone()));
        assert_eq!(grant::open(&key.verifying_key(), &signed), Err(OpenError::Signature(BadSignature)));
        let once = grant::sign(&key, &standing.grant);
        assert_eq!(open(&key.verifying_key(), &once), Err(OpenError::Signature(BadSignature)));
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        assert_eq!(open(&other, &signed), Err(OpenError::Signature(BadSignature)));
    }

    #[test]
    fn what_a_sync_may_not_be_is_no_standing_grant() {
        let key = SigningKey::from_bytes(&[9; 32]);
        let mut two_sources = standing();
        two_sources.grant.source_paths.push("data:/y".parse().unwrap());
        let mut keeps = standing();
        keeps.grant.options.delete = false;
        let unnumbered = SyncGrant { serial: 0, ..standing() };
        for (bad, field) in [(two_sources, "grant.source_paths"), (keeps, "grant.delete"), (unnumbered, "serial")] {
            match open(&key.verifying_key(), &sign(&key, &bad)) {
                Err(OpenError::Field(refused)) => assert_eq!(refused.field, field),
                other => panic!("{other:?}"),
            }
        }
    }
}
