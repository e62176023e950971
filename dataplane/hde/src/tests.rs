use std::{io, io::Cursor, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::{prelude::*, test_runner::TestRng};

use super::*;

const BLOCK: u32 = 4096;

/// Bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn text(length: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n: u64| format!("{n:08} the quick brown fox {}\n", n.wrapping_mul(7919)).into_bytes());
    lines.take(length).collect()
}

fn options(algorithm: Algorithm) -> Options {
    Options { algorithm, ..Options::default() }
}

fn signed(options: Options, index: &Arc<SignatureIndex>) -> Version {
    Version::new(options, Basis::Signature(Arc::clone(index)), 0, MAX_SEGMENT_BYTES, HistoryUse::None)
}

fn index(mut basis: &[u8]) -> Arc<SignatureIndex> {
    let size = u64::try_from(basis.len()).unwrap();
    let (signature, _) = Signature::read(&mut basis, size).unwrap();
    Arc::new(SignatureIndex::new(&signature))
}

fn decode(encoded: &[u8], length: usize, basis: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut sources = HeldSources { basis: Some(Arc::new(basis.to_vec())), history: None };
    let mut out = vec![1, 2, 3];
    let result = Decoder::new().decode(encoded, length, &mut sources, &mut out);
    assert_eq!(out[..3], [1, 2, 3]);
    assert_eq!(out.len(), 3 + if result.is_ok() { length } else { 0 });
    result.map(|_| out.split_off(3))
}

/// Stretches of every kind, as files have them.
fn segment() -> impl Strategy<Value = Vec<u8>> {
    let stretch = prop_oneof![
        (0..20_000_usize).prop_map(noise),
        (0..20_000_usize).prop_map(text),
        (0..200_000_usize).prop_map(|length| vec![0; length]),
        prop::collection::vec(any::<u8>(), 0..50),
    ];
    prop::collection::vec(stretch, 0..6).prop_map(|stretches| stretches.concat())
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Zstd), Just(Algorithm::Lz4), Just(Algorithm::Snappy)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn gives_back_what_it_took_and_is_never_worse_than_raw(
        segments in prop::collection::vec(segment(), 1..3), basis in segment(), algorithm in algorithm(), shift in 0..3_usize,
    ) {
        // A part of the basis stands in the segment again, at an aligned place.
        let block = BLOCK as usize;
        let again = basis.get(shift * block..).unwrap_or_default();
        let index = index(&basis);
        let version = signed(options(algorithm), &index);
        let mut encoder = Encoder::new();
        let mut encoded = Vec::new();
        for segment in segments {
            let segment = [again, &segment].concat();
            encoded.clear();
            let encoding = encoder.encode(&version, 0, &segment, &mut encoded).unwrap();
            prop_assert!(encoded.len() <= segment.len() + OVERHEAD_BYTES);
            prop_assert!(encoded.len() <= MAX_ENCODED_BYTES);
            prop_assert_eq!(encoding.output_bytes, encoded.len() as u64);
            let parts = encoding.referenced_bytes + encoding.zero_bytes + encoding.literal_bytes;
            prop_assert_eq!(parts, segment.len() as u64);
            let (mut room, mut out) = ([vec![9; OVERHEAD_BYTES], segment.clone()].concat(), Vec::new());
            let (same, stands) = encoder.encode_in_room(&version, 0, &mut room, &mut out).unwrap();
            prop_assert_eq!((same, if stands == Stands::InRoom { &room } else { &out }), (encoding, &encoded));
            prop_assert_eq!(decode(&encoded, segment.len(), &basis).unwrap(), segment);
        }
    }

    #[test]
    fn decodes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), length in 0..10_000_usize, codec in 0..4_u8) {
        drop(decode(&bytes, length, &[]));
        // The same as the literals of a sound head.
        let mut framed = vec![1, codec, 0, 0];
        framed.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        framed.extend_from_slice(&bytes);
        drop(decode(&framed, length, &[]));
    }

    #[test]
    fn decodes_damaged_segments_without_panic(
        segment in segment(), algorithm in algorithm(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let basis = text(20_000);
        let mut encoded = Vec::new();
        Encoder::new().encode(&signed(options(algorithm), &index(&basis)), 0, &segment, &mut encoded).unwrap();
        for (at, byte) in damage {
            let at = at.index(encoded.len());
            encoded[at] = byte;
        }
        drop(decode(&encoded, segment.len(), &basis));
        encoded.truncate(cut.index(encoded.len()));
        drop(decode(&encoded, segment.len(), &basis));
    }
}

