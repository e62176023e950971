use std::{io, io::Cursor, os::unix::fs::FileExt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::prelude::*;

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
    let mut sources = HeldSources::new(Some(Arc::new(basis.to_vec())), None);
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
    fn decodes_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), length in 0..10_000_usize, codec in 0..4_u8, flags in 0..16_u8) {
        drop(decode(&bytes, length, &[]));
        // The same as the literals of a sound head.
        let mut framed = vec![2, 0, 0, codec];
        framed.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        framed.extend_from_slice(&bytes);
        drop(decode(&framed, length, &[]));
        (framed[1], framed[2], framed[3]) = (1, flags, 0);
        drop(decode(&framed, length, &text(5000)));
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
    assert_eq!((encoding.codec, encoding.ops, encoded.len()), (Codec::Zero, 1, 15));
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
    let mut bomb = vec![2, 0, 0, 1, 10, 0, 0, 0];
    bomb.extend_from_slice(&zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap());
    assert!(matches!(decode(&bomb, 10, &[]), Err(DecodeError::Literals)));
    assert!(matches!(decode(&bomb, 11, &[]), Err(DecodeError::Length { expected: 11, found: 10 })));
    let too_long = vec![0; MAX_SEGMENT_BYTES as usize + 1];
    assert_eq!(
        Encoder::new().encode(&Version::plain(Options::default()), 0, &too_long, &mut Vec::new()),
        Err(SegmentTooLong(too_long.len()))
    );
}

/// A file in memory.
#[derive(Debug, Default)]
struct Held(std::sync::Mutex<Vec<u8>>);

impl ReadAt for Held {
    fn size(&self) -> u64 {
        u64::MAX
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        let held = self.0.lock().unwrap();
        let there = held.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let there = &there[..there.len().min(room.len())];
        room[..there.len()].copy_from_slice(there);
        room[there.len()..].fill(0);
        Ok(())
    }
}

impl WriteAt for Held {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut held, offset) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        let end = held.len().max(offset + bytes.len());
        held.resize(end, 0);
        held[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn end(&self, size: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(usize::try_from(size).unwrap(), 0);
        Ok(())
    }
}

fn encode_whole(new: &[u8], old: Option<&[u8]>, how: &FileOptions) -> (Vec<u8>, FileSummary) {
    let against = old.map(|old| {
        let baseline = Arc::new(Baseline::new(Arc::new(old.to_vec()), None));
        Against { root: baseline.root(2).unwrap(), baseline }
    });
    let (mut encoded, mut told) = (Vec::new(), 0);
    let mut explain = |number: u64, _: &Encoding| {
        assert_eq!(number, told);
        told += 1;
    };
    let input: Arc<dyn ReadAt> = Arc::new(new.to_vec());
    let summary = encode_file(&input, against.as_ref(), &mut encoded, how, &mut explain).unwrap();
    assert_eq!((summary.segments, summary.encoded_bytes), (told, encoded.len() as u64));
    (encoded, summary)
}

fn decode_whole(encoded: &[u8], old: Option<&[u8]>, threads: usize, most: u64) -> Result<Vec<u8>, FileError> {
    let held = Arc::new(Held::default());
    let output: Arc<dyn WriteAt> = held.clone();
    let old = old.map(|old| Arc::new(old.to_vec()) as Arc<dyn ReadAt>);
    decode_file(&mut Cursor::new(encoded), old, &output, threads, most)?;
    Ok(std::mem::take(&mut *held.0.lock().unwrap()))
}

#[test]
fn a_file_comes_back_whole_with_and_without_a_baseline() {
    let old = [text(9 << 20), noise(100_000)].concat();
    let mut new = old.clone();
    new[5_000_000..5_000_100].fill(b'!');
    new.extend_from_slice(b"and a tail");
    let mut sizes = Vec::new();
    for baseline in [None, Some(&old[..])] {
        let (mut encoded, _) = encode_whole(&new, baseline, &FileOptions::default());
        sizes.push(encoded.len());
        assert!(decode_whole(&encoded, baseline, 2, u64::MAX).unwrap() == new);
        let short = decode_whole(&encoded, None, 1, 1000);
        assert!(matches!(short, Err(FileError::TooLong(1000) | FileError::BaselineNeeded)));
        if baseline.is_some() {
            let wrong = decode_whole(&encoded, Some(&new), 1, u64::MAX);
            assert!(matches!(wrong, Err(FileError::OtherBaseline)));
            let mut same_size = old.clone();
            same_size.reverse();
            let wrong = decode_whole(&encoded, Some(&same_size), 1, u64::MAX);
            assert!(matches!(wrong, Err(FileError::OtherBaseline)));
        }
        encoded.truncate(encoded.len() - 1);
        let cut = decode_whole(&encoded, baseline, 1, u64::MAX);
        assert!(matches!(cut, Err(FileError::NotEncoded)));
    }
    assert!(sizes[1] < 1000, "{sizes:?}");
}

