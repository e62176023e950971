//! Pieces, what is in them, and what decodes it.

use std::sync::Arc;

use crate::tried;
use bytes::Bytes;
use dataplane_hde::{
    Algorithm, Basis, Decoder, Dictionary, Encoder, HeldSources, HistoryUse, Lean, MAX_SMALL_BYTES, Options, Signature,
    SignatureIndex, SmallDecoder, SmallEncoder, Typed, Version,
};
use proto_wire::{
    hde::{Head, MAX_SEGMENT_BYTES, Ops, Streams},
    piece::{HEADER_BYTES, Header, read_bundle, read_known, write_bundle, write_known},
};

pub(crate) fn piece(bytes: &[u8]) {
    let Ok((header, part)) = Header::parse(&Bytes::copy_from_slice(bytes)) else { return };
    assert!(header.part < header.parts && header.decoded_bytes <= MAX_SEGMENT_BYTES);
    if header.parts == 1 {
        let room = [[0; HEADER_BYTES].as_slice(), &part].concat();
        let again = header.pieces(room).unwrap_or_else(|error| panic!("a parsed header cannot be written: {error}"));
        let (parsed, _) = Header::parse(&again[0]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed, header);
    }
}

/// The number of files, then the bundle.
pub(crate) fn bundle(bytes: &[u8]) {
    let Some((count, rest)) = bytes.split_first() else { return };
    let Ok((rows, table, container)) = read_bundle(rest, (*count).into(), 0) else { return };
    let mut again = Vec::new();
    write_bundle(&rows, 0, &mut again);
    assert_eq!([again.as_slice(), container].concat(), rest, "a bundle is more than its files");
    assert!(again.ends_with(table));
}

pub(crate) fn known(bytes: &[u8]) {
    let Ok(list) = read_known(bytes) else { return };
    let mut again = Vec::new();
    write_known(&list, &mut again);
    assert_eq!(again, bytes);
}

pub(crate) fn container(bytes: &[u8]) {
    let Ok((head, body)) = Head::parse(bytes) else { return };
    assert!(head.segment_bytes <= MAX_SEGMENT_BYTES);
    assert_eq!(head.bytes(), bytes[..8]);
    let Ok(streams) = Streams::parse(body, head.segment_bytes) else { return };
    let mut ops = Ops::new(streams.ops, head.segment_bytes);
    let mut made = 0;
    while let Ok(Some(op)) = ops.next_op() {
        made += op.length();
    }
    assert!(made <= head.segment_bytes);
}

/// What a receiver holds, then the container; decoded to the length that the container claims, and to one byte less. And what is
/// held and the rest, encoded by each codec, come back as they were.
pub(crate) fn decoder(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (basis, encoded) = rest.split_at(rest.len().min(usize::from(*length) * 16));
    let mut sources = HeldSources::new(Some(Arc::new(basis.to_vec())), None);
    let mut decoder = Decoder::new();
    if let Ok((head, _)) = Head::parse(encoded) {
        let claimed = usize::try_from(head.segment_bytes).unwrap_or(usize::MAX);
        for expected in [claimed, claimed.saturating_sub(1)] {
            let mut out = Vec::new();
            match decoder.decode(encoded, expected, &mut sources, &mut out) {
                Ok(_) => assert_eq!(out.len(), expected),
                Err(_refused) => assert!(out.is_empty()),
            }
        }
    }
    let Ok((signature, _)) = Signature::read(&mut &*basis, 0) else { return };
    let index = Arc::new(SignatureIndex::new(&signature));
    for algorithm in [Algorithm::Zstd, Algorithm::Lz4, Algorithm::Snappy] {
        let (mut packed, mut out) = (Vec::new(), Vec::new());
        let options = Options { algorithm, ..Options::default() };
        let basis = Basis::Signature(Arc::clone(&index));
        let version = Version::new(options, basis, 0, MAX_SEGMENT_BYTES, HistoryUse::None);
        if Encoder::new().encode(&version, 0, rest, &mut packed).is_ok() {
            let decoded = decoder.decode(&packed, rest.len(), &mut sources, &mut out);
            decoded.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
            assert_eq!(out, rest);
        }
    }
}

/// A signature of a peer, in which the same bytes are looked for; and the bytes' own signature, in which all of them are found.
pub(crate) fn signature(bytes: &[u8]) {
    let mut runs = Vec::new();
    if let Ok(signature) = Signature::from_bytes(bytes.to_vec()) {
        let parsed = proto_wire::signature::Signature::parse(bytes).unwrap_or_else(|error| panic!("{error}"));
        let mut again = Vec::new();
        parsed.head().write(&mut again);
        parsed.entries().for_each(|entry| proto_wire::signature::write_entry(entry, &mut again));
        assert_eq!(again, bytes);
        let index = SignatureIndex::new(&signature);
        index.runs(bytes, &(0..bytes.len()), &mut runs);
        let within =
            |run: &dataplane_hde::Run| run.offset.checked_add(run.length as u64) <= Some(index.described_bytes());
        assert!(runs.iter().all(within));
        runs.clear();
    }
    let Ok((own, root)) = Signature::read(&mut &*bytes, 0) else { return };
    assert_eq!(root, blake3::hash(bytes));
    SignatureIndex::new(&own).runs(bytes, &(0..bytes.len()), &mut runs);
    let mut rest: Vec<u8> = bytes.to_vec();
    runs.iter().for_each(|run| rest[run.start..run.start + run.length].fill(0));
    assert!(rest.iter().all(|byte| *byte == 0), "bytes that are described are not found");
}

/// How many pairs of bytes there are, what a receiver holds, and encoded numbers; and what is held and the rest, encoded and
/// decoded again where they look like numbers.
pub(crate) fn numbers(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (held, encoded) = rest.split_at(rest.len().min(usize::from(*length) * 2));
    let (mut typed, mut room) = (Typed::default(), vec![0; held.len()]);
    tried(typed.decode(encoded, held, &mut room));
    tried(typed.decode(encoded, &[], &mut room));
    let base = encoded.get(..rest.len() / 2).unwrap_or_default();
    let new = &rest[rest.len() - base.len()..];
    for base in [base, &[]] {
        let Some(layout) = Typed::sample(new, base) else { continue };
        let (mut packed, mut out) = (Vec::new(), vec![0; new.len()]);
        typed.encode(new, base, layout, &mut packed);
        typed.decode(&packed, base, &mut out).unwrap_or_else(|error| panic!("{layout:?}: {error}"));
        assert_eq!(out, new);
    }
}

/// How many pairs of bytes are before a small object, and its frame; and that again, compressed and decompressed.
pub(crate) fn small(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (before, packed) = rest.split_at(rest.len().min(usize::from(*length) * 2));
    let Ok(dictionary) = Dictionary::from_bytes(before, blake3::hash(before)) else { return };
    let (mut encoder, mut decoder) = (SmallEncoder::new(), SmallDecoder::new());
    for lean in [Lean::Nothing, Lean::Baseline(before), Lean::Dictionary(&dictionary)] {
        for length in [0, 1, 100, 1000, MAX_SMALL_BYTES] {
            tried(decoder.decompress(packed, lean, &mut vec![0; length]));
        }
        let Some(made) = encoder.compress(packed, lean, 1) else { continue };
        let mut room = vec![0; packed.len()];
        decoder.decompress(made, lean, &mut room).unwrap_or_else(|error| panic!("{lean:?}: {error}"));
        assert_eq!(room, packed);
    }
}
