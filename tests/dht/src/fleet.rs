//! Who is in the fleets of these tests: keys by number, and what they say of themselves.

use std::net::{Ipv4Addr, SocketAddr};

use dataplane_dht::{Announcement, FleetTag, RecordSigner, SignedRecord};
use ed25519_dalek::SigningKey;
use proto_model::{FleetId, PublicKey};

/// The fleet.
#[must_use]
pub fn fleet() -> FleetTag {
    FleetTag::of(&FleetId::new(uuid::Uuid::from_u128(0xd47)))
}

/// An agent's key.
#[must_use]
pub fn signer(number: u16) -> SigningKey {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

/// Its public half.
#[must_use]
pub fn key(number: u16) -> PublicKey {
    RecordSigner::public_key(&signer(number))
}

/// What an agent says of itself; the port tells one saying from another.
#[must_use]
pub fn announcement(port: u16) -> Announcement {
    let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), port));
    Announcement { addresses: vec![address], ..Announcement::default() }
}

/// The port that a record says; none where it is not its owner's.
#[must_use]
pub fn port_of(record: &SignedRecord) -> Option<u16> {
    let verified = record.clone().verify_signature().ok()?;
    Some(verified.record().addresses.first()?.port())
}