#[test]
fn zeros_that_were_never_written_can_be_referred_to() {
    let part = 64 << 10;
    let how = FileOptions { segment_bytes: 64 << 10, ..FileOptions::default() };
    // What ends the first segment and a little of the zeros behind it come again, while nothing stands behind those yet.
    for zeros in [1, 30, 300, 5000] {
        let first = noise(part);
        let again = [&first[1000..], &vec![0; zeros][..], &noise(100)[..]].concat();
        let new = [&first[..], &vec![0; 8 * part][..], &again[..part.min(again.len())]].concat();
        let (encoded, _) = encode_whole(&new, None, &how);
        assert!(encoded.len() < 2 * part, "{}", encoded.len());
        for threads in [1, 2] {
            let file = tempfile::tempfile().unwrap();
            let output: Arc<dyn WriteAt> = Arc::new(FileOutput(file.try_clone().unwrap()));
            decode_file(&mut Cursor::new(&encoded), None, &output, threads, u64::MAX).unwrap();
            let mut made = vec![0; new.len()];
            file.read_exact_at(&mut made, 0).unwrap();
            assert!(made == new && file.metadata().unwrap().len() == new.len() as u64, "{zeros}");
        }
    }
}

#[test]
fn unchanged_stretches_of_a_large_file_cost_nothing() {
    let old = noise(64 << 20);
    let mut new = old.clone();
    new[40_000_000..40_000_100].fill(7);
    let (encoded, summary) = encode_whole(&new, Some(&old), &FileOptions::default());
    assert_eq!(summary.segments, 16);
    assert!(encoded.len() < 400, "{}", encoded.len());
    assert!(decode_whole(&encoded, Some(&old), 2, u64::MAX).unwrap() == new);
}

/// What becomes of a version: parts are moved, repeated, changed in places, left out, put in between.
fn edited(old: &[u8], edits: &[(prop::sample::Index, prop::sample::Index, u8)]) -> Vec<u8> {
    let mut new = old.to_vec();
    for (at, to, what) in edits {
        let (at, to) = (at.index(new.len() + 1), to.index(new.len() + 1));
        let (at, to) = (at.min(to), at.max(to));
        match what % 6 {
            0 => drop(new.drain(at..to.min(at + 3000))),
            1 => drop(new.splice(at..at, noise(usize::from(*what) * 20))),
            2 => new[at..to].iter_mut().step_by(37).for_each(|byte| *byte = byte.wrapping_add(3)),
            3 => new.extend_from_within(at..to),
            4 => new[at..to].fill(0),
            _ => new.rotate_left(at),
        }
        new.truncate(3 << 20);
    }
    new
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_version_comes_back_and_is_the_same_bytes_by_any_threads(
        old in segment(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..6),
        algorithm in algorithm(), level in 1..12_i64, small in any::<bool>(), with in any::<bool>(),
        damage in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let new = edited(&old, &edits);
        let options = Options { algorithm, level: Level::new(level).unwrap(), ..Options::default() };
        let segment_bytes = if small { 65_536 } else { 1 << 20 };
        let how = FileOptions { options, segment_bytes, ..FileOptions::default() };
        let baseline = with.then_some(&old[..]);
        let (encoded, _) = encode_whole(&new, baseline, &how);
        let (again, _) = encode_whole(&new, baseline, &FileOptions { threads: 3, ..how });
        prop_assert!(encoded == again);
        prop_assert!(encoded.len() <= new.len() + 200 + new.len() / 1000);
        prop_assert!(decode_whole(&encoded, baseline, 1, u64::MAX).unwrap() == new);
        prop_assert!(decode_whole(&encoded, baseline, 3, u64::MAX).unwrap() == new);
        let mut damaged = encoded;
        let at = damage.index(damaged.len());
        damaged[at] ^= 1 << bit;
        let decoded = decode_whole(&damaged, baseline, 2, 16 << 20);
        // Only bits that mean nothing may be passed over: sizes and digest of a baseline that nothing refers to.
        prop_assert!(decoded.is_err() || decoded.unwrap() == new, "byte {}", at);
        if with && old.len() > 1 {
            let mut other = old.clone();
            other[old.len() / 2] ^= 1;
            let (encoded, _) = encode_whole(&new, baseline, &FileOptions { options, segment_bytes, ..FileOptions::default() });
            let decoded = decode_whole(&encoded, Some(&other), 2, u64::MAX);
            prop_assert!(decoded.is_err() || decoded.unwrap() == new);
        }
    }
}

