use super::*;
use crate::record::tests::{example, fleet};

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn taken() -> Acceptance {
    Acceptance { fleet: fleet(), now_ms: 1_800_000_001_000, known_seq: None }
}

fn signed(seq: i64) -> SignedRecord {
    SignedRecord::sign(&signer(), seq, &example()).unwrap()
}

#[test]
fn target_and_signature_never_change() {
    let record = signed(1_800_000_000_000);
    assert_eq!(record.key.to_string(), "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c");
    assert_eq!(record.target().to_string(), "9ad19e0f16eef714cb90c6f195dbce66e94580f9");
    assert_eq!(
        hex::encode(record.signature),
        "be07904eab6ca433869886db4f96b07b5d61d349bd54e923e9e82e73b955aa3b07eb6daf6dfa2e26a546909a4987450be869d762955b9744baa6c86a5dbe7d06"
    );
    assert!(signable(4, b"Hello world!").starts_with(b"3:seqi4e1:v12:Hello world!"));
}

#[test]
fn the_dhts_own_crate_agrees() {
    let record = signed(7);
    let item = mainline::MutableItem::new(signer(), &record.value, 7, None);
    assert_eq!(item.signature(), &record.signature);
    assert_eq!(item.target().as_bytes(), record.target().as_bytes());
}

#[test]
fn believes_only_what_the_owner_signed_for_this_fleet_and_time() {
    let good = signed(1_800_000_000_000);
    assert_eq!(good.clone().verify(&taken()).unwrap().record(), &example());

    let mut forged = good.clone();
    forged.value[10] ^= 1;
    assert_eq!(forged.verify(&taken()), Err(Unacceptable::Signature));

    let other = Acceptance { fleet: FleetTag::of(&proto_model::FleetId::new(uuid::Uuid::nil())), ..taken() };
    assert_eq!(good.clone().verify(&other), Err(Unacceptable::Fleet));

    let known = Acceptance { known_seq: Some(good.seq + 1), ..taken() };
    assert!(matches!(good.clone().verify(&known), Err(Unacceptable::Rollback { .. })));
    let equal = Acceptance { known_seq: Some(good.seq), ..taken() };
    assert!(good.clone().verify(&equal).is_ok());

    let late = Acceptance { now_ms: 1_800_009_000_000, ..taken() };
    assert_eq!(good.clone().verify(&late), Err(Unacceptable::Expired));
    let early = Acceptance { now_ms: 1_799_999_600_000, ..taken() };
    assert_eq!(good.verify(&early), Err(Unacceptable::Future));
}

#[test]
fn a_seq_that_would_lock_the_key_is_refused() {
    let day = 24 * 3600 * 1000;
    let now = taken().now_ms;
    assert!(signed(now + day).verify(&taken()).is_ok());
    assert_eq!(signed(now + day + 1).verify(&taken()), Err(Unacceptable::Seq(now + day + 1)));
    assert_eq!(signed(i64::MAX).verify(&taken()), Err(Unacceptable::Seq(i64::MAX)));
    assert_eq!(signed(-1).verify(&taken()), Err(Unacceptable::Seq(-1)));
}

#[test]
fn a_node_takes_itself_back_with_a_validity_of_nothing() {
    let gone = Record { ttl_s: 0, ..example() };
    let gone = SignedRecord::sign(&signer(), 1_800_000_000_001, &gone).unwrap();
    assert_eq!(gone.verify(&taken()), Err(Unacceptable::Expired));
}

#[test]
fn an_oversize_value_is_refused_before_anything_else() {
    let mut record = signed(1);
    record.value = vec![0; MAX_RECORD_BYTES + 1];
    assert_eq!(record.verify(&taken()), Err(RecordError::TooLong(997).into()));
}
