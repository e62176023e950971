//! Who is believed in a handshake.

use std::{sync::Arc, time::Duration};

use proto_model::{PublicKey, TrustBundle};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    CaFingerprint, Membership,
    certificate::public_key_of,
    tls::{control_plane_name, node_name, provider},
};

/// How far a peer's clock may differ from ours (D4).
const TOLERATED_SKEW: Duration = Duration::from_secs(5 * 60);

/// The server that was dialled to join belongs to another CA than the fingerprint says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongCa {
    /// The server sent the certificates of these CAs.
    #[error(
        "the server's CA has the fingerprint {found}, not {expected}: this is another fleet, or somebody is in between"
    )]
    Other {
        /// As given by the operator.
        expected: CaFingerprint,
        /// Of the last certificate in the server's chain.
        found: CaFingerprint,
    },
    /// The server sent none.
    #[error("the server sent no CA certificate: it is no control plane of DWCP")]
    None,
}

/// Nodes judge nodes, in both directions: a certificate of the fleet's CA, over an Ed25519 key that the roster has for
/// the node that the certificate names. A server's certificate of the same CA is no node's: another kind of key, another name.
#[derive(Debug)]
pub(super) struct Nodes {
    server: Arc<dyn ServerCertVerifier>,
    client: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    membership: Membership,
    /// When dialling: who must answer.
    expected: Option<PublicKey>,
}

impl Nodes {
    pub(super) fn new(
        bundle: &TrustBundle,
        membership: Membership,
        expected: Option<PublicKey>,
    ) -> Result<Self, Error> {
        let roots = roots(&bundle.ca_certificate)?;
        let unusable = |error| Error::General(format!("the CA's certificate cannot be used: {error}"));
        let client = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider());
        Ok(Self {
            server: stock_server_verifier(roots)?,
            client: client.build().map_err(unusable)?,
            algorithms: provider().signature_verification_algorithms,
            membership,
            expected,
        })
    }

    /// The whole key must be a member's, and the name in the certificate that member's.
    fn check_member(&self, certificate: &CertificateDer<'_>) -> Result<ServerName<'static>, Error> {
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let key = public_key_of(certificate).map_err(|_not_a_node| refused.clone())?;
        if self.expected.is_some_and(|expected| expected != key) {
            return Err(refused);
        }
        // Somebody the roster does not have is as good as revoked.
        let revoked = Error::InvalidCertificate(CertificateError::Revoked);
        let member = self.membership.by_key(&key).ok_or(revoked)?;
        ServerName::try_from(node_name(member.uid)).map_err(|_malformed| refused)
    }
}

impl ServerCertVerifier for Nodes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = self.check_member(end_entity)?;
        with_skew(now, |now| self.server.verify_server_cert(end_entity, intermediates, &name, ocsp_response, now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Nodes {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let name = self.check_member(end_entity)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &name)?;
        with_skew(now, |now| self.client.verify_client_cert(end_entity, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// A server of the fleet's control plane, by its fixed name: a node's certificate does not have it.
#[derive(Debug)]
pub(super) struct ControlPlane(Arc<WebPkiServerVerifier>);

impl ControlPlane {
    pub(super) fn new(bundle: &TrustBundle) -> Result<Self, Error> {
        Ok(Self(stock_server_verifier(roots(&bundle.ca_certificate)?)?))
    }

    fn of_ca(ca: &CertificateDer<'_>) -> Result<Self, Error> {
        Ok(Self(stock_server_verifier(roots(ca)?)?))
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = control_plane_name();
        with_skew(now, |now| self.0.verify_server_cert(end_entity, intermediates, &name, ocsp, now))
    }
}

impl ServerCertVerifier for ControlPlane {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The server whose chain contains the CA of a fingerprint.
#[derive(Debug)]
pub(super) struct Pinned {
    fingerprint: CaFingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    pub(super) fn new(fingerprint: CaFingerprint) -> Self {
        Self { fingerprint, algorithms: provider().signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates.iter().find(|certificate| CaFingerprint::of(certificate) == self.fingerprint);
        let Some(ca) = ca else {
            let wrong = intermediates.last().map_or(WrongCa::None, |last| WrongCa::Other {
                expected: self.fingerprint,
                found: CaFingerprint::of(last),
            });
            return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))));
        };
        ControlPlane::of_ca(ca)?.judge(end_entity, &[], ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether the CA of the bundle signed a node's certificate; its time is not asked.
pub(crate) fn is_issued(certificate: &crate::Certificate, bundle: &TrustBundle) -> Result<(), Error> {
    let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    let name = ServerName::try_from(node_name(certificate.uid())).map_err(|_malformed| refused.clone())?;
    let middle = certificate.not_before() + (certificate.not_after() - certificate.not_before()) / 2;
    let seconds = u64::try_from(middle.timestamp()).map_err(|_before_1970| refused)?;
    let during = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let verifier = stock_server_verifier(roots(&bundle.ca_certificate)?)?;
    verifier.verify_server_cert(certificate.der(), &[], &name, &[], during).map(drop)
}

fn roots(ca: &[u8]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec()))?;
    Ok(Arc::new(roots))
}

fn stock_server_verifier(roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| Error::General(format!("the CA's certificate cannot be used: {error}")))
}

/// Judges at the present time, and where only the time is wrong, at the edge of what is tolerated.
fn with_skew<T>(now: UnixTime, judge: impl Fn(UnixTime) -> Result<T, Error>) -> Result<T, Error> {
    let seconds = now.as_secs();
    let skew = TOLERATED_SKEW.as_secs();
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    match judge(now) {
        Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            judge(at(seconds.saturating_sub(skew)))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => {
            judge(at(seconds.saturating_add(skew)))
        }
        other => other,
    }
}

fn no_tls12() -> Error {
    Error::General("TLS 1.3 only".to_owned())
}
