//! Handshakes in memory.

use std::time::Duration;

use rustls::{CertificateError, ClientConnection, Connection, Error, ServerConnection};

use super::*;
use crate::testing::{TestFleet, Validity};

struct Pair {
    _dirs: [tempfile::TempDir; 2],
    fleet: TestFleet,
    a: Identity,
    b: Identity,
}

fn pair() -> Pair {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let fleet = TestFleet::new();
    let (a, b) = (fleet.node(dirs[0].path(), "a"), fleet.node(dirs[1].path(), "b"));
    fleet.share([&a, &b]);
    Pair { _dirs: dirs, fleet, a, b }
}

/// Carries bytes to and fro until both are done or one refuses; who refuses, and why.
fn shake(client: ClientConfig, server: ServerConfig) -> Result<(Connection, Connection), (&'static str, Error)> {
    // A name that nobody has: what the peer must be called is the verifier's business.
    let name = ServerName::try_from("whatever.example").unwrap();
    let mut client = Connection::from(ClientConnection::new(Arc::new(client), name).unwrap());
    let mut server = Connection::from(ServerConnection::new(Arc::new(server)).unwrap());
    for _ in 0..10 {
        carry(&mut client, &mut server).map_err(|error| ("server", error))?;
        carry(&mut server, &mut client).map_err(|error| ("client", error))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn refusal(result: Result<(Connection, Connection), (&'static str, Error)>) -> (&'static str, Error) {
    result.expect_err("the handshake was to be refused")
}

#[test]
fn two_members_know_each_other_by_key() {
    let Pair { a, b, .. } = &pair();
    let client = quic_client_config(a, b.public_key()).unwrap();
    let (client, server) = shake(client, quic_server_config(b).unwrap()).unwrap();
    assert_eq!(peer_key(&client.peer_certificates().unwrap()[0]).unwrap(), b.public_key());
    assert_eq!(peer_key(&server.peer_certificates().unwrap()[0]).unwrap(), a.public_key());
    assert_eq!(client.alpn_protocol(), Some(QUIC_ALPN));
}

#[test]
fn the_wrong_member_is_refused_by_who_dials() {
    let pair = pair();
    let dir = tempfile::tempdir().unwrap();
    let c = pair.fleet.node(dir.path(), "c");
    pair.fleet.share([&pair.a, &pair.b, &c]);
    let client = quic_client_config(&pair.a, pair.b.public_key()).unwrap();
    let (who, error) = refusal(shake(client, quic_server_config(&c).unwrap()));
    assert_eq!((who, error), ("client", CertificateError::ApplicationVerificationFailure.into()));
}

#[test]
fn a_node_that_the_roster_does_not_have_is_refused_in_both_directions() {
    let pair = pair();
    let dir = tempfile::tempdir().unwrap();
    let c = pair.fleet.node(dir.path(), "c");
    pair.fleet.share([&c]);
    let client = quic_client_config(&c, pair.b.public_key()).unwrap();
    let refused = refusal(shake(client, quic_server_config(&pair.b).unwrap()));
    assert_eq!(refused, ("server", CertificateError::Revoked.into()));
    let client = quic_client_config(&pair.a, c.public_key()).unwrap();
    let refused = refusal(shake(client, quic_server_config(&c).unwrap()));
    assert_eq!(refused, ("client", CertificateError::Revoked.into()));
}

#[test]
fn a_revoked_node_is_refused() {
    let pair = pair();
    pair.fleet.revoke(&pair.a);
    pair.fleet.share([&pair.b]);
    let client = quic_client_config(&pair.a, pair.b.public_key()).unwrap();
    let refused = refusal(shake(client, quic_server_config(&pair.b).unwrap()));
    assert_eq!(refused, ("server", CertificateError::Revoked.into()));
}

#[test]
fn another_fleets_certificate_over_a_members_key_is_refused() {
    let pair = pair();
    let other = TestFleet::new();
    let dir = tempfile::tempdir().unwrap();
    let forged = other.certificate(pair.a.key(), pair.a.uid(), Validity::default());
    let impostor = Identity::establish(dir.path(), pair.a.key().clone(), forged, pair.fleet.bundle()).unwrap();
    pair.fleet.share([&impostor]);
    let client = quic_client_config(&impostor, pair.b.public_key()).unwrap();
    let (who, error) = refusal(shake(client, quic_server_config(&pair.b).unwrap()));
    assert_eq!(who, "server");
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_certificate_that_ended_is_refused_but_for_five_minutes_of_skew() {
    let pair = pair();
    let hour = Duration::from_secs(3600);
    for (ended_before, accepted) in [(Duration::from_secs(60), true), (Duration::from_secs(900), false)] {
        let validity = Validity { since: hour, life: hour - ended_before };
        let certificate = pair.fleet.certificate(pair.a.key(), pair.a.uid(), validity);
        pair.a.renewed(certificate).unwrap();
        let client = quic_client_config(&pair.a, pair.b.public_key()).unwrap();
        let result = shake(client, quic_server_config(&pair.b).unwrap());
        assert_eq!(result.is_ok(), accepted);
    }
}

#[test]
fn a_renewed_certificate_is_shown_by_configurations_made_before() {
    let pair = pair();
    let client = quic_client_config(&pair.a, pair.b.public_key()).unwrap();
    let renewed = pair.fleet.certificate(pair.a.key(), pair.a.uid(), Validity::default());
    pair.a.renewed(renewed.clone()).unwrap();
    let (_, server) = shake(client, quic_server_config(&pair.b).unwrap()).unwrap();
    assert_eq!(&server.peer_certificates().unwrap()[0], renewed.der());
}

#[test]
fn a_node_does_not_pose_as_the_control_plane_nor_a_server_as_a_node() {
    let pair = pair();
    let mut node_as_server = quic_server_config(&pair.b).unwrap();
    node_as_server.alpn_protocols.clear();
    let (who, error) = refusal(shake(grpc_client_config(&pair.a).unwrap(), node_as_server));
    assert_eq!(who, "client");
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })), "{error}");

    let mut server_as_node = pair.fleet.server_config();
    server_as_node.alpn_protocols.clear();
    let client = quic_client_config(&pair.a, pair.b.public_key()).unwrap();
    let (who, _) = refusal(shake(client, server_as_node));
    // A P-256 key does not sign what was asked for, so either end may be the first to see it.
    assert!(["client", "server"].contains(&who));
}

