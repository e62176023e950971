//! TLS of the server: a certificate that is renewed while it runs, clients of the fleet's CA, and those that were revoked.

use std::{collections::HashSet, fmt, sync::Arc};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use control_plane_pki::{CaError, FleetCa, ServerNames, node_uid_of};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use uuid::Uuid;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's certificate could not be made.
    #[error("the server's certificate could not be made")]
    Certificate(#[from] CaError),
    /// rustls refuses it.
    #[error("TLS could not be set up")]
    Rustls(#[from] Error),
    /// The fleet's CA cannot be a root of trust.
    #[error("the fleet's CA cannot be used to verify its nodes")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The server's present certificate.
#[derive(Clone, Debug)]
pub(crate) struct ServerIdentity(Arc<ArcSwap<CertifiedKey>>);

/// The uids of nodes that are out of the fleet; kept fresh by whoever follows the roster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revoked(Arc<ArcSwap<HashSet<Uuid>>>);

impl Revoked {
    /// Replaces the set.
    pub(crate) fn replace(&self, uids: HashSet<Uuid>) {
        self.0.store(Arc::new(uids));
    }

    /// Whether a node is out.
    #[must_use]
    pub(crate) fn contains(&self, uid: Uuid) -> bool {
        self.0.load().contains(&uid)
    }
}

impl ServerIdentity {
    /// A first certificate of the CA.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) fn issue(ca: &FleetCa, names: &ServerNames, now: DateTime<Utc>) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(certify(ca, names, now)?))))
    }

    /// Another certificate, for the connections to come.
    ///
    /// # Errors
    /// See [`TlsError`]; the one before stays in use.
    pub(crate) fn renew(&self, ca: &FleetCa, names: &ServerNames, now: DateTime<Utc>) -> Result<(), TlsError> {
        self.0.store(Arc::new(certify(ca, names, now)?));
        Ok(())
    }

    /// TLS of the gRPC port: clients may show a certificate of the fleet's CA, and are refused with another's, or once revoked.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) fn grpc_config(&self, ca: &FleetCa, revoked: Revoked) -> Result<ServerConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate_der().clone())?;
        let stock =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).allow_unauthenticated().build()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(FleetClients { stock, revoked }))
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the check of who was revoked.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// TLS of the HTTP port, for browsers and Prometheus: no client certificates.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) fn http_config(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certify(ca: &FleetCa, names: &ServerNames, now: DateTime<Utc>) -> Result<CertifiedKey, TlsError> {
    let made = ca.issue_server(names, now)?;
    Ok(CertifiedKey::from_der(made.chain, PrivateKeyDer::Pkcs8(made.key), &provider())?)
}

/// The stock verifier, and the set of those who are out.
struct FleetClients {
    stock: Arc<dyn ClientCertVerifier>,
    revoked: Revoked,
}

impl fmt::Debug for FleetClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetClients").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for FleetClients {
    fn offer_client_auth(&self) -> bool {
        self.stock.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.stock.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.stock.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.stock.verify_client_cert(end_entity, intermediates, now)?;
        match node_uid_of(end_entity) {
            Ok(uid) if self.revoked.contains(uid) => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            Ok(_) => Ok(verified),
            Err(_) => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.stock.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.stock.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.stock.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