#[test]
fn what_cannot_be_compressed_is_seen_without_compressing_it() {
    let segment = noise(4 << 20);
    for algorithm in [Algorithm::Zstd, Algorithm::Lz4, Algorithm::Snappy] {
        let mut encoded = Vec::new();
        let encoding = Encoder::new().encode(&Version::plain(options(algorithm)), 0, &segment, &mut encoded).unwrap();
        assert_eq!((encoding.codec, encoded.len()), (Codec::Raw, segment.len() + OVERHEAD_BYTES));
        assert_eq!(decode(&encoded, segment.len(), &[]).unwrap(), segment);
    }
}

#[test]
fn each_algorithm_carries_text() {
    let segment = text(1 << 20);
    let sizes = [(Algorithm::Zstd, Codec::Zstd), (Algorithm::Lz4, Codec::Lz4), (Algorithm::Snappy, Codec::Snappy)].map(
        |(algorithm, codec)| {
            let mut encoded = Vec::new();
            let encoding =
                Encoder::new().encode(&Version::plain(options(algorithm)), 0, &segment, &mut encoded).unwrap();
            assert_eq!(encoding.codec, codec);
            assert_eq!(decode(&encoded, segment.len(), &[]).unwrap(), segment);
            encoded.len()
        },
    );
    assert!(sizes.iter().all(|size| *size < segment.len() / 2), "{sizes:?}");
}

#[test]
fn zeros_are_one_operation() {
    let mut encoded = Vec::new();
    let segment = vec![0; 4 << 20];
    let encoding = Encoder::new().encode(&Version::plain(Options::default()), 0, &segment, &mut encoded).unwrap();
    assert_eq!((encoding.codec, encoding.ops, encoded.len()), (Codec::Zero, 1, 13));
    assert_eq!(decode(&encoded, segment.len(), &[]).unwrap(), segment);
}

#[test]
fn only_the_changed_chunk_travels() {
    let basis = noise(1 << 20);
    let mut segment = basis.clone();
    segment[500_000] ^= 1;
    let index = index(&basis);
    let mut encoded = Vec::new();
    let encoding = Encoder::new().encode(&signed(Options::default(), &index), 0, &segment, &mut encoded).unwrap();
    // A reference before, the chunk, a reference behind.
    assert_eq!(encoding.ops, 3);
    assert!(encoded.len() < BLOCK as usize + 64, "{}", encoded.len());
    assert_eq!(decode(&encoded, segment.len(), &basis).unwrap(), segment);

    let whole = Options { references: false, ..Options::default() };
    encoded.clear();
    let encoding = Encoder::new().encode(&signed(whole, &index), 0, &segment, &mut encoded).unwrap();
    assert_eq!(encoding.referenced_bytes, 0);
}

#[test]
fn switched_off_it_passes_bytes_on() {
    let mut encoded = Vec::new();
    let off = Options { enabled: false, ..Options::default() };
    let segment = vec![0; 100_000];
    let encoding = Encoder::new().encode(&signed(off, &index(&segment)), 0, &segment, &mut encoded).unwrap();
    assert_eq!((encoding.codec, encoded.len()), (Codec::Raw, segment.len() + OVERHEAD_BYTES));
}

#[test]
fn a_bomb_is_refused_before_it_is_built() {
    // A zstd frame of 64 MiB of zeros, said to be 10 bytes.
    let mut bomb = vec![1, 1, 0, 0, 10, 0, 0, 0];
    bomb.extend_from_slice(&zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap());
    assert!(matches!(decode(&bomb, 10, &[]), Err(DecodeError::Literals)));
    assert!(matches!(decode(&bomb, 11, &[]), Err(DecodeError::Length { expected: 11, found: 10 })));
    let too_long = vec![0; MAX_SEGMENT_BYTES as usize + 1];
    assert_eq!(
        Encoder::new().encode(&Version::plain(Options::default()), 0, &too_long, &mut Vec::new()),
        Err(SegmentTooLong(too_long.len()))
    );
}

