//! `dwcp hde`: what transfers do to data, on files.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use dataplane_hde::{
    Algorithm, Codec, Encoding, FileError, FileOptions, FileSummary, Level, Options, ReadSeek, decode_file, encode_file,
};
use serde::Serialize;

use crate::{
    args::Hde as Verb,
    failure::Failure,
    output::{Output, fields, table},
    part::Part,
    units,
};

pub(super) fn run(output: &Output, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Encode(encode) => {
            let how = options(&encode.algorithm, encode.level)?;
            write_whole(&encode.out, |out| {
                let summary = encode_with(&encode.file, encode.baseline.as_deref(), out, &how, &mut |_, _| {})?;
                output.plain(&Summary::from(&summary), |_| summary_lines(&summary))
            })
        }
        Verb::Decode { file, baseline, out } => write_whole(&out, |out| {
            let summary = decode(&file, baseline.as_deref(), out)?;
            output.plain(&Summary::from(&summary), |_| summary_lines(&summary))
        }),
        Verb::Explain { file, baseline, algorithm, level } => {
            let how = options(&algorithm, level)?;
            explain(output, &file, baseline.as_deref(), &how)
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    segments: u64,
    original_bytes: u64,
    encoded_bytes: u64,
    referenced_bytes: u64,
}

impl From<&FileSummary> for Summary {
    fn from(summary: &FileSummary) -> Self {
        Self {
            segments: summary.segments,
            original_bytes: summary.original_bytes,
            encoded_bytes: summary.encoded_bytes,
            referenced_bytes: summary.referenced_bytes,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    summary: Summary,
    segments: Vec<Segment>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Segment {
    number: u64,
    codec: &'static str,
    input_bytes: u64,
    output_bytes: u64,
    ops: u32,
    referenced_bytes: u64,
    zero_bytes: u64,
    literal_bytes: u64,
}

impl Segment {
    fn new(number: u64, encoding: &Encoding) -> Self {
        Self {
            number,
            codec: Codec::name(encoding.codec),
            input_bytes: encoding.input_bytes,
            output_bytes: encoding.output_bytes,
            ops: encoding.ops,
            referenced_bytes: encoding.referenced_bytes,
            zero_bytes: encoding.zero_bytes,
            literal_bytes: encoding.literal_bytes,
        }
    }
}

fn explain(output: &Output, file: &Path, baseline: Option<&Path>, how: &FileOptions) -> Result<(), Failure> {
    let mut segments = Vec::new();
    let summary = encode_with(file, baseline, &mut io::sink(), how, &mut |number, encoding| {
        segments.push(Segment::new(number, encoding));
    })?;
    let explanation = Explanation { summary: Summary::from(&summary), segments };
    output.plain(&explanation, |explanation| {
        let rows = explanation.segments.iter().map(|segment| {
            [
                segment.number.to_string(),
                segment.codec.to_owned(),
                units::bytes(segment.input_bytes),
                units::bytes(segment.output_bytes),
                units::bytes(segment.referenced_bytes),
                units::bytes(segment.literal_bytes),
            ]
        });
        let mut text = table(["SEGMENT", "CODEC", "BYTES", "ENCODED", "REFERENCED", "LITERAL"], rows);
        text.push_str("\n\n");
        text.push_str(&summary_lines(&summary));
        text
    })
}

fn encode_with(
    file: &Path,
    baseline: Option<&Path>,
    out: &mut dyn Write,
    how: &FileOptions,
    explain: &mut dyn FnMut(u64, &Encoding),
) -> Result<FileSummary, Failure> {
    let mut input = open(file)?;
    let mut baseline = baseline.map(open).transpose()?;
    encode_file(&mut input, baseline.as_mut().map(|file| file as &mut dyn Read), out, how, explain)
        .map_err(|error| failure(file, &error))
}

fn decode(file: &Path, baseline: Option<&Path>, out: &mut dyn Write) -> Result<FileSummary, Failure> {
    let mut input = open(file)?;
    let mut baseline = baseline.map(open).transpose()?;
    decode_file(&mut input, baseline.as_mut().map(|file| file as &mut dyn ReadSeek), out, u64::MAX)
        .map_err(|error| failure(file, &error))
}

/// Nothing stands at `path` until it is whole.
fn write_whole(path: &Path, work: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure::chain(format!("cannot write {}", path.display()), &error);
    let part = Part::create(path, 0o666)?;
    let mut out = BufWriter::new(&part.file);
    work(&mut out)?;
    out.flush().map_err(fail)?;
    drop(out);
    part.keep(path)
}

fn open(path: &Path) -> Result<BufReader<File>, Failure> {
    let file = File::open(path).map_err(|error| Failure::chain(format!("cannot read {}", path.display()), &error))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

fn options(algorithm: &str, level: i32) -> Result<FileOptions, Failure> {
    let algorithm: Algorithm =
        algorithm.parse().map_err(|error: dataplane_hde::UnknownAlgorithm| Failure::usage(error.to_string()))?;
    let level = Level::new(i64::from(level)).ok_or_else(|| Failure::usage("a level is 1 to 22"))?;
    Ok(FileOptions { options: Options { algorithm, level, ..Options::default() }, ..FileOptions::default() })
}

fn summary_lines(summary: &FileSummary) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = summary.original_bytes as f64 / summary.encoded_bytes.max(1) as f64;
    fields([
        ("segments", summary.segments.to_string()),
        ("original", units::bytes(summary.original_bytes)),
        ("encoded", format!("{} ({ratio:.2} : 1)", units::bytes(summary.encoded_bytes))),
        ("referenced", units::bytes(summary.referenced_bytes)),
    ])
}

fn failure(file: &Path, error: &FileError) -> Failure {
    Failure::chain(file.display().to_string(), error)
}
