//! [`TrustBundle`].

use prost::Message as _;
use proto_rpc::agent as rpc;

use crate::{Digest, Epoch, FleetId, InvalidField, PublicKey, invalid_field::at};

/// What an agent trusts: the fleet's CA, and the keys that sign rosters, grants and audit heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// The trust domain.
    pub fleet: FleetId,
    /// The CA's certificate, DER.
    pub ca_certificate: Vec<u8>,
    /// Signs roster entries and heads.
    pub roster_key: PublicKey,
    /// Signs grants.
    pub grant_key: PublicKey,
    /// C2SP verifier key of the audit log.
    pub audit_verifier_key: String,
    /// Counts restores.
    pub epoch: Epoch,
}

impl TrustBundle {
    /// A P-256 CA certificate has below 1 KiB.
    pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

    /// By which two are told apart: SHA-256 over its message.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::sha256(&rpc::TrustBundle::from(self.clone()).encode_to_vec())
    }
}

impl TryFrom<rpc::TrustBundle> for TrustBundle {
    type Error = InvalidField;

    fn try_from(bundle: rpc::TrustBundle) -> Result<Self, Self::Error> {
        match bundle.ca_certificate.len() {
            0 => return Err(InvalidField::missing("ca_certificate")),
            1..=Self::MAX_CERTIFICATE_BYTES => {}
            _ => return Err(InvalidField::new("ca_certificate", "is too long")),
        }
        Ok(Self {
            fleet: bundle.fleet_id.parse().map_err(at("fleet_id"))?,
            ca_certificate: bundle.ca_certificate,
            roster_key: PublicKey::try_from(bundle.roster_key.as_slice()).map_err(at("roster_key"))?,
            grant_key: PublicKey::try_from(bundle.grant_key.as_slice()).map_err(at("grant_key"))?,
            audit_verifier_key: bundle.audit_verifier_key,
            epoch: bundle.epoch.into(),
        })
    }
}

impl From<TrustBundle> for rpc::TrustBundle {
    fn from(bundle: TrustBundle) -> Self {
        Self {
            fleet_id: bundle.fleet.to_string(),
            ca_certificate: bundle.ca_certificate,
            roster_key: bundle.roster_key.into(),
            grant_key: bundle.grant_key.into(),
            audit_verifier_key: bundle.audit_verifier_key,
            epoch: bundle.epoch.into(),
        }
    }
}
