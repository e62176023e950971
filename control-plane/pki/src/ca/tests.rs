//! Against rustls's own verifiers.

use std::sync::Arc;

use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey as _};
use rustls::{RootCertStore, client::danger::ServerCertVerifier as _, server::WebPkiClientVerifier};
use rustls_pki_types::{ServerName, UnixTime};

use super::*;
use crate::{CertificateError, node_uid_of, not_after_of, verify_audit_key};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 250_000_000).unwrap()
}

fn request(key: &SigningKey, claims: &str) -> Vec<u8> {
    let pkcs8 = key.to_pkcs8_der().unwrap();
    let key =
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_bytes()), &PKCS_ED25519).unwrap();
    CertificateParams::new(vec![claims.to_owned()]).unwrap().serialize_request(&key).unwrap().der().to_vec()
}

fn roots(ca: &FleetCa) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate_der().clone()).unwrap();
    Arc::new(roots)
}

fn at(time: DateTime<Utc>) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap()))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[test]
fn a_node_gets_a_certificate_over_its_own_key_whatever_its_request_claims() {
    let ca = FleetCa::generate("fleet-a", now()).unwrap();
    let key = SigningKey::from_bytes(&[3; 32]);
    let uid = Uuid::from_u128(42);
    let issued = ca.issue_node(uid, &request(&key, CONTROL_PLANE_NAME), now()).unwrap();
    assert_eq!(issued.public_key, key.verifying_key().to_bytes());
    assert_eq!(node_uid_of(&issued.der), Ok(uid));
    assert_eq!(not_after_of(&issued.der), Ok(issued.not_after));

    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&ca), provider()).build().unwrap();
    let leaf = CertificateDer::from(issued.der);
    let valid = |time| verifier.verify_client_cert(&leaf, &[], at(time)).is_ok();
    assert!(valid(now() - chrono::Duration::minutes(59)), "backdated by an hour");
    assert!(!valid(now() - chrono::Duration::minutes(61)));
    assert!(valid(now() + chrono::Duration::days(89)));
    assert!(!valid(now() + chrono::Duration::days(91)));

    let server = rustls::client::WebPkiServerVerifier::builder_with_provider(roots(&ca), provider()).build().unwrap();
    let posing =
        server.verify_server_cert(&leaf, &[], &ServerName::try_from(CONTROL_PLANE_NAME).unwrap(), &[], at(now()));
    assert!(posing.is_err(), "a node cannot pose as the control plane");

    let other = FleetCa::generate("fleet-b", now()).unwrap();
    let stranger = WebPkiClientVerifier::builder_with_provider(roots(&other), provider()).build().unwrap();
    assert!(stranger.verify_client_cert(&leaf, &[], at(now())).is_err());
}

#[test]
fn refuses_a_request_that_is_damaged_or_over_another_kind_of_key() {
    let ca = FleetCa::generate("fleet-a", now()).unwrap();
    let mut damaged = request(&SigningKey::from_bytes(&[3; 32]), "a");
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(matches!(ca.issue_node(Uuid::nil(), &damaged, now()), Err(CaError::Request { .. })));
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let foreign = CertificateParams::default().serialize_request(&p256).unwrap();
    assert!(matches!(ca.issue_node(Uuid::nil(), foreign.der(), now()), Err(CaError::NotEd25519)));
    assert!(matches!(ca.issue_node(Uuid::nil(), b"x", now()), Err(CaError::Request { .. })));
}

#[test]
fn a_server_is_known_by_its_fixed_name_and_as_people_reach_it() {
    let made = FleetCa::generate("fleet-a", now()).unwrap();
    let ca = FleetCa::from_parts(made.certificate_der(), &made.key_pkcs8()).unwrap();
    assert_eq!(ca.fingerprint(), made.fingerprint());
    let reached_as =
        ServerNames { names: ["ctl.example".to_owned()].into(), addresses: ["203.0.113.7".parse().unwrap()].into() };
    let server = ca.issue_server(&reached_as, now()).unwrap();
    assert_eq!(server.chain.last().unwrap(), made.certificate_der());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots(&made), provider()).build().unwrap();
    for name in [CONTROL_PLANE_NAME, "ctl.example", "203.0.113.7", "localhost", "127.0.0.1", "::1"] {
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&server.chain[0], &server.chain[1..], &name, &[], at(now())).unwrap();
    }
    assert!(node_uid_of(&server.chain[0]).is_err());
    let client = WebPkiClientVerifier::builder_with_provider(roots(&made), provider()).build().unwrap();
    assert!(client.verify_client_cert(&server.chain[0], &[], at(now())).is_err(), "a server is no client");
    let wrong = ServerNames { names: ["two words".to_owned()].into(), ..ServerNames::default() };
    assert!(matches!(ca.issue_server(&wrong, now()), Err(CaError::Name(_))));
}

#[test]
fn the_pem_is_what_others_read() {
    use rustls_pki_types::pem::PemObject as _;
    let ca = FleetCa::generate("fleet-a", now()).unwrap();
    assert_eq!(&CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap(), ca.certificate_der());
}

#[test]
fn who_trusts_the_ca_can_trust_the_audit_key() {
    let (ca, other) = (FleetCa::generate("a", now()).unwrap(), FleetCa::generate("a", now()).unwrap());
    let signature = ca.certify_audit_key("name+12345678+AQID").unwrap();
    let verify = |ca: &FleetCa, key| verify_audit_key(ca.certificate_der(), key, &signature);
    assert_eq!(verify(&ca, "name+12345678+AQID"), Ok(()));
    assert_eq!(verify(&ca, "name+12345678+AQIE"), Err(CertificateError::NotSigned));
    assert_eq!(verify(&other, "name+12345678+AQID"), Err(CertificateError::NotSigned));
}