fn unhex(line: &str) -> Vec<u8> {
    line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn the_vectors_of_the_description_decode() {
    let description = include_str!("../../../docs/protocol/hde-container.md");
    let examples = description.split_once("## Examples").unwrap().1;
    let basis: Vec<u8> = (0..200).collect();
    let mut containers = 0;
    let lines: Vec<&str> = examples.lines().collect();
    for pair in lines.windows(2) {
        let Some(made) = pair[1].strip_prefix("= ") else { continue };
        let made = made.strip_prefix("zeros ").map_or_else(|| unhex(made), |count| vec![0; count.parse().unwrap()]);
        assert_eq!(decode(&unhex(pair[0]), made.len(), &basis).unwrap(), made);
        containers += 1;
    }
    assert_eq!(containers, 4);
    let mut files = examples.split("```text").skip(2).map(|block| block.split("```").next().unwrap());
    let long = [vec![0; 64 << 10], b"abc".to_vec()].concat();
    for new in [b"abc".to_vec(), long] {
        let how = FileOptions { segment_bytes: 64 << 10, ..FileOptions::default() };
        let (encoded, _) = encode_whole(&new, None, &how);
        let hex: Vec<String> = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(files.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" "), hex.join(" "));
        assert_eq!(decode_whole(&encoded, None, 1, 1 << 20).unwrap(), new);
    }
}

#[test]
fn an_index_that_was_kept_makes_the_same() {
    let old = text(3 << 20);
    let new = [&old[100_000..], &noise(50_000), &old[..300_000]].concat();
    let bytes: Arc<dyn ReadAt> = Arc::new(old.clone());
    let built = Baseline::new(Arc::clone(&bytes), None).built_by(Density::Usual, 3).unwrap().to_bytes();
    assert_eq!(AnchorIndex::build(&bytes, Density::Usual, 1).unwrap().to_bytes(), built);
    let kept = AnchorIndex::from_bytes(&built).unwrap();
    assert!(AnchorIndex::from_bytes(&built[1..]).is_none());
    let baseline = Arc::new(Baseline::new(bytes, Some(kept)));
    let against = Against { root: baseline.root(1).unwrap(), baseline };
    let mut encoded = Vec::new();
    let input: Arc<dyn ReadAt> = Arc::new(new.clone());
    encode_file(&input, Some(&against), &mut encoded, &FileOptions::default(), &mut |_, _| {}).unwrap();
    assert!(encoded == encode_whole(&new, Some(&old), &FileOptions::default()).0);
    assert!(encoded.len() < 52_000, "{}", encoded.len());
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

#[test]
fn a_small_file_leans_on_all_of_its_old_version() {
    let old = text(3000);
    let mut new = old.clone();
    for at in (100..2900).step_by(140) {
        new[at] = b'!';
    }
    new.splice(1500..1500, *b"a line of its own");
    let (encoded, _) = encode_whole(&new, Some(&old), &FileOptions::default());
    // Head, baseline, container, digest: all that is not zstd's are 46 bytes.
    let against_all = zstd::bulk::Compressor::with_dictionary(19, &old).unwrap().compress(&new).unwrap().len();
    assert!(encoded.len() < against_all + 80, "{} {against_all}", encoded.len());
    assert_eq!(decode_whole(&encoded, Some(&old), 1, u64::MAX).unwrap(), new);
    let mut other = old.clone();
    other.iter_mut().for_each(|byte| *byte ^= 1);
    assert!(matches!(decode_whole(&encoded, Some(&other), 1, u64::MAX), Err(FileError::OtherBaseline)));
    assert!(matches!(decode_whole(&encoded, Some(&old[1..]), 1, u64::MAX), Err(FileError::OtherBaseline)));
    assert!(matches!(decode_whole(&encoded, None, 1, u64::MAX), Err(FileError::BaselineNeeded)));
    assert!(matches!(decode_whole(&encoded, Some(&old), 1, 3000), Err(FileError::TooLong(3000))));
    let behind = [&encoded[..], b"!"].concat();
    assert!(decode_whole(&behind, Some(&old), 1, u64::MAX).is_err());
}