#[test]
fn the_control_plane_is_known_by_its_fixed_name_and_joined_by_the_fingerprint_of_its_ca() {
    let pair = pair();
    shake(grpc_client_config(&pair.a).unwrap(), pair.fleet.server_config()).unwrap();
    shake(anonymous_grpc_client_config(&pair.fleet.bundle()).unwrap(), pair.fleet.server_config()).unwrap();
    let pinned = CaFingerprint::of(&pair.fleet.bundle().ca_certificate);
    shake(pinned_client_config(pinned).unwrap(), pair.fleet.server_config()).unwrap();

    let other = TestFleet::new();
    let (_, error) = refusal(shake(pinned_client_config(pinned).unwrap(), other.server_config()));
    let Error::InvalidCertificate(CertificateError::Other(source)) = error else { panic!("{error}") };
    assert!(matches!(source.0.downcast_ref(), Some(WrongCa::Other { expected, .. }) if *expected == pinned));
    refusal(shake(grpc_client_config(&pair.a).unwrap(), other.server_config()));
}

#[test]
fn the_right_ca_in_the_chain_does_not_help_a_certificate_of_another() {
    let pair = pair();
    let pinned = CaFingerprint::of(&pair.fleet.bundle().ca_certificate);
    let (mut chain, key) = TestFleet::new().server_certificate();
    chain[1] = CertificateDer::from(pair.fleet.bundle().ca_certificate);
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (who, _) = refusal(shake(pinned_client_config(pinned).unwrap(), server));
    assert_eq!(who, "client");
}
