use proptest::prelude::*;

use super::*;

/// A small document like others.
fn document(number: u64) -> Vec<u8> {
    let word = |n: u64| ["alpha", "beta", "gamma", "delta"][usize::try_from(n % 4).unwrap()];
    let lines = (0..10 + number % 20).map(|line| {
        let hash = blake3::hash(&(number * 1000 + line).to_le_bytes());
        format!(
            "  {{\"name\": \"{}-{}\", \"digest\": \"{}\", \"enabled\": true}},\n",
            word(line),
            number,
            &hash.to_hex()[..12]
        )
    });
    format!("{{\"schema\": \"https://example.org/v1\", \"items\": [\n{}]}}\n", lines.collect::<String>()).into_bytes()
}

fn documents(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(document).collect()
}

#[test]
fn a_dictionary_of_like_objects_pays_and_carries_them() {
    let trained = Dictionary::train(&documents(400)).unwrap();
    let dictionary = &trained.dictionary;
    assert!(dictionary.bytes().len() <= MAX_DICTIONARY_BYTES);
    assert!(trained.saved_permille > 100, "{trained:?}");
    assert!(trained.pays(10 << 20) && !trained.pays(1000));
    let same = Dictionary::from_bytes(dictionary.bytes(), dictionary.id()).unwrap();
    let (mut encoder, mut decoder) = (SmallEncoder::new(), SmallDecoder::new());
    for number in 1000..1010 {
        let object = document(number);
        let plain = encoder.compress(&object, Lean::Nothing, 3).unwrap().len();
        let packed = encoder.compress(&object, Lean::Dictionary(dictionary), 3).unwrap().to_vec();
        assert!(packed.len() < plain);
        let mut room = vec![0; object.len()];
        decoder.decompress(&packed, Lean::Dictionary(&same), &mut room).unwrap();
        assert_eq!(room, object);
        // Without it, or with another one, it is an error or other bytes.
        assert_eq!(decoder.decompress(&packed, Lean::Nothing, &mut room), Err(DamagedObject));
    }
}

#[test]
fn dictionaries_of_peers_are_bounded_and_verified() {
    let id = blake3::hash(b"abc");
    assert_eq!(Dictionary::from_bytes(b"abd", id), Err(DictionaryError::OtherBytes));
    assert!(matches!(Dictionary::from_bytes(&vec![0; MAX_DICTIONARY_BYTES + 1], id), Err(DictionaryError::TooLong(_))));
    // Any bytes may be one: zstd takes what does not look like its own as they are.
    let odd = Dictionary::from_bytes(b"abc", id).unwrap();
    let broken = [&[0x37, 0xa4, 0x30, 0xec][..], &[0xff; 200]].concat();
    let broken = Dictionary::from_bytes(&broken, blake3::hash(&broken)).unwrap();
    let (mut encoder, mut decoder) = (SmallEncoder::new(), SmallDecoder::new());
    let object = document(1);
    for dictionary in [odd, broken] {
        let packed = encoder.compress(&object, Lean::Dictionary(&dictionary), 3).map(<[u8]>::to_vec);
        let mut room = vec![0; object.len()];
        let packed = packed.unwrap_or_else(|| zstd::bulk::compress(&object, 3).unwrap());
        let made = decoder.decompress(&packed, Lean::Dictionary(&dictionary), &mut room);
        assert!(made.is_err() || room == object);
    }
}

#[test]
fn classes_train_when_they_have_enough_and_drop_what_does_not_pay() {
    assert_eq!(Class::of("a.JSON", 100), Class::of("b.json", 4096));
    assert_ne!(Class::of("a.json", 4097), Class::of("b.json", 4096));
    assert_eq!(
        [Class::of("README", 10), Class::of(".bashrc", 10), Class::of("a.c", 0), Class::of("a.c", 1 << 20)],
        [const { None }; 4]
    );
    let class = Class::of("a.json", 100).unwrap();
    let mut classes = Classes::new();
    documents(300).iter().for_each(|object| classes.sample(&class, object));
    assert_eq!(classes.dictionary(&class, u64::MAX), None);
    classes.close();
    assert!(classes.dictionary(&class, 100 << 20).is_some());
    assert_eq!(classes.dictionary(&class, 1000), None);
    assert!(classes.dictionary_bytes() > 0);
    // It pays as long as it saves something.
    for (saved, rounds) in [(100, 2000), (1, 1000)] {
        for _ in 0..rounds {
            if classes.is_measured(&class) {
                classes.measured(&class, 1000 - saved, 1000);
            }
        }
        assert_eq!(classes.dictionary(&class, u64::MAX).is_some(), saved == 100);
    }
    assert_eq!((classes.dropped(), classes.dictionary_bytes()), (1, 0));

    // Strangers' names fill no memory.
    for number in 0..1000 {
        let class = Class::of(&format!("a.x{number}"), 10).unwrap();
        classes.sample(&class, &[1; 10]);
    }
    assert!(classes.classes.len() <= 32);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn small_objects_come_back_whatever_they_lean_on(number in 0..100_u64, old in 0..100_u64, level in 1..=19_i8, damage in any::<prop::sample::Index>()) {
        let (object, old) = (document(number), document(old));
        let (mut encoder, mut decoder) = (SmallEncoder::new(), SmallDecoder::new());
        for lean in [Lean::Nothing, Lean::Baseline(&old), Lean::Baseline(&[])] {
            let level = small_level(object.len(), level, &lean);
            let mut packed = encoder.compress(&object, lean, level).unwrap().to_vec();
            let mut room = vec![0; object.len()];
            decoder.decompress(&packed, lean, &mut room).unwrap();
            prop_assert_eq!(&room, &object);
            let at = damage.index(packed.len());
            packed[at] ^= 1;
            let damaged = decoder.decompress(&packed, lean, &mut room);
            prop_assert!(damaged.is_err() || room.len() == object.len());
        }
    }
}