#[test]
fn a_file_comes_back_whole_with_and_without_a_baseline() {
    let old = [text(9 << 20), noise(100_000)].concat();
    let mut new = old.clone();
    new[5_000_000..5_000_100].fill(b'!');
    new.extend_from_slice(b"and a tail");
    let mut sizes = Vec::new();
    for baseline in [None, Some(&old)] {
        let mut encoded = Vec::new();
        let mut told = 0;
        let mut explain = |number: u64, _: &Encoding| {
            assert_eq!(number, told);
            told += 1;
        };
        let mut reader = baseline.map(Cursor::new);
        let reader = reader.as_mut().map(|reader| reader as &mut dyn io::Read);
        let how = FileOptions::default();
        let summary = encode_file(&mut Cursor::new(&new), reader, &mut encoded, &how, &mut explain).unwrap();
        assert_eq!((summary.segments, summary.encoded_bytes), (told, encoded.len() as u64));
        sizes.push(encoded.len());

        let mut seeker = baseline.map(Cursor::new);
        let mut decoded = Vec::new();
        let seeker = seeker.as_mut().map(|seeker| seeker as &mut dyn ReadSeek);
        let back = decode_file(&mut Cursor::new(&encoded), seeker, &mut decoded, u64::MAX).unwrap();
        assert!(decoded == new);
        assert_eq!(back.encoded_bytes, summary.encoded_bytes);

        let short = decode_file(&mut Cursor::new(&encoded), None, &mut io::sink(), 1000);
        assert!(matches!(short, Err(FileError::TooLong(1000) | FileError::BaselineNeeded)));
        if baseline.is_some() {
            let mut other = Cursor::new(&new);
            let wrong = decode_file(&mut Cursor::new(&encoded), Some(&mut other), &mut io::sink(), u64::MAX);
            assert!(matches!(wrong, Err(FileError::OtherBaseline)));
        }
        encoded.truncate(encoded.len() - 1);
        let mut old = Cursor::new(&old);
        let cut = decode_file(&mut Cursor::new(&encoded), Some(&mut old), &mut io::sink(), u64::MAX);
        assert!(matches!(cut, Err(FileError::NotEncoded)));
    }
    assert!(sizes[1] < 10_000, "{sizes:?}");
}

#[test]
fn a_damaged_file_is_never_passed_for_the_original() {
    let original = [text(300_000), noise(50_000)].concat();
    let mut encoded = Vec::new();
    let how = FileOptions { segment_bytes: 65_536, ..FileOptions::default() };
    encode_file(&mut Cursor::new(&original), None, &mut encoded, &how, &mut |_, _| {}).unwrap();
    let mut rng = TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha);
    for _ in 0..300 {
        let mut damaged = encoded.clone();
        let at = rng.random_range(0..damaged.len());
        damaged[at] ^= 1 << rng.random_range(0..8_u8);
        let mut out = Vec::new();
        let decoded = decode_file(&mut Cursor::new(&damaged), None, &mut out, u64::MAX);
        // Only bits that mean nothing may be passed over.
        assert!(decoded.is_err() || out == original, "byte {at}");
    }
}

#[test]
fn ratios_cover_the_last_minute_and_are_absent_before() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let (clock, hand) = Clock::manual(DateTime::<Utc>::UNIX_EPOCH);
        let meter = Meter::new(clock);
        let mut encoder = Encoder::new().metered(meter.clone());
        assert!(!rendered.render().contains("dwcp_hde"));
        let mut out = Vec::new();
        encoder.encode(&Version::plain(Options::default()), 0, &noise(200_000), &mut out).unwrap();
        let near = |ratio: Option<f64>, to: f64| (ratio.unwrap() - to).abs() < 0.01;
        assert!(near(meter.stats().compression_ratio, 1.0));
        assert_eq!(meter.stats().delta_encoding_ratio, None);
        assert!(!rendered.render().contains("dwcp_hde_delta_encoding_ratio"));

        let basis = noise(1 << 20);
        hand.advance(Duration::from_secs(61));
        let encoding = encoder.encode(&signed(Options::default(), &index(&basis)), 0, &basis, &mut out).unwrap();
        assert_eq!(encoding.codec, Codec::Reference);
        let stats = meter.stats();
        assert!(stats.compression_ratio.unwrap() > 1000.0);
        assert_eq!(stats.compression_ratio, stats.delta_encoding_ratio);
        let text = rendered.render();
        for line in [
            "dwcp_hde_compression_ratio ",
            "dwcp_hde_delta_encoding_ratio ",
            "dwcp_hde_input_bytes_total{codec=\"raw\"} 200000",
            "dwcp_hde_output_bytes_total{codec=\"reference\"}",
            "dwcp_hde_encode_duration_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    });
}
