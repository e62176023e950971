//! What is signed: grants, the roster, records of the DHT, checkpoints, certificates.

use ed25519_dalek::SigningKey;
use foundation_merkle::{Checkpoint, VerifierKey};
use prost::Message;
use proto_model::{DirectRequest, Grant, RosterEntry, RosterHead, TrustBundle};
use proto_rpc::agent as rpc;
use proto_wire::Signed;

/// Signs what is to be parsed, so that the parser behind the signature is met.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) fn grant(bytes: &[u8]) {
    if let Ok(signed) = Signed::from_bytes(bytes) {
        assert!(proto_wire::grant::open(&key().verifying_key(), &signed).is_err() || signed.payload.len() > 64);
        assert_eq!(signed.to_bytes(), bytes);
    }
    let Ok(message) = rpc::Grant::decode(bytes) else { return };
    crate::tried(DirectRequest::try_from(message.clone()));
    let Ok(grant) = Grant::try_from(message) else { return };
    let signed = proto_wire::grant::sign(&key(), &grant);
    assert_eq!(proto_wire::grant::open(&key().verifying_key(), &signed).as_ref(), Ok(&grant));
}

pub(crate) fn roster(bytes: &[u8]) {
    if let Ok(entry) =
        rpc::RosterEntry::decode(bytes).map_err(drop).and_then(|entry| RosterEntry::try_from(entry).map_err(drop))
    {
        let signed = proto_wire::roster::sign_entry(&key(), &entry);
        assert_eq!(proto_wire::roster::open_entry(&key().verifying_key(), &signed).as_ref(), Ok(&entry));
    }
    if let Ok(head) =
        rpc::RosterHead::decode(bytes).map_err(drop).and_then(|head| RosterHead::try_from(head).map_err(drop))
    {
        let signed = proto_wire::roster::sign_head(&key(), &head);
        assert_eq!(proto_wire::roster::open_head(&key().verifying_key(), &signed), Ok(head));
    }
    if let Ok(bundle) = rpc::TrustBundle::decode(bytes) {
        crate::tried(TrustBundle::try_from(bundle));
    }
}

pub(crate) fn dht_record(bytes: &[u8]) {
    let Ok(record) = dataplane_dht::Record::decode(bytes) else { return };
    let again = record.encode().unwrap_or_else(|error| panic!("a record cannot be encoded again: {error}"));
    assert_eq!(dataplane_dht::Record::decode(&again).as_ref(), Ok(&record));
    let signed = dataplane_dht::SignedRecord::sign(&key(), 5, &record).unwrap_or_else(|error| panic!("{error}"));
    assert!(signed.verify_signature().is_ok());
}

pub(crate) fn checkpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    crate::tried(text.parse::<VerifierKey>());
    let Ok(verifier) = VerifierKey::new("fuzz", key().verifying_key()) else { return };
    crate::tried(Checkpoint::parse_and_verify(text, &verifier));
    let Ok(checkpoint) = Checkpoint::parse_unverified(text) else { return };
    if let Ok(note) = checkpoint.sign("fuzz", &key()) {
        assert_eq!(Checkpoint::parse_and_verify(&note, &verifier).as_ref(), Ok(&checkpoint));
    }
}

pub(crate) fn certificate(bytes: &[u8]) {
    crate::tried(dataplane_identity::Certificate::parse(bytes.to_vec()));
    crate::tried(dataplane_identity::tls::peer_key(&bytes.to_vec().into()));
    crate::tried(control_plane_pki::public_key_of(bytes));
    crate::tried(control_plane_pki::node_uid_of(bytes));
    crate::tried(control_plane_pki::not_after_of(bytes));
    crate::tried(control_plane_pki::FleetCa::request_key(bytes));
}
