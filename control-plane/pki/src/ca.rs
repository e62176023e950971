//! The fleet's certificate authority: P-256 itself, so that browsers take its servers' certificates; nodes' certificates are over their
//! own Ed25519 keys.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PublicKeyData as _, SanType, SerialNumber, SigningKey as _,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::certificate::{audit_key_message, fingerprint, node_name};

/// The name that agents expect of every server of their fleet, whatever its address.
pub const CONTROL_PLANE_NAME: &str = "control-plane.dwcp";

/// How long a node's certificate lives: renewed from day 30, 60 days without a control plane do no harm.
pub const NODE_CERTIFICATE_DAYS: u64 = 90;

/// How long a server's certificate lives; it is made anew at every start and every month.
pub const SERVER_CERTIFICATE_DAYS: u64 = 90;

/// How long the CA lives: changing it means touching every host.
const CA_DAYS: u64 = 20 * 365;

/// How far in the past certificates begin, so that a host whose clock is behind takes them.
pub const BACKDATED: Duration = Duration::from_hours(1);

const DAY: Duration = Duration::from_hours(24);

/// The fleet's certificate authority, with its key.
pub struct FleetCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A node's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    /// DER.
    pub der: Vec<u8>,
    /// When it ends.
    pub not_after: DateTime<Utc>,
    /// The node's Ed25519 key, from the request.
    pub public_key: [u8; 32],
}

/// A server's certificate with its key.
pub struct ServerCertificate {
    /// The server's certificate, then the CA's, so that who joins can check the CA's fingerprint.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// When it ends.
    pub not_after: DateTime<Utc>,
}

/// How people reach a server, besides `localhost` and loopback addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS names.
    pub names: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request is malformed, or not signed by the key in it.
    #[error("not a certificate request signed by its own key")]
    Request {
        /// What rcgen found.
        source: rcgen::Error,
    },
    /// The request's key is not Ed25519.
    #[error("the certificate request is not over an Ed25519 key")]
    NotEd25519,
    /// A name cannot stand in a certificate.
    #[error("not a DNS name: {0:?}")]
    Name(String),
    /// The kept certificate or key cannot be read.
    #[error("the CA's certificate or key is damaged")]
    Damaged {
        /// What rcgen found.
        source: rcgen::Error,
    },
    /// Signing failed.
    #[error("the certificate could not be made")]
    Make {
        /// What rcgen found.
        source: rcgen::Error,
    },
}

impl FleetCa {
    /// Makes the CA of a new fleet. The fleet's id is in its name: two CAs of one name would be mistaken for one another.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate(fleet_id: &str, now: DateTime<Utc>) -> Result<Self, CaError> {
        let make = |source| CaError::Make { source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let mut params = parameters(&format!("DWCP fleet {fleet_id}"), now, CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(make)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The CA from what was kept of it: the certificate's DER and the key's PKCS #8.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn from_parts(certificate: &[u8], key: &[u8]) -> Result<Self, CaError> {
        let damaged = |source| CaError::Damaged { source };
        let certificate = CertificateDer::from(certificate.to_vec());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &PKCS_ECDSA_P256_SHA256)
            .map_err(damaged)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(damaged)?;
        Ok(Self { issuer, certificate })
    }

    /// The CA's certificate, DER.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem(&self.certificate)
    }

    /// The CA's key, PKCS #8: to be sealed.
    #[must_use]
    pub fn key_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.issuer.key().serialize_der())
    }

    /// SHA-256 of the certificate's DER.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// The Ed25519 key of a node's request, which is signed by that key.
    ///
    /// # Errors
    /// The request is not one, or not over an Ed25519 key.
    pub fn request_key(request: &[u8]) -> Result<[u8; 32], CaError> {
        read_request(request).map(|(_request, key)| key)
    }

    /// Says for whoever trusts the CA that this is the audit log's verifier key; checked by [`crate::verify_audit_key`].
    ///
    /// # Errors
    /// Signing failed.
    pub fn certify_audit_key(&self, verifier_key: &str) -> Result<Vec<u8>, CaError> {
        self.issuer.key().sign(&audit_key_message(verifier_key)).map_err(|source| CaError::Make { source })
    }

    /// A certificate for a node over the key of its request, whose names are ignored.
    ///
    /// # Errors
    /// The request is not one, or not over an Ed25519 key.
    pub fn issue_node(&self, uid: Uuid, request: &[u8], now: DateTime<Utc>) -> Result<NodeCertificate, CaError> {
        let (request, public_key) = read_request(request)?;
        let mut params = parameters(&node_name(uid), now, NODE_CERTIFICATE_DAYS);
        params.subject_alt_names = vec![dns(&node_name(uid))?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let not_after = end(&params);
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(|source| CaError::Make { source })?;
        Ok(NodeCertificate { der: certificate.der().to_vec(), not_after, public_key })
    }

    /// A certificate for a server, over a new key.
    ///
    /// # Errors
    /// A name is no DNS name, or there is no randomness.
    pub fn issue_server(&self, reached_as: &ServerNames, now: DateTime<Utc>) -> Result<ServerCertificate, CaError> {
        let make = |source| CaError::Make { source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let mut params = parameters(CONTROL_PLANE_NAME, now, SERVER_CERTIFICATE_DAYS);
        let names =
            reached_as.names.iter().map(String::as_str).chain(["localhost"]).filter(|n| *n != CONTROL_PLANE_NAME);
        let addresses: BTreeSet<IpAddr> = reached_as
            .addresses
            .iter()
            .copied()
            .chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
            .collect();
        params.subject_alt_names = [CONTROL_PLANE_NAME]
            .into_iter()
            .chain(names.collect::<BTreeSet<_>>())
            .map(dns)
            .chain(addresses.into_iter().map(|address| Ok(SanType::IpAddress(address))))
            .collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let not_after = end(&params);
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            not_after,
        })
    }
}

/// A leaf's parameters; times are whole seconds, as X.509 has them.
/// A request over an Ed25519 key, and that key.
fn read_request(request: &[u8]) -> Result<(CertificateSigningRequestParams, [u8; 32]), CaError> {
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map_err(|source| CaError::Request { source })?;
    if request.public_key.algorithm() != &PKCS_ED25519 {
        return Err(CaError::NotEd25519);
    }
    let key = request.public_key.der_bytes().try_into().map_err(|_length| CaError::NotEd25519)?;
    Ok((request, key))
}

fn parameters(common_name: &str, now: DateTime<Utc>, days: u64) -> CertificateParams {
    let now = SystemTime::from(now);
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * u32::try_from(days).unwrap_or(u32::MAX)).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(Uuid::new_v4().as_bytes()));
    params
}

fn end(params: &CertificateParams) -> DateTime<Utc> {
    DateTime::from_timestamp(params.not_after.unix_timestamp(), 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn dns(name: &str) -> Result<SanType, CaError> {
    let wrong = || CaError::Name(name.to_owned());
    rustls_pki_types::DnsName::try_from(name).map_err(|_form| wrong())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_not_ascii| wrong())?))
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // RFC 7468: 64 characters a line; base64 is ASCII.
        let (line, next) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = next;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

impl fmt::Debug for FleetCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetCa").finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
