//! Real handshakes over a pipe.

use std::io;

use control_plane_pki::CONTROL_PLANE_NAME;
use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey as _};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::{ClientConfig, client::Resumption};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

fn now() -> DateTime<Utc> {
    foundation_runtime::Clock::system().utc()
}

/// A node's key, with its certificate by this CA.
fn node(ca: &FleetCa, uid: Uuid) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = SigningKey::from_bytes(&[5; 32]).to_pkcs8_der().unwrap().as_bytes().to_vec();
    let pair = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key.as_slice()), &PKCS_ED25519).unwrap();
    let request = CertificateParams::default().serialize_request(&pair).unwrap();
    let issued = ca.issue_node(uid, request.der(), now()).unwrap();
    (vec![CertificateDer::from(issued.der)], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
}

/// One exchange between a client, with or without a certificate, and a server of `ca`. A refusal of the client shows when it reads.
async fn exchange(
    ca: &FleetCa,
    revoked: &Revoked,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> io::Result<Option<Vec<u8>>> {
    let identity = ServerIdentity::issue(ca, &ServerNames::default(), now()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(identity.grpc_config(ca, revoked.clone()).unwrap()));
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate_der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = acceptor.accept(far).await?;
        let peer = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
        stream.write_all(b"x").await?;
        Ok::<_, io::Error>(peer)
    };
    let client = async {
        let name = ServerName::try_from(CONTROL_PLANE_NAME).unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, near).await?;
        stream.read_u8().await
    };
    let (peer, read) = tokio::join!(server, client);
    let peer = peer?;
    read?;
    Ok(peer)
}

#[tokio::test]
async fn a_member_is_known_by_its_certificate_and_others_come_without() {
    let ca = FleetCa::generate("fleet", now()).unwrap();
    let uid = Uuid::from_u128(7);
    let peer = exchange(&ca, &Revoked::default(), Some(node(&ca, uid))).await.unwrap().unwrap();
    assert_eq!(node_uid_of(&peer), Ok(uid));
    assert_eq!(exchange(&ca, &Revoked::default(), None).await.unwrap(), None);
}

#[tokio::test]
async fn a_stranger_and_a_revoked_node_are_refused_in_the_handshake() {
    let ca = FleetCa::generate("fleet", now()).unwrap();
    let uid = Uuid::from_u128(7);
    let revoked = Revoked::default();
    revoked.replace([uid].into());
    assert!(exchange(&ca, &revoked, Some(node(&ca, uid))).await.is_err());

    // Of the same name, so that only the signature tells them apart.
    let other = FleetCa::generate("fleet", now()).unwrap();
    assert!(exchange(&ca, &Revoked::default(), Some(node(&other, uid))).await.is_err());
}
