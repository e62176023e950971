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
    assert!(trained.clone().useful().is_some());
    assert_eq!(Dictionary::train(&documents(400)).unwrap().dictionary, *dictionary, "the same of the same");
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

fn class(name: &str) -> Class {
    Class::of(name.as_bytes(), 10).unwrap()
}

/// Classes in which `json` has a dictionary.
fn trained(documents: &[Vec<u8>]) -> Classes {
    let (mut classes, json) = (Classes::default(), class("a.json"));
    for object in documents {
        classes.sample(&json, object, *blake3::hash(object).as_bytes());
    }
    assert_eq!(classes.ready(), vec![json.clone()]);
    let samples = classes.take_samples(&json);
    classes.trained(&json, Dictionary::train(&samples).and_then(Trained::useful));
    classes
}

#[test]
fn what_has_the_same_extension_is_alike() {
    assert_eq!(Class::of(b"a.JSON", 100), Class::of(b"b.c.json", 4096));
    let none = [Class::of(b"README", 10), Class::of(b".bashrc", 10), Class::of(b"a.c", 0), Class::of(b"a.c", 1 << 20)];
    assert_eq!(none, [const { None }; 4]);
    assert_eq!(Class::of(b"a.x/y", 10), None);
    assert_eq!(Class::of(b"a.\xff", 10), None);
}

#[test]
fn a_dictionary_is_the_same_in_whatever_order_its_samples_come() {
    let (documents, json) = (documents(2000), class("a.json"));
    let forward = trained(&documents);
    let backward = trained(&documents.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(forward.dictionary(&json), backward.dictionary(&json));
    assert!(forward.dictionary(&json).is_some());
}

#[test]
fn a_dictionary_is_shipped_once_it_has_missed_its_price_and_dropped_when_it_saves_too_little() {
    let json = class("a.json");
    let mut classes = trained(&documents(300));
    let price = classes.records()[0].price;
    assert!(price > 500, "{price}");
    assert_eq!(classes.measured(&json, 0, price - 1), Verdict::Open);
    assert_eq!(classes.measured(&json, 0, 1), Verdict::Ship);
    assert!(!classes.is_held(&json, true));
    // It pays as long as it saves something.
    for _ in 0..200 {
        assert_eq!(classes.measured(&json, 900, 1000), Verdict::Open);
    }
    // What it saves became much less: the class is another one.
    let less: Vec<_> = (0..140).map(|_| classes.measured(&json, 960, 1000)).collect();
    assert!(less.contains(&Verdict::Dropped));
    assert_eq!((classes.dictionary(&json), classes.records()[0].pass), (None, 0));
    documents(300).iter().for_each(|object| classes.sample(&json, object, *blake3::hash(object).as_bytes()));
    assert_eq!(classes.ready(), vec![json.clone()]);
    let samples = classes.take_samples(&json);
    classes.trained(&json, Dictionary::train(&samples).and_then(Trained::useful));
    assert_eq!(classes.records()[0].version, 2);
    // One that saves nothing is not shipped at all, and the next one is not trained at once.
    let none: Vec<_> = (0..100).map(|_| classes.measured(&json, 999, 1000)).collect();
    assert!(none.contains(&Verdict::Dropped) && !none.contains(&Verdict::Ship));
    documents(300).iter().for_each(|object| classes.sample(&json, object, *blake3::hash(object).as_bytes()));
    assert_eq!(classes.ready(), Vec::new());
    assert_eq!(Classes::kept(classes.records(), |_| None).records(), classes.records());
}

#[test]
fn what_was_kept_comes_back_and_what_is_gone_is_trained_anew() {
    let json = class("a.json");
    let mut classes = trained(&documents(300));
    assert!(!classes.is_held(&json, true));
    let dictionary = classes.dictionary(&json).cloned().unwrap();
    let again = Classes::kept(classes.records(), |id| (id == dictionary.id()).then(|| dictionary.clone()));
    assert_eq!((again.dictionary(&json), again.records()), (Some(&dictionary), classes.records()));
    let gone = Classes::kept(classes.records(), |_| None);
    assert!(gone.dictionary(&json).is_none() && !gone.records()[0].held);
    // The peer lost it: then it is as if it had never been shipped.
    assert!(classes.is_held(&json, false));
    assert!(!classes.is_held(&json, false));
}

#[test]
fn names_of_files_fill_no_memory() {
    let mut classes = Classes::default();
    for number in 0..1000 {
        let object = vec![1; 60_000];
        for digest in 0..50 {
            classes.sample(&class(&format!("a.x{number}")), &object, [digest; 32]);
        }
    }
    assert_eq!(classes.records().len(), MAX_CLASSES);
    let sampled: Vec<_> = (0..1000).map(|n| classes.take_samples(&class(&format!("a.x{n}"))).concat().len()).collect();
    assert_eq!(sampled.iter().filter(|bytes| **bytes > 0).count(), 4);
    assert!(sampled.iter().all(|bytes| *bytes <= 1 << 20));
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
