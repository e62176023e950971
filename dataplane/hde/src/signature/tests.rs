use proptest::prelude::*;

use super::*;

/// Bytes that nothing compresses, another sequence for each seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn signature(bytes: &[u8]) -> Signature {
    let (signature, root) = Signature::read(&mut &*bytes, bytes.len() as u64).unwrap();
    assert_eq!(root, blake3::hash(bytes));
    signature
}

/// The runs of `new` in segments of `segment` bytes with context; each is checked against `old`. How much is referred to.
fn referred(old: &[u8], new: &[u8], segment: usize) -> (usize, usize) {
    let index = SignatureIndex::new(&signature(old));
    let (mut bytes, mut count) = (0, 0);
    for start in (0..new.len()).step_by(segment) {
        let end = (start + segment).min(new.len());
        let (from, to) = (start.saturating_sub(index.context_bytes()), (end + index.context_bytes()).min(new.len()));
        let mut runs = Vec::new();
        index.runs(&new[from..to], &(start - from..end - from), &mut runs);
        let mut behind = 0;
        for run in &runs {
            assert!(run.start >= behind && run.length > 0);
            behind = run.start + run.length;
            assert!(behind <= end - start);
            let offset = usize::try_from(run.offset).unwrap();
            assert_eq!(new[start + run.start..start + behind], old[offset..offset + run.length]);
            bytes += run.length;
        }
        count += runs.len();
    }
    (bytes, count)
}

fn object() -> impl Strategy<Value = Vec<u8>> {
    let stretch = prop_oneof![
        (any::<u64>(), 0..40_000_usize).prop_map(|(seed, length)| noise(seed, length)),
        (0..100_000_usize).prop_map(|length| vec![0; length]),
        (any::<u8>(), 0..20_000_usize).prop_map(|(byte, length)| vec![byte; length]),
        prop::collection::vec(any::<u8>(), 0..200),
    ];
    prop::collection::vec(stretch, 0..6).prop_map(|stretches| stretches.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn describes_the_object_the_same_however_its_bytes_come(object in object(), cuts in prop::collection::vec(1..70_000_usize, 1..5)) {
        let expected = signature(&object);
        let mut builder = SignatureBuilder::new(object.len() as u64);
        let (mut rest, mut lengths) = (object.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
            builder.push(part);
            rest = after;
        }
        let (made, root) = builder.finish();
        prop_assert_eq!(root, blake3::hash(&object));
        prop_assert_eq!(&made, &expected);
        let parsed = proto_wire::signature::Signature::parse(made.as_bytes()).unwrap();
        prop_assert_eq!(parsed.described_bytes(), object.len() as u64);
        prop_assert_eq!(Signature::from_bytes(made.into_bytes()).unwrap(), expected);
    }

    #[test]
    fn finds_only_what_is_there(old in object(), other in object(), at in any::<prop::sample::Index>(), segment in 5_000..100_000_usize) {
        // The old one with the other in its midst.
        let (before, behind) = old.split_at(at.index(old.len() + 1));
        referred(&old, &[before, &other, behind].concat(), segment);
    }
}

#[test]
fn an_insertion_costs_its_neighbourhood_wherever_segments_end() {
    let old = noise(1, 3_000_000);
    let new = [&old[..1_234_567], b"something new", &old[1_234_567..]].concat();
    for segment in [1 << 20, 300_001] {
        let (bytes, runs) = referred(&old, &new, segment);
        // At most the chunk into which it fell, and the one behind.
        assert!(old.len() - bytes <= 2 * 4096, "{} missing", old.len() - bytes);
        assert!(runs <= 2 + new.len() / segment, "{runs} runs");
    }
}

#[test]
fn without_context_only_the_ends_of_segments_are_missed() {
    let old = noise(2, 4 << 20);
    let index = SignatureIndex::new(&signature(&old));
    for start in (0..old.len()).step_by(1 << 20) {
        let mut runs = Vec::new();
        index.runs(&old[start..start + (1 << 20)], &(0..1 << 20), &mut runs);
        assert_eq!(runs.len(), 1);
        assert!(runs[0].length + 2 * 4096 >= 1 << 20);
    }
}

#[test]
fn holes_cost_nothing_and_moved_parts_are_found() {
    let (first, second) = (noise(3, 200_000), noise(4, 200_000));
    let old = [first.clone(), vec![0; 30 << 20], second.clone()].concat();
    let described = signature(&old);
    assert!(described.as_bytes().len() < 400 * 8 * 2, "{} bytes", described.as_bytes().len());
    let new = [second, vec![0; 5 << 20], first].concat();
    let (bytes, _) = referred(&old, &new, 1 << 20);
    assert!(bytes >= 380_000, "{bytes} of 400,000 found");
}

#[test]
fn a_signature_of_equal_digests_neither_hangs_nor_finds() {
    // 100,000 chunks whose digests fall into one slot, and differ only behind the slot's bits.
    let mut bytes = vec![1, 10, 8];
    for number in 0..100_000_u32 {
        bytes.extend_from_slice(&[0xff, 7, 1, 1, 1, 1]);
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    let index = SignatureIndex::new(&Signature::from_bytes(bytes).unwrap());
    let mut runs = Vec::new();
    let new = noise(5, 1 << 20);
    index.runs(&new, &(0..new.len()), &mut runs);
    assert!(runs.is_empty());
    assert_eq!(index.find(&[1, 1, 1, 1, 0, 0, 0, 7], 1023), Some(7 * 1023));
    assert_eq!(index.find(&[1, 1, 1, 1, 0, 0, 0, 7], 1024), None);
}

#[test]
fn averages_follow_the_cube_root_and_counts_are_bounded() {
    let logs =
        [0, 1 << 10, 1 << 20, 32 << 20, 70 << 20, 1 << 30, 32 << 30, 1 << 40, 1 << 43, u64::MAX].map(average_log);
    assert_eq!(logs, [10, 10, 10, 10, 11, 12, 14, 19, 20, 20]);
    for log in 0..42 {
        let size = 1_u64 << log;
        assert!(size >> average_log(size) <= (MAX_CHUNKS / 2) as u64);
    }
    assert_eq!(head(100 << 20).digest_bytes, 5);
    assert_eq!(head(100 << 30).digest_bytes, 8);
}

/// The vector of docs/protocol/hde-signature.md.
#[test]
fn the_test_vector_holds() {
    let mut bytes = noise(7, 5000);
    bytes.extend_from_slice(&[0; 1000]);
    bytes.extend_from_slice(b"the end");
    let (made, _) = Signature::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
    let hex: String = made.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "010a05f9089bc2c6f0148104fffea38ab188106b746f6fa8c60a38004ae4ae00a8070749fbcf8168";
    assert_eq!(hex, expected);
}
