//! Whole files as a sequence of encoded segments, for people who want to see or use HDE by itself.
//!
//! ```text
//! 8 bytes   "DWCPHDE" and 1
//! u64 LE    size of the baseline, 0 for none;  32 bytes  its BLAKE3 (zeros for none)
//! segments: u32 LE length of the encoded segment (never 0), the segment (proto_wire::hde)
//! u32 LE 0  the end;  u64 LE length of the file;  32 bytes  its BLAKE3
//! ```

use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

use proto_wire::hde::{Container, MAX_SEGMENT_BYTES};

use crate::{
    decoder::{DecodeError, Decoder},
    encoder::{Encoder, Encoding, MAX_ENCODED_BYTES},
    meter::Meter,
    options::Options,
    signature::{Signature, SignatureIndex},
    sources::Sources,
    version::{Basis, HistoryUse, Version},
};

const MAGIC: [u8; 8] = *b"DWCPHDE\x01";

/// Why a file cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file to read from failed.
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    /// The baseline failed.
    #[error("cannot read the baseline")]
    Baseline(#[source] io::Error),
    /// The file to write to failed.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The input was not made by `encode_file`.
    #[error("the input is no HDE file, or is cut off")]
    NotEncoded,
    /// It was encoded against a baseline.
    #[error("the input was encoded against a baseline; give it as well")]
    BaselineNeeded,
    /// It was encoded against another baseline.
    #[error("the input was encoded against another baseline")]
    OtherBaseline,
    /// A segment is damaged.
    #[error("segment {number} is damaged")]
    Segment {
        /// Counted from 0.
        number: u64,
        /// How.
        #[source]
        source: DecodeError,
    },
    /// The whole is not what was encoded.
    #[error("the decoded file is not the one that was encoded")]
    Digest,
    /// The output would be longer than allowed.
    #[error("the decoded file is longer than {0} bytes")]
    TooLong(u64),
}

/// How to encode a file.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// How to encode its segments.
    pub options: Options,
    /// Bytes of a segment, at most [`MAX_SEGMENT_BYTES`].
    pub segment_bytes: u32,
    /// What counts.
    pub meter: Option<Meter>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { options: Options::default(), segment_bytes: MAX_SEGMENT_BYTES, meter: None }
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSummary {
    /// Segments.
    pub segments: u64,
    /// Bytes of the file itself.
    pub original_bytes: u64,
    /// Bytes of its encoded form, all included.
    pub encoded_bytes: u64,
    /// Bytes that are references to the baseline; not known to the decoder.
    pub referenced_bytes: u64,
}

/// Encodes `input` against `baseline`, segment by segment; `explain` hears of each. With an output of [`io::sink`] this is
/// `explain`.
///
/// # Errors
/// Where a file cannot be read or written, or the baseline is too large for its blocks.
pub fn encode_file(
    input: &mut dyn Read,
    baseline: Option<&mut dyn Read>,
    output: &mut dyn Write,
    how: &FileOptions,
    explain: &mut dyn FnMut(u64, &Encoding),
) -> Result<FileSummary, FileError> {
    let basis = baseline.map(index).transpose()?;
    let mut summary = FileSummary::default();
    let mut head = Vec::from(MAGIC);
    let (size, digest) = basis.as_ref().map_or((0, [0; 32]), |(index, digest)| (index.described_bytes(), *digest));
    head.extend_from_slice(&size.to_le_bytes());
    head.extend_from_slice(&digest);
    write(output, &head, &mut summary)?;

    let references = basis.map_or(Basis::Nothing, |(index, _)| Basis::Signature(index));
    let version = Version::new(how.options, references, 0, how.segment_bytes, HistoryUse::None);
    let mut encoder = Encoder::new();
    if let Some(meter) = &how.meter {
        encoder = encoder.metered(meter.clone());
    }
    let length = usize::try_from(how.segment_bytes.clamp(1, MAX_SEGMENT_BYTES)).unwrap_or(1);
    let mut segment = vec![0; length];
    let mut encoded = Vec::new();
    let mut hasher = blake3::Hasher::new();
    loop {
        let filled = fill(input, &mut segment).map_err(FileError::Input)?;
        if filled == 0 {
            break;
        }
        hasher.update(&segment[..filled]);
        encoded.clear();
        let encoding = encoder
            .encode(&version, summary.segments, &segment[..filled], &mut encoded)
            .expect("the segment's length was clamped");
        let length = u32::try_from(encoded.len()).expect("at most MAX_ENCODED_BYTES");
        write(output, &length.to_le_bytes(), &mut summary)?;
        write(output, &encoded, &mut summary)?;
        explain(summary.segments, &encoding);
        summary.segments += 1;
        summary.original_bytes += encoding.input_bytes;
        summary.referenced_bytes += encoding.referenced_bytes;
    }
    let mut tail = Vec::from(0_u32.to_le_bytes());
    tail.extend_from_slice(&summary.original_bytes.to_le_bytes());
    tail.extend_from_slice(hasher.finalize().as_bytes());
    write(output, &tail, &mut summary)?;
    output.flush().map_err(FileError::Output)?;
    Ok(summary)
}

