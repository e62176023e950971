//! TLS configurations that follow from an identity: TLS 1.3 only, no tickets and no resumption (a ticket would outlive a
//! revocation), every peer judged by the fleet's CA and, between nodes, by the roster.
//!
//! In TLS 1.3 a client's `connect` returns before the server has judged the client's certificate: who dials must wait for
//! the server's first word before believing the connection.

mod verifier;

pub(crate) use verifier::is_issued;

use std::sync::Arc;

use proto_model::{NodeUid, PublicKey, TrustBundle};
use rustls::{ClientConfig, ServerConfig, client::Resumption, crypto::CryptoProvider, server::NoServerSessionStorage};
use rustls_pki_types::{CertificateDer, ServerName};

pub use verifier::WrongCa;

use crate::{
    CaFingerprint, CertificateError, Identity,
    certificate::{NODE_DOMAIN, public_key_of},
    tls::verifier::{ControlPlane, Nodes, Pinned},
};

/// ALPN of QUIC between nodes; its number is the protocol's version.
pub const QUIC_ALPN: &[u8] = b"dwcp/1";

/// ALPN of lanes over TCP between nodes; never taken for QUIC's.
pub const TCP_ALPN: &[u8] = b"dwcp-tcp/1";

/// The name that every server of a fleet has in its certificate, whatever its address (D4).
pub const CONTROL_PLANE_NAME: &str = "control-plane.dwcp";

/// What [`ServerName`] to give for the control plane.
#[must_use]
pub fn control_plane_name() -> ServerName<'static> {
    ServerName::try_from(CONTROL_PLANE_NAME).expect("the constant is a DNS name")
}

/// The name in a node's certificate.
#[must_use]
pub fn node_name(uid: NodeUid) -> String {
    format!("{uid}{NODE_DOMAIN}")
}

/// The key in the certificate that a peer showed, after a handshake by one of these configurations.
///
/// # Errors
/// The certificate is not a node's.
pub fn peer_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, CertificateError> {
    public_key_of(certificate)
}

/// For a QUIC endpoint that nodes dial: takes a certificate of the fleet's CA over the key of a member, by whole key.
///
/// # Errors
/// The CA's certificate cannot be used.
pub fn quic_server_config(identity: &Identity) -> Result<ServerConfig, rustls::Error> {
    node_server_config(identity, QUIC_ALPN)
}

/// For a TCP port that nodes dial: judges as [`quic_server_config`] does.
///
/// # Errors
/// The CA's certificate cannot be used.
pub fn tcp_server_config(identity: &Identity) -> Result<ServerConfig, rustls::Error> {
    node_server_config(identity, TCP_ALPN)
}

fn node_server_config(identity: &Identity, alpn: &[u8]) -> Result<ServerConfig, rustls::Error> {
    let nodes = Nodes::new(&identity.trust().bundle(), identity.membership().clone(), None)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(nodes))
        .with_cert_resolver(identity.held());
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// For dialling the member that has this key, and nobody else.
///
/// # Errors
/// The CA's certificate cannot be used.
pub fn quic_client_config(identity: &Identity, peer: PublicKey) -> Result<ClientConfig, rustls::Error> {
    node_client_config(identity, peer, QUIC_ALPN)
}

/// For dialling over TCP the member that has this key, and nobody else.
///
/// # Errors
/// The CA's certificate cannot be used.
pub fn tcp_client_config(identity: &Identity, peer: PublicKey) -> Result<ClientConfig, rustls::Error> {
    node_client_config(identity, peer, TCP_ALPN)
}

fn node_client_config(identity: &Identity, peer: PublicKey, alpn: &[u8]) -> Result<ClientConfig, rustls::Error> {
    let nodes = Nodes::new(&identity.trust().bundle(), identity.membership().clone(), Some(peer))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nodes))
        .with_client_cert_resolver(identity.held());
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    // The peer is known by its key; its name would only tell an eavesdropper who is dialled.
    config.enable_sni = false;
    Ok(config)
}

/// For gRPC to the control plane with the node's certificate. Whatever address is dialled, the server must have the
/// fleet's fixed name; give [`control_plane_name`].
///
/// # Errors
/// The CA's certificate cannot be used.
pub fn grpc_client_config(identity: &Identity) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(ControlPlane::new(&identity.trust().bundle())?);
    let config = control_plane_builder(verifier)?.with_client_cert_resolver(identity.held());
    Ok(for_grpc(config))
}

/// For gRPC to the control plane without a certificate: for `Renew` with an expired one.
///
/// # Errors
/// The CA's certificate cannot be used.
pub fn anonymous_grpc_client_config(bundle: &TrustBundle) -> Result<ClientConfig, rustls::Error> {
    let config = control_plane_builder(Arc::new(ControlPlane::new(bundle)?))?.with_no_client_auth();
    Ok(for_grpc(config))
}

/// For joining: takes exactly a server whose chain ends in the CA of this fingerprint, and that has the fleet's fixed
/// name. Another CA is refused with [`WrongCa`] as the error's source.
///
/// # Errors
/// The TLS library refuses the configuration.
pub fn pinned_client_config(fingerprint: CaFingerprint) -> Result<ClientConfig, rustls::Error> {
    let config = control_plane_builder(Arc::new(Pinned::new(fingerprint)))?.with_no_client_auth();
    Ok(for_grpc(config))
}

fn control_plane_builder(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn for_grpc(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
