use proptest::prelude::*;

use super::{unpacker::Damaged, *};

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn text(length: usize) -> Vec<u8> {
    (0..)
        .flat_map(|n: u64| format!("{n:08} the quick brown fox {}\n", n.wrapping_mul(7919)).into_bytes())
        .take(length)
        .collect()
}

fn effort() -> impl Strategy<Value = Effort> {
    let level = prop_oneof![Just(-1_i8), 1..=19_i8, Just(22_i8)];
    prop_oneof![4 => level.prop_map(Effort::Zstd), 1 => Just(Effort::Lz4), 1 => Just(Effort::Snappy), 1 => Just(Effort::Store)]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (any::<u64>(), 0..30_000_usize).prop_map(|(seed, length)| noise(seed, length)),
        (0..30_000_usize).prop_map(text),
        (0..30_000_usize).prop_map(|length| vec![7; length]),
        prop::collection::vec(any::<u8>(), 0..300),
    ]
}

/// Any outcome will do.
fn tried<T>(_outcome: T) {}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn gives_back_what_it_took(parts in prop::collection::vec((bytes(), bytes(), effort()), 1..4)) {
        let (mut literals, mut unpacker) = (Literals::new(), Unpacker::new());
        for (bytes, prefix, effort) in parts {
            if let Some((codec, packed)) = literals.compress(&bytes, &prefix, effort) {
                prop_assert!(packed.len() < bytes.len());
                let mut room = vec![1; bytes.len()];
                unpacker.unpack(codec, packed, &prefix, &mut room).unwrap();
                prop_assert_eq!(&room, &bytes);
                // Another length is refused.
                room.push(0);
                prop_assert_eq!(unpacker.unpack(codec, packed, &prefix, &mut room), Err(Damaged));
            }
        }
    }

    #[test]
    fn takes_any_bytes(bytes in bytes(), prefix in bytes(), codec in 0..4_usize, length in 0..5000_usize, damage in any::<prop::sample::Index>()) {
        let codec = [LiteralCodec::Raw, LiteralCodec::Zstd, LiteralCodec::Lz4, LiteralCodec::Snappy][codec];
        let (mut unpacker, mut room) = (Unpacker::new(), vec![0; length]);
        tried(unpacker.unpack(codec, &bytes, &prefix, &mut room));
        let mut literals = Literals::new();
        if let Some((codec, packed)) = literals.compress(&bytes, &prefix, Effort::Zstd(3)) {
            let (mut packed, mut room) = (packed.to_vec(), vec![0; bytes.len()]);
            let at = damage.index(packed.len());
            packed[at] ^= 1;
            tried(unpacker.unpack(codec, &packed, &prefix, &mut room));
            packed[at] ^= 1;
            // Another prefix makes other bytes or none; the context is as good as before.
            tried(unpacker.unpack(codec, &packed, &prefix[..prefix.len() / 2], &mut room));
            unpacker.unpack(codec, &packed, &prefix, &mut room).unwrap();
            prop_assert_eq!(room, bytes);
        }
    }
}

#[test]
fn the_whole_of_a_long_prefix_is_found() {
    let (long, mut literals, mut unpacker) = (noise(1, 8 << 20), Literals::new(), Unpacker::new());
    for level in [-1, 1, 3, 6, 9, 12, 13, 15] {
        let prefix = if matches!(level, 5..=12) { &long[..4 << 20] } else { &long[..] };
        // From all over the prefix, its beginning too.
        let bytes: Vec<u8> = prefix.chunks(100_000).flat_map(|part| &part[..part.len().min(30_000)]).copied().collect();
        let (codec, packed) = literals.compress(&bytes, prefix, Effort::Zstd(level)).unwrap();
        assert!(packed.len() < bytes.len() / 20, "level {level}: {} of {}", packed.len(), bytes.len());
        let mut room = vec![0; bytes.len()];
        unpacker.unpack(codec, packed, prefix, &mut room).unwrap();
        assert_eq!(room, bytes);
    }
}

#[test]
fn a_bomb_is_refused_before_it_is_built() {
    let mut unpacker = Unpacker::new();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    assert_eq!(unpacker.unpack(LiteralCodec::Zstd, &bomb, &[], &mut [0; 10]), Err(Damaged));
    // Many legal frames that make the length together, and frames that are skipped.
    let frame = zstd::bulk::compress(&[1; 100], 1).unwrap();
    let mut room = vec![0; 100];
    unpacker.unpack(LiteralCodec::Zstd, &frame, &[], &mut room).unwrap();
    assert_eq!(unpacker.unpack(LiteralCodec::Zstd, &[&frame[..], &frame].concat(), &[], &mut [0; 200]), Err(Damaged));
    let skipped = [&frame[..], &[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9]].concat();
    assert_eq!(unpacker.unpack(LiteralCodec::Zstd, &skipped, &[], &mut room), Err(Damaged));
}

#[test]
fn a_probe_tells_media_from_text() {
    let mut literals = Literals::new();
    assert!(literals.probe(&noise(3, 1 << 20)) >= Permille(1000));
    assert!(literals.probe(&text(1 << 20)) < Permille(500));
    // What is decided of a probe goes by the same context.
    assert!(literals.compress(&text(1 << 20), &[], Effort::Zstd(9)).is_some());
}

/// zstd's row match finder salts its hashes by what a context compressed before; the salt is xored to each hash, so that all fall together
/// as they did, elsewhere.
#[test]
fn what_was_compressed_before_changes_no_bytes() {
    let text = |seed: u64| -> Vec<u8> {
        let words = noise(seed, 30_000);
        words.iter().flat_map(|byte| format!("{} ", u32::from(*byte) * 7919 % 613).into_bytes()).collect()
    };
    let texts: Vec<Vec<u8>> = (0..6).map(text).collect();
    for level in 3..=13 {
        let packed = |order: &mut dyn Iterator<Item = usize>| -> Vec<(usize, Vec<u8>)> {
            let mut literals = Literals::new();
            let mut made: Vec<_> = order
                .map(|number| {
                    let (_, packed) = literals.compress(&texts[number], &[], Effort::Zstd(level)).unwrap();
                    (number, packed.to_vec())
                })
                .collect();
            made.sort();
            made
        };
        assert!(packed(&mut (0..6)) == packed(&mut (0..6).rev()), "level {level}");
    }
}
