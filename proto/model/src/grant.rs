//! [`Grant`]: who may move what from where to where, until when (D16); and [`DirectRequest`], which asks without one.

use chrono::{DateTime, Utc};
use proto_rpc::agent as rpc;

use crate::{
    Epoch, FleetId, InvalidField, NodeUid, PublicKey, RootPath, TransferId, TransferOptions, TransferSpec,
    from_unix_ms,
    invalid_field::{at, each},
};

/// A right that the control plane gave when it accepted a transfer. Both ends check it by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The trust domain.
    pub fleet: FleetId,
    /// Counts restores.
    pub epoch: Epoch,
    /// For this transfer and no other.
    pub transfer: TransferId,
    /// Who sends.
    pub source: GrantParty,
    /// Who receives.
    pub destination: GrantParty,
    /// What is sent.
    pub source_paths: Vec<RootPath>,
    /// The folder that receives.
    pub destination_path: RootPath,
    /// How.
    pub options: TransferOptions,
    /// Not before this.
    pub not_before: DateTime<Utc>,
    /// Until when it may begin or go on.
    pub not_after: DateTime<Utc>,
}

/// One end that a grant binds: a node with the key that it has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrantParty {
    /// The node.
    pub uid: NodeUid,
    /// Its key.
    pub key: PublicKey,
}

/// What a direct send asks for. It proves nothing: the receiving root's `accept` decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectRequest {
    /// Chosen by the sender.
    pub transfer: TransferId,
    /// What is sent.
    pub source_paths: Vec<RootPath>,
    /// The folder that receives.
    pub destination_path: RootPath,
    /// How.
    pub options: TransferOptions,
}

impl Grant {
    /// Whether it is valid at this time, give or take `skew` of the clocks.
    #[must_use]
    pub fn is_valid_at(&self, now: DateTime<Utc>, skew: chrono::TimeDelta) -> bool {
        self.not_before - skew <= now && now < self.not_after + skew
    }
}

impl GrantParty {
    pub(crate) fn parse(
        uid: &str,
        key: &[u8],
        uid_field: &'static str,
        key_field: &'static str,
    ) -> Result<Self, InvalidField> {
        Ok(Self { uid: uid.parse().map_err(at(uid_field))?, key: PublicKey::try_from(key).map_err(at(key_field))? })
    }
}

impl TryFrom<rpc::Grant> for DirectRequest {
    type Error = InvalidField;

    fn try_from(grant: rpc::Grant) -> Result<Self, Self::Error> {
        TransferSpec::check_sources(grant.source_paths.len())?;
        Ok(Self {
            transfer: grant.transfer_id.parse().map_err(at("transfer_id"))?,
            source_paths: each("source_paths", &grant.source_paths, |path| RootPath::from_bytes(path))?,
            destination_path: RootPath::from_bytes(&grant.destination_path).map_err(at("destination_path"))?,
            options: TransferOptions {
                delete: grant.delete,
                exclude: TransferOptions::parse_exclude(&grant.exclude)?,
                checksum: grant.checksum,
                dry_run: grant.dry_run,
                max_bytes: TransferOptions::parse_max_bytes(grant.max_bytes),
                deadline: TransferOptions::parse_deadline(grant.deadline_ms)?,
            },
        })
    }
}

impl From<DirectRequest> for rpc::Grant {
    fn from(request: DirectRequest) -> Self {
        Self {
            transfer_id: request.transfer.to_string(),
            source_paths: request.source_paths.iter().map(RootPath::to_bytes).collect(),
            destination_path: request.destination_path.to_bytes(),
            delete: request.options.delete,
            checksum: request.options.checksum,
            dry_run: request.options.dry_run,
            max_bytes: request.options.max_bytes_number(),
            deadline_ms: request.options.deadline_number(),
            exclude: TransferOptions::exclude_texts(request.options.exclude),
            ..Self::default()
        }
    }
}

impl TryFrom<rpc::Grant> for Grant {
    type Error = InvalidField;

    fn try_from(grant: rpc::Grant) -> Result<Self, Self::Error> {
        let fleet = grant.fleet_id.parse().map_err(at("fleet_id"))?;
        let epoch = grant.epoch.into();
        let source = GrantParty::parse(&grant.source_uid, &grant.source_key, "source_uid", "source_key")?;
        let destination =
            GrantParty::parse(&grant.destination_uid, &grant.destination_key, "destination_uid", "destination_key")?;
        let not_before = from_unix_ms(grant.not_before_ms).map_err(at("not_before_ms"))?;
        let not_after = from_unix_ms(grant.not_after_ms).map_err(at("not_after_ms"))?;
        if not_after <= not_before {
            return Err(InvalidField::new("not_after_ms", "is not after not_before_ms"));
        }
        let DirectRequest { transfer, source_paths, destination_path, options } = grant.try_into()?;
        Ok(Self {
            fleet,
            epoch,
            transfer,
            source,
            destination,
            source_paths,
            destination_path,
            options,
            not_before,
            not_after,
        })
    }
}

impl From<Grant> for rpc::Grant {
    fn from(grant: Grant) -> Self {
        let asked = DirectRequest {
            transfer: grant.transfer,
            source_paths: grant.source_paths,
            destination_path: grant.destination_path,
            options: grant.options,
        };
        Self {
            fleet_id: grant.fleet.to_string(),
            epoch: grant.epoch.into(),
            source_uid: grant.source.uid.to_string(),
            source_key: grant.source.key.into(),
            destination_uid: grant.destination.uid.to_string(),
            destination_key: grant.destination.key.into(),
            not_before_ms: grant.not_before.timestamp_millis(),
            not_after_ms: grant.not_after.timestamp_millis(),
            ..asked.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn message() -> rpc::Grant {
        let key = |seed| ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes().to_vec();
        rpc::Grant {
            fleet_id: "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".into(),
            epoch: 1,
            transfer_id: "0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f".into(),
            source_uid: "0192f0c1-7e2a-4cc3-98c4-dc0c0c073990".into(),
            source_key: key(1),
            destination_uid: "0192f0c1-7e2a-4cc3-98c4-dc0c0c073991".into(),
            destination_key: key(2),
            source_paths: vec![b"data:/x\xff".to_vec()],
            destination_path: b"data:/in".to_vec(),
            delete: true,
            exclude: vec!["*.tmp".into()],
            checksum: false,
            dry_run: false,
            max_bytes: 7,
            not_before_ms: 1_000,
            not_after_ms: 2_000,
            deadline_ms: 1_500,
        }
    }

    #[test]
    fn a_grant_survives_the_wire() {
        let grant = Grant::try_from(message()).expect("a grant");
        assert_eq!(rpc::Grant::from(grant.clone()), message());
        let late = from_unix_ms(2_000).expect("a time");
        assert!(!grant.is_valid_at(late, TimeDelta::zero()));
        assert!(grant.is_valid_at(late, TimeDelta::milliseconds(1)));
    }

    #[test]
    fn a_grant_without_a_key_or_time_is_none() {
        for (bad, field) in [
            (rpc::Grant { source_key: vec![], ..message() }, "source_key"),
            (rpc::Grant { not_after_ms: 1_000, ..message() }, "not_after_ms"),
            (rpc::Grant { destination_path: b"data:/../x".to_vec(), ..message() }, "destination_path"),
        ] {
            assert_eq!(Grant::try_from(bad).expect_err("refused").field, field);
        }
    }
}
