//! The node's certificate: by the fleet's CA, over the node's Ed25519 key, kept as `node.crt`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use foundation_runtime::durable;
use proto_model::{NodeUid, PublicKey};
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::node_key::{SPKI_PREFIX, pem};

/// What follows the uid in the name that a node's certificate has.
pub(crate) const NODE_DOMAIN: &str = ".node.dwcp";

/// In a data directory.
pub(crate) const FILE: &str = "node.crt";

/// A node's certificate, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
    public_key: PublicKey,
    uid: NodeUid,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It is no certificate.
    #[error("not an X.509 certificate")]
    Malformed,
    /// It is over a key of another kind.
    #[error("the certificate is not over an Ed25519 key")]
    NotEd25519,
    /// It names no node.
    #[error("the certificate does not name a node")]
    NoNode,
    /// It is over another node's key.
    #[error("the certificate is over another key than this node's")]
    OtherKey,
    /// The kept one is over another key than the kept one.
    #[error("{path} is over another key than ed25519_private.key beside it, so one of the two is damaged; restore both from a backup, or remove both and node.json and join anew with a token made for this node", path = path.display())]
    OtherKeyBeside {
        /// The certificate's file.
        path: PathBuf,
    },
    /// The kept one cannot be used.
    #[error("{path} is damaged ({why}); restore it from a backup, or remove node.json and join anew with a token made for this node", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: Box<Self>,
    },
    /// It and the CA in force do not belong together.
    #[error("{path} is not signed by the CA in trust.bin beside it ({why}), so one of the two is damaged; restore both from a backup, or remove node.json and join anew with a token made for this node", path = path.display())]
    NotIssued {
        /// The file.
        path: PathBuf,
        /// What the check of the signature answered.
        why: rustls::Error,
    },
    /// Its file cannot be read or written.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
}

impl Certificate {
    /// Reads a certificate; whether anybody should believe it is another question.
    ///
    /// # Errors
    /// It is malformed or not over an Ed25519 key.
    pub fn parse(der: Vec<u8>) -> Result<Self, CertificateError> {
        let der = CertificateDer::from(der);
        let public_key = public_key_of(&der)?;
        let (not_before, not_after, uid) = {
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|_malformed| CertificateError::Malformed)?;
            let time = |seconds| DateTime::from_timestamp(seconds, 0).ok_or(CertificateError::Malformed);
            let validity = parsed.validity();
            let uid = uid_of(&parsed).ok_or(CertificateError::NoNode)?;
            (time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?, uid)
        };
        Ok(Self { der, not_before, not_after, public_key, uid })
    }

    /// The certificate of a data directory, if there is one.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn load(dir: &Path) -> Result<Option<Self>, CertificateError> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CertificateError::Io { path, source }),
        };
        let parsed = CertificateDer::from_pem_slice(&text).map_err(|_malformed| CertificateError::Malformed);
        let parsed = parsed.and_then(|der| Self::parse(der.to_vec()));
        parsed.map(Some).map_err(|why| CertificateError::Damaged { path, why: Box::new(why) })
    }

    /// Keeps it in a data directory.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn keep(&self, dir: &Path) -> Result<(), CertificateError> {
        let path = dir.join(FILE);
        durable::replace(&path, pem("CERTIFICATE", &self.der).as_bytes(), 0o644)
            .map_err(|source| CertificateError::Io { path, source })
    }

    /// DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// When it begins to count.
    #[must_use]
    pub fn not_before(&self) -> DateTime<Utc> {
        self.not_before
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> DateTime<Utc> {
        self.not_after
    }

    /// When to ask for the next one: a third of its life after its beginning (day 30 of 90), so that two thirds are left
    /// for a control plane that is away.
    #[must_use]
    pub fn renew_at(&self) -> DateTime<Utc> {
        self.not_before + (self.not_after - self.not_before) / 3
    }

    /// The node that it names.
    #[must_use]
    pub fn uid(&self) -> NodeUid {
        self.uid
    }

    /// The key it is over.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }
}

/// The uid in the only name of a node's certificate, `<uid>.node.dwcp`.
fn uid_of(certificate: &X509Certificate<'_>) -> Option<NodeUid> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    let [GeneralName::DNSName(name)] = names.value.general_names.as_slice() else { return None };
    name.strip_suffix(NODE_DOMAIN)?.parse().ok()
}

/// The Ed25519 key that a certificate is over.
pub(crate) fn public_key_of(der: &CertificateDer<'_>) -> Result<PublicKey, CertificateError> {
    let parsed = ParsedCertificate::try_from(der).map_err(|_malformed| CertificateError::Malformed)?;
    let spki = parsed.subject_public_key_info();
    let key = spki.strip_prefix(SPKI_PREFIX.as_slice()).ok_or(CertificateError::NotEd25519)?;
    let key: [u8; 32] = key.try_into().map_err(|_length| CertificateError::NotEd25519)?;
    PublicKey::from_bytes(&key).map_err(|_weak| CertificateError::NotEd25519)
}
