//! The form of a file of one segment: a short head, the container, one digest.

use std::io::{Read, Write};

use proto_wire::hde::{
    FILE_CHECK_BYTES, FILE_MAGIC_BYTES, HEAD_BYTES, Head, MAX_SHORT_HEAD_BYTES, SHORT_BASELINE_BYTES, ShortHead,
};

use super::{Against, Bytes, Explain, FileError, FileOptions, FileSummary, WriteAt};
use crate::{
    decoder::Decoder,
    encoder::{Encoder, MAX_ENCODED_BYTES},
    sources::HeldSources,
    tree::root,
    version::{Basis, HistoryUse, Version},
};

/// Encodes a file of at most one segment.
pub(super) fn encode(
    input: &Bytes,
    against: Option<&Against>,
    output: &mut dyn Write,
    how: &FileOptions,
    explain: Explain<'_>,
) -> Result<FileSummary, FileError> {
    let size = input.size();
    let mut segment = vec![0; usize::try_from(size).unwrap_or(0)];
    input.read_at(0, &mut segment).map_err(FileError::Input)?;
    let basis = against.map_or(Basis::Nothing, |against| Basis::Baseline(against.baseline.clone()));
    let version = Version::new(how.options, basis, size, how.segment_bytes, HistoryUse::None).linked(how.link);
    let head = against.map_or(ShortHead { baseline_bytes: 0, baseline: [0; SHORT_BASELINE_BYTES] }, |against| {
        let baseline = against.root.first_chunk().copied().unwrap_or_default();
        ShortHead { baseline_bytes: against.baseline.bytes().size(), baseline }
    });
    let mut made = Vec::new();
    head.put(&mut made);
    let encoder = Encoder::new();
    let mut encoder = how.meter.iter().cloned().fold(encoder, Encoder::metered);
    let encoding = encoder.encode(&version, 0, &segment, &mut made);
    let encoding = encoding.map_err(|error| FileError::Input(std::io::Error::other(error)))?;
    explain(0, &encoding);
    let digest = blake3::Hasher::new().update(&made).update(&segment).finalize();
    made.extend_from_slice(&digest.as_bytes()[..FILE_CHECK_BYTES]);
    output.write_all(&made).and_then(|()| output.flush()).map_err(FileError::Output)?;
    Ok(FileSummary {
        segments: 1,
        original_bytes: size,
        encoded_bytes: wide(made.len()),
        referenced_bytes: encoding.referenced_bytes,
    })
}

/// Decodes what begins with `magic`.
pub(super) fn decode(
    magic: [u8; FILE_MAGIC_BYTES],
    input: &mut (dyn Read + Send),
    baseline: Option<Bytes>,
    output: &dyn WriteAt,
    max_bytes: u64,
) -> Result<FileSummary, FileError> {
    let most = MAX_SHORT_HEAD_BYTES + MAX_ENCODED_BYTES + FILE_CHECK_BYTES;
    let mut bytes = magic.to_vec();
    input.take(wide(most + 1 - magic.len())).read_to_end(&mut bytes).map_err(FileError::Input)?;
    let (before, check) = bytes.split_last_chunk::<FILE_CHECK_BYTES>().ok_or(FileError::NotEncoded)?;
    let mut container = before;
    let head = ShortHead::take(&mut container).ok_or(FileError::NotEncoded)?;
    if bytes.len() > most || container.len() < HEAD_BYTES {
        return Err(FileError::NotEncoded);
    }
    let baseline = super::decode::chosen(baseline, head.baseline_bytes)?;
    let mut room = Vec::new();
    let made = made(container, baseline.as_ref(), max_bytes, &mut room).and_then(|()| {
        let digest = blake3::Hasher::new().update(before).update(&room).finalize();
        if digest.as_bytes()[..FILE_CHECK_BYTES] == check[..] { Ok(()) } else { Err(FileError::Damaged) }
    });
    if let (Err(_), Some(baseline)) = (&made, &baseline) {
        // Whatever failed: with the wrong baseline that is the reason.
        let root = root(baseline.as_ref(), 1).map_err(FileError::Baseline)?;
        if root.first_chunk() != Some(&head.baseline) {
            return Err(FileError::OtherBaseline);
        }
    }
    made?;
    let size = wide(room.len());
    output.write_at(0, &room).and_then(|()| output.end(size)).map_err(FileError::Output)?;
    Ok(FileSummary { segments: 1, original_bytes: size, encoded_bytes: wide(bytes.len()), referenced_bytes: 0 })
}

/// The segment; it is still to be verified.
fn made(container: &[u8], baseline: Option<&Bytes>, max_bytes: u64, room: &mut Vec<u8>) -> Result<(), FileError> {
    let failed = |source| FileError::Segment { number: 0, source };
    let head = Head::parse(container).map_err(|error| failed(error.into()))?.0;
    if u64::from(head.segment_bytes) > max_bytes {
        return Err(FileError::TooLong(max_bytes));
    }
    let mut sources = HeldSources::new(baseline.cloned(), None);
    let length = usize::try_from(head.segment_bytes).unwrap_or(usize::MAX);
    Decoder::new().decode(container, length, &mut sources, room).map(|_| ()).map_err(failed)
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
