//! A small fleet for tests (feature `testing`): its CA, its keys, and nodes with certificates and rosters. Panics where
//! anything fails.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use ed25519_dalek::SigningKey;
use proto_model::{Epoch, FleetId, Labels, NodeUid, PublicKey, RosterEntry, RosterHead, RosterSequence, TrustBundle};
use proto_wire::{Signed, roster};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    Certificate, Identity, NodeKey, RosterUpdate,
    tls::{CONTROL_PLANE_NAME, node_name, provider},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A fleet's control plane, as far as tests of the data plane need one.
#[derive(Debug)]
pub struct TestFleet {
    issuer: Issuer<'static, KeyPair>,
    bundle: TrustBundle,
    roster_key: SigningKey,
    grant_key: SigningKey,
    roster: Mutex<(RosterSequence, BTreeMap<NodeUid, RosterEntry>)>,
}

/// From when to when a certificate counts, relative to now.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// How long ago it began.
    pub since: Duration,
    /// When it ends: so long after it began.
    pub life: Duration,
}

impl Default for Validity {
    fn default() -> Self {
        Self { since: Duration::from_secs(3600), life: 90 * DAY }
    }
}

impl Default for TestFleet {
    fn default() -> Self {
        Self::new()
    }
}

impl TestFleet {
    /// A fleet without members.
    #[must_use]
    pub fn new() -> Self {
        let fleet = FleetId::from(uuid::Uuid::new_v4());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("there is randomness");
        let mut params = parameters(&format!("DWCP fleet {fleet}"), Validity::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca_certificate = params.self_signed(&key).expect("the parameters are complete").der().to_vec();
        let signer = || NodeKey::generate().expect("there is randomness").signing_key().clone();
        let (roster_key, grant_key) = (signer(), signer());
        let public = |key: &SigningKey| PublicKey::try_from(key.verifying_key()).expect("the key is not weak");
        let bundle = TrustBundle {
            fleet,
            ca_certificate,
            roster_key: public(&roster_key),
            grant_key: public(&grant_key),
            audit_verifier_key: String::new(),
            epoch: Epoch::new(1),
        };
        Self { issuer: Issuer::new(params, key), bundle, roster_key, grant_key, roster: Mutex::default() }
    }

    /// What its members trust.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        self.bundle.clone()
    }

    /// Signs grants.
    #[must_use]
    pub fn grant_key(&self) -> &SigningKey {
        &self.grant_key
    }

    /// A node with a certificate, whose data directory is `dir`. It is in the roster, which it has not got yet.
    #[must_use]
    pub fn node(&self, dir: &Path, name: &str) -> Identity {
        let identity = self.stranger(dir);
        self.enter(&identity, name, Labels::default());
        identity
    }

    /// A node with a certificate of this fleet that the roster does not have.
    #[must_use]
    pub fn stranger(&self, dir: &Path) -> Identity {
        let key = NodeKey::load_or_create(dir).expect("the directory is writable");
        let uid = NodeUid::from(uuid::Uuid::new_v4());
        let certificate = self.certificate(&key, uid, Validity::default());
        Identity::establish(dir, key, certificate, self.bundle()).expect("the parts fit")
    }

    /// Puts a node into the roster, or changes its entry.
    pub fn enter(&self, identity: &Identity, name: &str, labels: Labels) {
        self.change(RosterEntry {
            epoch: self.bundle.epoch,
            sequence: RosterSequence::default(),
            uid: identity.uid(),
            name: name.parse().expect("a node's name"),
            public_key: identity.public_key(),
            labels,
            relay: false,
            revoked: false,
        });
    }

    /// Takes a node out of the roster.
    pub fn revoke(&self, identity: &Identity) {
        let entry = self.roster().1.get(&identity.uid()).cloned().expect("the node is in the roster");
        self.change(RosterEntry { revoked: true, ..entry });
    }

    /// Hands the whole roster to nodes.
    pub fn share<'a>(&self, identities: impl IntoIterator<Item = &'a Identity>) {
        let update = self.roster_after(RosterSequence::default());
        for identity in identities {
            identity.trust().apply(&update).expect("the roster is in order");
        }
    }

    /// The entries after a sequence number, and the head; all of them after 0.
    #[must_use]
    pub fn roster_after(&self, after: RosterSequence) -> RosterUpdate {
        let roster = self.roster();
        let mut entries: Vec<_> = roster.1.values().filter(|entry| entry.sequence > after).collect();
        entries.sort_by_key(|entry| entry.sequence);
        let entries = entries.into_iter().map(|entry| self.sign_entry(entry)).collect();
        let members = roster.1.values().filter(|entry| !entry.revoked).count();
        let head = RosterHead {
            epoch: self.bundle.epoch,
            sequence: roster.0,
            members: u64::try_from(members).expect("few members"),
            time: DateTime::<Utc>::from(now()),
        };
        RosterUpdate { full: after == RosterSequence::default(), entries, head: Some(self.sign_head(&head)) }
    }

    /// Signs an entry, whatever it says.
    #[must_use]
    pub fn sign_entry(&self, entry: &RosterEntry) -> Signed {
        roster::sign_entry(&self.roster_key, entry)
    }

    /// Signs a head, whatever it says.
    #[must_use]
    pub fn sign_head(&self, head: &RosterHead) -> Signed {
        roster::sign_head(&self.roster_key, head)
    }

    /// A certificate over a node's key.
    #[must_use]
    pub fn certificate(&self, key: &NodeKey, uid: NodeUid, validity: Validity) -> Certificate {
        let request = key.csr_der().expect("a request can be made");
        let request = CertificateSigningRequestParams::from_der(&request.as_slice().into()).expect("it is a request");
        let mut params = parameters(&node_name(uid), validity);
        params.subject_alt_names = vec![rcgen::SanType::DnsName(node_name(uid).try_into().expect("the name is ASCII"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.public_key, &self.issuer).expect("the parameters are complete");
        Certificate::parse(certificate.der().to_vec()).expect("it is a node's certificate")
    }

    /// TLS of a control plane of this fleet: the certificate with the fixed name, the CA in the chain, client
    /// certificates neither asked for nor taken.
    #[must_use]
    pub fn server_config(&self) -> ServerConfig {
        let (chain, key) = self.server_certificate();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the key fits");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A control plane's certificate with the CA's, and its key.
    #[must_use]
    pub fn server_certificate(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("there is randomness");
        let mut params = parameters(CONTROL_PLANE_NAME, Validity::default());
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName(CONTROL_PLANE_NAME.try_into().expect("the name is ASCII"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are complete");
        let chain = vec![certificate.der().clone(), CertificateDer::from(self.bundle.ca_certificate.clone())];
        (chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    fn change(&self, entry: RosterEntry) {
        let mut roster = self.roster();
        roster.0 = roster.0.next();
        let sequence = roster.0;
        roster.1.insert(entry.uid, RosterEntry { sequence, ..entry });
    }

    fn roster(&self) -> MutexGuard<'_, (RosterSequence, BTreeMap<NodeUid, RosterEntry>)> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parameters(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    let begin = now() - validity.since;
    params.not_before = begin.into();
    params.not_after = (begin + validity.life).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

#[allow(clippy::disallowed_methods, reason = "certificates are judged by the machine's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
