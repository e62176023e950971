use proptest::prelude::*;
use uuid::Uuid;

use super::*;

pub(crate) fn fleet() -> FleetTag {
    FleetTag::of(&FleetId::new(Uuid::from_u128(0x0192_f0c1_7e2a_7cc3_98c4_dc0c_0c07_398f)))
}

pub(crate) fn example() -> Record {
    Record {
        issued_s: 1_800_000_000,
        ttl_s: 9000,
        fleet: fleet(),
        addresses: vec!["192.0.2.7:30906".parse().unwrap(), "[2001:db8::7]:30906".parse().unwrap()],
        node_type: NodeType::Private,
        nat: Nat::Endpoint,
        relays: vec![NodeId::from_bytes([0xab; 20])],
    }
}

#[test]
fn has_one_encoding_that_never_changes() {
    let golden = "a80001011a6b49d2000219232803488dcfd8f8fdce4bbe0482\
                  46c000020778ba5220010db8000000000000000000000007\
                  78ba0501060207815 4abababababababababababababababababababab";
    assert_eq!(hex::encode(example().encode().unwrap()), golden.replace([' ', '\n'], ""));
}

#[test]
fn reads_what_it_wrote_and_stays_small() {
    let full = Record {
        addresses: vec![SocketAddr::from(([7_u16; 8], 30906)); MAX_ADDRESSES],
        relays: vec![NodeId::from_bytes([7; 20]); MAX_RELAYS],
        ..example()
    };
    let bytes = full.encode().unwrap();
    assert!(bytes.len() <= WANTED_RECORD_BYTES, "{} bytes", bytes.len());
    assert_eq!(Record::decode(&bytes), Ok(full));
    assert_eq!(Record::decode(&example().encode().unwrap()), Ok(example()));
}

#[test]
fn a_newer_programs_record_is_read_unless_it_says_otherwise() {
    let bytes = example().encode().unwrap();
    let with = |key: u8| {
        let mut more = bytes.clone();
        more[0] = 0xa9;
        // A map inside, of a kind that this program does not know.
        more.extend_from_slice(&[key, 0xa1, 0x61, b'x', 0x82, 1, 2]);
        more
    };
    assert_eq!(Record::decode(&with(16)), Ok(example()));
    assert_eq!(Record::decode(&with(9)), Err(RecordError::Newer(9)));
    let mut version = bytes.clone();
    version[2] = 2;
    assert_eq!(Record::decode(&version), Err(RecordError::Newer(2)));
}

#[test]
fn refuses_what_is_out_of_bounds() {
    let many = Record { addresses: vec!["192.0.2.7:1".parse().unwrap(); MAX_ADDRESSES + 1], ..example() };
    assert_eq!(many.encode(), Err(RecordError::TooMany));
    assert_eq!(Record { ttl_s: u32::MAX, ..example() }.encode(), Err(RecordError::Ttl(u32::MAX)));
    assert_eq!(Record::decode(&[0; MAX_RECORD_BYTES + 1]), Err(RecordError::TooLong(MAX_RECORD_BYTES + 1)));
    let mut tail = example().encode().unwrap();
    tail.push(0);
    assert_eq!(Record::decode(&tail), Err(RecordError::Malformed));
}

proptest! {
    #[test]
    fn takes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
        drop(Record::decode(&bytes));
    }

    #[test]
    fn takes_damaged_records_without_panic(at in 0..110_usize, to in any::<u8>(), cut in 0..110_usize) {
        let mut bytes = example().encode().unwrap();
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(bytes.len() - cut % bytes.len());
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert!(record.addresses.len() <= MAX_ADDRESSES && record.relays.len() <= MAX_RELAYS);
        }
    }
}
