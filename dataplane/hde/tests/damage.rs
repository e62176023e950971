//! A changed bit of an encoded file is found, wherever it is.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{self, Cursor},
    sync::{Arc, Mutex},
};

use dataplane_hde::{Against, Baseline, FileError, FileOptions, ReadAt, WriteAt, decode_file, encode_file};

/// A file in memory.
#[derive(Debug, Default)]
struct Held(Mutex<Vec<u8>>);

impl ReadAt for Held {
    fn size(&self) -> u64 {
        u64::MAX
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        self.0.lock().unwrap().read_at(offset, room)
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

/// A name, the new version, its baseline.
type Set<'a> = (&'a str, Vec<u8>, Option<&'a [u8]>);

fn encode(new: &[u8], old: Option<&[u8]>) -> Vec<u8> {
    let against = old.map(|old| {
        let baseline = Arc::new(Baseline::new(Arc::new(old.to_vec()), None));
        Against { root: baseline.root(1).unwrap(), baseline }
    });
    let input: Arc<dyn ReadAt> = Arc::new(new.to_vec());
    let how = FileOptions { segment_bytes: 64 << 10, ..FileOptions::default() };
    let mut encoded = Vec::new();
    encode_file(&input, against.as_ref(), &mut encoded, &how, &mut |_, _| {}).unwrap();
    encoded
}

fn decode(encoded: &[u8], old: Option<&[u8]>) -> Result<Vec<u8>, FileError> {
    let held = Arc::new(Held::default());
    let output: Arc<dyn WriteAt> = held.clone();
    let old = old.map(|old| Arc::new(old.to_vec()) as Arc<dyn ReadAt>);
    decode_file(&mut Cursor::new(encoded), old, &output, 1, 1 << 20)?;
    Ok(std::mem::take(&mut *held.0.lock().unwrap()))
}

/// Bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn text(length: usize, step: u64) -> Vec<u8> {
    (0..).flat_map(|n: u64| format!("{n:04} the fox {}\n", n * step).into_bytes()).take(length).collect()
}

#[test]
fn any_changed_bit_and_any_cut_are_found() {
    let old = [text(70_000, 7919), noise(2000)].concat();
    let mut edited = old.clone();
    edited[1000..1040].fill(b'!');
    edited.splice(30_000..30_000, text(300, 13));
    let sets: [Set<'_>; 6] = [
        ("empty", vec![], None),
        ("empty, with a baseline", vec![], Some(&old)),
        ("text", text(2000, 31), None),
        ("zeros, with a baseline", vec![0; 200_000], Some(&old)),
        ("edited", edited, Some(&old)),
        ("another", text(2000, 31), Some(&old[..4000])),
    ];
    for (name, new, old) in &sets {
        let encoded = encode(new, *old);
        assert!(decode(&encoded, *old).unwrap() == *new, "{name}");
        for cut in 0..encoded.len() {
            assert!(decode(&encoded[..cut], *old).is_err(), "{name}, cut at {cut}");
        }
        for (at, bit) in (0..encoded.len()).map(|at| (at, at % 8)) {
            let mut changed = encoded.clone();
            changed[at] ^= 1 << bit;
            assert!(decode(&changed, *old).is_err(), "{name}: bit {bit} of byte {at} of {}", encoded.len());
        }
    }
}
