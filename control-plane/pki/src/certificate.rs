//! What certificates of a fleet say.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use chrono::{DateTime, Utc};
use uuid::Uuid;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// What follows a node's uid in the name of its certificate.
pub const NODE_NAME_SUFFIX: &str = ".node.dwcp";

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be read.
    #[error("not an X.509 certificate")]
    Malformed,
    /// It has no name of the form `<uid>.node.dwcp`, or more than one name.
    #[error("not a node's certificate: its one name is not a uid with {NODE_NAME_SUFFIX}")]
    NoNode,
    /// The CA did not sign this.
    #[error("not signed by this CA")]
    NotSigned,
}

/// The name in a node's certificate: `<uid>.node.dwcp`.
#[must_use]
pub fn node_name(uid: Uuid) -> String {
    format!("{uid}{NODE_NAME_SUFFIX}")
}

/// The node that a certificate is for. Says nothing of who signed it: TLS has checked that.
///
/// # Errors
/// It is not a node's.
pub fn node_uid_of(certificate: &[u8]) -> Result<Uuid, CertificateError> {
    let certificate = parse(certificate)?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let [GeneralName::DNSName(name)] = names else { return Err(CertificateError::NoNode) };
    let uid = name.strip_suffix(NODE_NAME_SUFFIX).ok_or(CertificateError::NoNode)?;
    let parsed = Uuid::try_parse(uid).map_err(|_form| CertificateError::NoNode)?;
    // Only the form that `node_name` writes.
    if parsed.to_string() == uid { Ok(parsed) } else { Err(CertificateError::NoNode) }
}

/// The Ed25519 key of a certificate.
///
/// # Errors
/// It cannot be read, or is over a key of another kind.
pub fn public_key_of(certificate: &[u8]) -> Result<[u8; 32], CertificateError> {
    let certificate = parse(certificate)?;
    let key = certificate.public_key();
    if key.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
        return Err(CertificateError::NoNode);
    }
    key.subject_public_key.data.as_ref().try_into().map_err(|_length| CertificateError::NoNode)
}

/// What the CA signs of the audit log's verifier key. No certificate begins like this.
pub(crate) fn audit_key_message(verifier_key: &str) -> Vec<u8> {
    format!("dwcp audit key v1\n{verifier_key}").into_bytes()
}

/// Whether the CA with this certificate says that this is the audit log's verifier key.
///
/// # Errors
/// The certificate cannot be read, or the signature is not the CA's.
pub fn verify_audit_key(ca: &[u8], verifier_key: &str, signature: &[u8]) -> Result<(), CertificateError> {
    let ca = parse(ca)?;
    let key = &ca.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.as_ref())
        .verify(&audit_key_message(verifier_key), signature)
        .map_err(|_unspecified| CertificateError::NotSigned)
}

/// When a certificate ends.
///
/// # Errors
/// It cannot be read.
pub fn not_after_of(certificate: &[u8]) -> Result<DateTime<Utc>, CertificateError> {
    let end = parse(certificate)?.validity().not_after.timestamp();
    DateTime::from_timestamp(end, 0).ok_or(CertificateError::Malformed)
}

/// A certificate's fingerprint: SHA-256 of its DER.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
    hash
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateError::Malformed),
    }
}