/// Decodes what [`encode_file`] made, at most `max_bytes` of it; the digest is checked at the end, so the output is to be given
/// its name only after success.
///
/// # Errors
/// On any damage, on another baseline, and where a file cannot be read or written.
pub fn decode_file(
    input: &mut dyn Read,
    mut baseline: Option<&mut (dyn ReadSeek + '_)>,
    output: &mut dyn Write,
    max_bytes: u64,
) -> Result<FileSummary, FileError> {
    let head: [u8; 48] = take(input)?;
    let (magic, rest) = head.split_at(MAGIC.len());
    let (size, digest) = rest.split_at(8);
    if magic != MAGIC {
        return Err(FileError::NotEncoded);
    }
    let size = u64::from_le_bytes(size.try_into().expect("split at 8"));
    if size > 0 {
        let baseline = baseline.as_mut().ok_or(FileError::BaselineNeeded)?;
        check_baseline(&mut **baseline, size, digest)?;
    }
    let mut summary = FileSummary { encoded_bytes: 48, ..FileSummary::default() };
    let mut decoder = Decoder::new();
    let mut encoded = Vec::new();
    let mut segment = Vec::new();
    let mut hasher = blake3::Hasher::new();
    loop {
        let length = u32::from_le_bytes(take(input)?);
        if length == 0 {
            break;
        }
        let number = summary.segments;
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_ENCODED_BYTES);
        encoded.resize(length.ok_or(FileError::NotEncoded)?, 0);
        read_exact(input, &mut encoded)?;
        let made = Container::parse(&encoded).map_err(|error| FileError::Segment { number, source: error.into() })?;
        summary.original_bytes += u64::from(made.segment_bytes());
        if summary.original_bytes > max_bytes {
            return Err(FileError::TooLong(max_bytes));
        }
        segment.clear();
        let expected = usize::try_from(made.segment_bytes()).unwrap_or(usize::MAX);
        let mut sources = Seeking { baseline: baseline.as_mut().map(|baseline| &mut **baseline as &mut dyn ReadSeek) };
        decoder
            .decode(&encoded, expected, &mut sources, &mut segment)
            .map_err(|source| FileError::Segment { number, source })?;
        hasher.update(&segment);
        output.write_all(&segment).map_err(FileError::Output)?;
        summary.segments += 1;
        summary.encoded_bytes += 4 + u64::try_from(encoded.len()).unwrap_or(0);
    }
    let length = u64::from_le_bytes(take(input)?);
    let digest: [u8; 32] = take(input)?;
    if length != summary.original_bytes || hasher.finalize() != digest {
        return Err(FileError::Digest);
    }
    summary.encoded_bytes += 44;
    output.flush().map_err(FileError::Output)?;
    Ok(summary)
}

struct Seeking<'a> {
    baseline: Option<&'a mut dyn ReadSeek>,
}

impl Sources for Seeking<'_> {
    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        let baseline = self.baseline.as_mut().ok_or(io::ErrorKind::NotFound)?;
        baseline.seek(SeekFrom::Start(offset))?;
        baseline.read_exact(room)
    }

    fn history(&mut self, _offset: u64, _room: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A baseline for the decoder.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek + ?Sized> ReadSeek for T {}

fn index(baseline: &mut dyn Read) -> Result<(Arc<SignatureIndex>, [u8; 32]), FileError> {
    let (signature, digest) = Signature::read(baseline, 0).map_err(FileError::Baseline)?;
    Ok((Arc::new(SignatureIndex::new(&signature)), *digest.as_bytes()))
}

fn check_baseline(baseline: &mut dyn ReadSeek, size: u64, digest: &[u8]) -> Result<(), FileError> {
    baseline.seek(SeekFrom::Start(0)).map_err(FileError::Baseline)?;
    let mut hasher = blake3::Hasher::new();
    let read = io::copy(&mut baseline.take(size.saturating_add(1)), &mut hasher).map_err(FileError::Baseline)?;
    if read == size && hasher.finalize().as_bytes() == digest { Ok(()) } else { Err(FileError::OtherBaseline) }
}

/// Fills the buffer as far as there is input.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn take<const N: usize>(input: &mut dyn Read) -> Result<[u8; N], FileError> {
    let mut bytes = [0; N];
    read_exact(input, &mut bytes)?;
    Ok(bytes)
}

fn read_exact(input: &mut dyn Read, bytes: &mut [u8]) -> Result<(), FileError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => FileError::NotEncoded,
        _ => FileError::Input(error),
    })
}

fn write(output: &mut dyn Write, bytes: &[u8], summary: &mut FileSummary) -> Result<(), FileError> {
    summary.encoded_bytes += u64::try_from(bytes.len()).unwrap_or(0);
    output.write_all(bytes).map_err(FileError::Output)
}
