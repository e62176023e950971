use proptest::prelude::*;

use super::*;

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Weights, and the same after a step of training; `count` numbers of f32 or, cut off, bf16.
fn weights(count: usize, changed: f32, width: usize) -> (Vec<u8>, Vec<u8>) {
    let uniform = |bytes: &[u8; 4]| f32::from(u16::from_le_bytes([bytes[0], bytes[1]])) / 65_536.0 - 0.5;
    let random = noise(9, count * 12);
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for three in random.as_chunks::<4>().0.chunks(3) {
        let weight = uniform(&three[0]) * uniform(&three[1]);
        let step = if uniform(&three[2]) + 0.5 < changed { uniform(&three[0]) * 1e-4 + 1e-5 } else { 0.0 };
        old.extend_from_slice(&weight.to_le_bytes()[4 - width..]);
        new.extend_from_slice(&(weight + step).to_le_bytes()[4 - width..]);
    }
    (old, new)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (any::<u64>(), 0..10_000_usize).prop_map(|(seed, length)| noise(seed, length)),
        (0..10_000_usize).prop_map(|length| vec![7; length]),
        prop::collection::vec(any::<u8>(), 0..60),
    ]
}

fn layout() -> impl Strategy<Value = Layout> {
    (1..4_usize, 0..8_usize).prop_map(|(log, phase)| {
        let width = 1 << log;
        Layout { width, phase: phase % width, kept: Permille(0) }
    })
}

/// Any outcome will do.
fn tried<T>(_outcome: T) {}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn gives_back_what_it_took(
        base in bytes(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200), layout in layout(), alone in any::<bool>(),
    ) {
        let mut new = base.clone();
        for (at, byte) in changes.iter().filter(|_| !base.is_empty()) {
            new[at.index(base.len())] = *byte;
        }
        let base = if alone { &[][..] } else { &base };
        let (mut typed, mut out, mut room) = (Typed::default(), vec![3], vec![1; new.len()]);
        typed.encode(&new, base, layout, &mut out);
        prop_assert_eq!(out[0], 3);
        typed.decode(&out[1..], base, &mut room).unwrap();
        prop_assert_eq!(&room, &new);
        // Shorter, longer, and with one byte more.
        prop_assert_eq!(typed.decode(&out[1..out.len() - 1], base, &mut room), Err(DamagedNumbers));
        out.push(1);
        prop_assert_eq!(typed.decode(&out[1..], base, &mut room), Err(DamagedNumbers));
    }

    #[test]
    fn takes_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..300), base in bytes(), layout in layout(), damage in any::<prop::sample::Index>(), by in 1..=255_u8,
    ) {
        let (mut typed, mut out, mut room) = (Typed::default(), Vec::new(), vec![0; base.len()]);
        tried(typed.decode(&bytes, &base, &mut room));
        tried(typed.decode(&bytes, &[], &mut room));
        typed.encode(&base, &[], layout, &mut out);
        let at = damage.index(out.len());
        out[at] ^= by;
        tried(typed.decode(&out, &[], &mut room));
    }
}

#[test]
fn finds_the_width_and_phase_of_weights() {
    for (width, phase, changed) in [(4, 3, 0.8), (4, 0, 0.2), (2, 1, 0.8), (2, 0, 0.03)] {
        let (old, new) = weights(200_000, changed, width);
        let (old, new) = ([&noise(1, phase)[..], &old].concat(), [&noise(2, phase)[..], &new].concat());
        let layout = Typed::sample(&new, &old).unwrap();
        assert_eq!((layout.width, layout.phase), (width, phase));
        let (mut typed, mut out, mut room) = (Typed::default(), Vec::new(), vec![0; new.len()]);
        typed.encode(&new, &old, layout, &mut out);
        // The sample is of all numbers with one table, so it promises less than comes of it.
        assert!(
            out.len() * 1000 / new.len() <= usize::from(layout.kept.0) + 10,
            "{} of {}, {layout:?}",
            out.len(),
            new.len()
        );
        typed.decode(&out, &old, &mut room).unwrap();
        assert_eq!(room, new);

        let alone = Typed::sample(&new, &[]).unwrap();
        assert_eq!(alone.width, width);
    }
}

#[test]
fn what_is_not_numbers_is_not_tried() {
    assert_eq!(Typed::sample(&noise(1, 100_000), &noise(2, 100_000)), None);
    assert_eq!(Typed::sample(&noise(1, 100_000), &noise(1, 100_000)), None);
    assert_eq!(Typed::sample(&noise(1, 100_000), &[]), None);
    assert_eq!(Typed::sample(&[0; 100], &[0; 100]), None);
    assert_eq!(Typed::sample(&noise(1, 100_000), &noise(1, 90_000)), None);
}

#[test]
fn tables_from_a_peer_are_bounded() {
    let mut slots = tables::Slots::default();
    let table = [0, 5, 0x80, 0x20];
    assert!(slots.read(&[&[1][..], &table].concat(), true).is_ok());
    // None, too many, cut off, contexts that go back, frequencies that do not add up.
    assert!(slots.read(&[0], true).is_err());
    assert!(slots.read(&[&[65][..], &[0; 300]].concat(), true).is_err());
    assert!(slots.read(&[1, 0, 5, 0x80], true).is_err());
    assert!(slots.read(&[&[3, 9, 0][..], &table, &[8, 0], &table, &table].concat(), true).is_err());
    assert!(slots.read(&[&[2, 0, 2][..], &table, &table].concat(), true).is_err());
    assert!(slots.read(&[1, 0, 5, 0x7f], true).is_err());
    assert!(slots.read(&[1, 1, 5, 0x80, 0x20, 6, 1], true).is_err());
}

/// The vector of docs/protocol/hde-numbers.md.
#[test]
fn the_test_vector_holds() {
    let bytes = |numbers: [u16; 5]| [&[9][..], &numbers.map(u16::to_le_bytes).concat()].concat();
    let old = bytes([0x3f80, 0x3f80, 0x4000, 0xc000, 0x3f80]);
    let new = bytes([0x3f80, 0x3f81, 0x4000, 0xbfe9, 0x3f80]);
    let (mut typed, mut out) = (Typed::default(), Vec::new());
    typed.encode(&new, &old, Layout { width: 2, phase: 1, kept: Permille(0) }, &mut out);
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "0101090102009a1302b30611b306007eb90200aa0905005ca60100dd0c050005";
    assert_eq!(hex, expected);
}
