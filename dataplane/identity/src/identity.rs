//! [`Identity`]: a node's key, its certificate, and what it trusts, in one data directory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use proto_model::{NodeId, NodeUid, PublicKey, TrustBundle};
use rustls::{
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    Certificate, CertificateError, Membership, NodeKey, NodeKeyError, TrustStore, TrustStoreError, tls::is_issued,
};

/// A node of a fleet. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    key: NodeKey,
    held: Arc<Held>,
    trust: TrustStore,
}

/// The certificate in use, as TLS takes it: a renewal reaches every configuration that was made before it.
#[derive(Debug)]
pub(crate) struct Held(ArcSwap<(Certificate, Arc<CertifiedKey>)>);

/// Why a node's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key.
    #[error(transparent)]
    Key(#[from] NodeKeyError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// What is trusted.
    #[error(transparent)]
    Trust(#[from] TrustStoreError),
    /// TLS cannot use the key.
    #[error("the key and certificate cannot be used for TLS")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// The identity of a data directory; none where the host has not joined (its key may be there).
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn open(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let (Some(certificate), Some(trust)) = (Certificate::load(dir)?, TrustStore::load(dir)?) else {
            return Ok(None);
        };
        is_issued(&certificate, &trust.bundle())
            .map_err(|why| CertificateError::NotIssued { path: dir.join(crate::certificate::FILE), why })?;
        match Self::new(dir, NodeKey::load_or_create(dir)?, certificate, trust) {
            Err(IdentityError::Certificate(CertificateError::OtherKey)) => {
                Err(CertificateError::OtherKeyBeside { path: dir.join(crate::certificate::FILE) }.into())
            }
            opened => opened.map(Some),
        }
    }

    /// Keeps what an enrolment gave. The certificate is written last, so that a host that lost power on the way has not joined.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn establish(
        dir: &Path,
        key: NodeKey,
        certificate: Certificate,
        bundle: TrustBundle,
    ) -> Result<Self, IdentityError> {
        let trust = TrustStore::create(dir, bundle)?;
        let identity = Self::new(dir, key, certificate, trust)?;
        identity.certificate().keep(dir)?;
        Ok(identity)
    }

    fn new(dir: &Path, key: NodeKey, certificate: Certificate, trust: TrustStore) -> Result<Self, IdentityError> {
        let certified = certified(&key, &certificate)?;
        let held = Arc::new(Held(ArcSwap::from_pointee((certificate, certified))));
        Ok(Self(Arc::new(Inner { dir: dir.to_path_buf(), key, held, trust })))
    }

    /// Keeps and uses a renewed certificate: handshakes from now on show it. Blocks on the disk.
    ///
    /// # Errors
    /// It is over another key; or what the file system answers.
    pub fn renewed(&self, certificate: Certificate) -> Result<(), IdentityError> {
        let certified = certified(&self.0.key, &certificate)?;
        certificate.keep(&self.0.dir)?;
        self.0.held.0.store(Arc::new((certificate, certified)));
        Ok(())
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &NodeKey {
        &self.0.key
    }

    /// The key's public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.key.public_key()
    }

    /// SHA-1 of the key's public half.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.0.key.node_id()
    }

    /// The node's uid, by its certificate.
    #[must_use]
    pub fn uid(&self) -> NodeUid {
        self.0.held.0.load().0.uid()
    }

    /// The certificate in use.
    #[must_use]
    pub fn certificate(&self) -> Certificate {
        self.0.held.0.load().0.clone()
    }

    /// What the node trusts.
    #[must_use]
    pub fn trust(&self) -> &TrustStore {
        &self.0.trust
    }

    /// Who is in the fleet.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.0.trust.membership()
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.0.held)
    }
}

fn certified(key: &NodeKey, certificate: &Certificate) -> Result<Arc<CertifiedKey>, IdentityError> {
    if certificate.public_key() != key.public_key() {
        return Err(CertificateError::OtherKey.into());
    }
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(vec![certificate.der().clone()], der, &provider)?))
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().1))
    }
}

impl ResolvesClientCert for Held {
    fn resolve(&self, _roots: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        schemes.contains(&rustls::SignatureScheme::ED25519).then(|| Arc::clone(&self.0.load().1))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
