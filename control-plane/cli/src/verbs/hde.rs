//! `dwcp hde`: what transfers do to data, on files.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    thread,
};

use dataplane_hde::{
    Against, Algorithm, AnchorIndex, Baseline, Codec, Encoding, FileAt, FileError, FileOptions, FileOutput,
    FileSummary, Level, Options, ReadAt, Weighed, Why, WriteAt, decode_file, encode_file,
};
use proto_model::ByteCount;
use serde::Serialize;

use crate::{
    args::{Hde as Verb, HdeHow},
    failure::Failure,
    output::{Output, fields, table},
    part::Part,
    progress::BytesBar,
    units,
};

/// Bytes of the baseline's BLAKE3, at the head of a kept index.
const ROOT_BYTES: usize = 32;

pub(super) fn run(output: &Output, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Encode(encode) => {
            let part = Part::create(&encode.out, 0o666)?;
            let mut out = BufWriter::with_capacity(1 << 20, &part.file);
            let summary = encode_with(output, &encode.file, &mut out, &encode.how, &mut |_, _| {})?;
            out.flush().map_err(|error| cannot("write", &encode.out, &error))?;
            drop(out);
            part.keep(&encode.out)?;
            output.plain(&Summary::from(&summary), |_| summary_lines(&summary))
        }
        Verb::Decode { file, baseline, out, max_bytes, threads } => {
            let summary = decode(&file, baseline.as_deref(), &out, max_bytes, threads)?;
            output.plain(&Summary::from(&summary), |_| summary_lines(&summary))
        }
        Verb::Explain { file, how } => explain(output, &file, &how),
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
    changed_bytes: u64,
    history_bytes: u64,
    zero_bytes: u64,
    literal_bytes: u64,
    why: Reasons,
}

/// Why a segment is encoded as it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reasons {
    found: &'static str,
    decided: &'static str,
    weighed: Vec<Form>,
    #[serde(skip)]
    text: String,
}

/// A form that was weighed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    form: &'static str,
    effort: String,
    reason: &'static str,
    /// None where it was not tried, or did not become shorter.
    bytes: Option<u64>,
    cpu_microseconds: u64,
}

impl From<&Why> for Reasons {
    fn from(why: &Why) -> Self {
        let form = |weighed: &Weighed| Form {
            form: weighed.form.name(),
            effort: weighed.choice.effort.to_string(),
            reason: weighed.choice.reason.name(),
            bytes: weighed.bytes,
            cpu_microseconds: weighed.cpu_nanoseconds / 1000,
        };
        Self {
            found: why.found.name(),
            decided: why.decided.name(),
            weighed: why.weighed().map(form).collect(),
            text: why.to_string(),
        }
    }
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
            changed_bytes: encoding.changed_bytes,
            history_bytes: encoding.history_bytes,
            zero_bytes: encoding.zero_bytes,
            literal_bytes: encoding.literal_bytes,
            why: Reasons::from(&encoding.why),
        }
    }
}

fn explain(output: &Output, file: &Path, how: &HdeHow) -> Result<(), Failure> {
    let mut segments = Vec::new();
    let summary = encode_with(output, file, &mut io::sink(), how, &mut |number, encoding| {
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
                units::bytes(segment.referenced_bytes - segment.history_bytes),
                units::bytes(segment.history_bytes),
                units::bytes(segment.changed_bytes),
                units::bytes(segment.zero_bytes),
                units::bytes(segment.literal_bytes),
                segment.why.text.clone(),
            ]
        });
        let mut text = table(
            ["SEGMENT", "CODEC", "BYTES", "ENCODED", "BASELINE", "EARLIER", "CHANGED", "ZEROS", "LITERAL", "WHY"],
            rows,
        );
        text.push_str("\n\n");
        text.push_str(&summary_lines(&summary));
        text
    })
}

fn encode_with(
    output: &Output,
    file: &Path,
    out: &mut dyn Write,
    how: &HdeHow,
    explain: &mut dyn FnMut(u64, &Encoding),
) -> Result<FileSummary, Failure> {
    let options = options(how)?;
    let rests = Rests::of([Some(file), how.baseline.as_deref()].into_iter().flatten())?;
    let input = open(file)?;
    let (against, is_kept) = match &how.baseline {
        Some(baseline) => {
            let (against, is_kept) = against(baseline, how.index.as_deref(), input.size(), &options)?;
            (Some(against), is_kept)
        }
        None => (None, false),
    };
    let bar = BytesBar::new(output, &file.display().to_string(), input.size());
    let mut told = |number: u64, encoding: &Encoding| {
        bar.add(encoding.input_bytes);
        explain(number, encoding);
    };
    let made = encode_file(&input, against.as_ref(), out, &options, &mut told);
    bar.finish();
    rests.check()?;
    let summary = made.map_err(|error| failure(file, &error))?;
    if let (Some(index), Some(against), false) = (&how.index, &against, is_kept) {
        keep_index(index, against, &options)?;
    }
    Ok(summary)
}

/// Files as they are before they are read: both ends of what is encoded read them twice.
struct Rests<'a>(Vec<(&'a Path, Stamp)>);

/// Inode, size, and times of change.
type Stamp = (u64, u64, (i64, i64), (i64, i64));

impl<'a> Rests<'a> {
    fn of(paths: impl Iterator<Item = &'a Path>) -> Result<Self, Failure> {
        paths.map(|path| Ok((path, stamp(path)?))).collect::<Result<_, _>>().map(Self)
    }

    fn check(&self) -> Result<(), Failure> {
        for (path, before) in &self.0 {
            if stamp(path)? != *before {
                let what = format!("{} changed while it was read; encode again when it rests", path.display());
                return Err(Failure::failed(what));
            }
        }
        Ok(())
    }
}

fn stamp(path: &Path) -> Result<Stamp, Failure> {
    let data = fs::metadata(path).map_err(|error| cannot("read", path, &error))?;
    Ok((data.ino(), data.size(), (data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec())))
}

/// The baseline with the index that was kept of it, or else its digest; whether there was one.
fn against(path: &Path, index: Option<&Path>, size: u64, how: &FileOptions) -> Result<(Against, bool), Failure> {
    let bytes = open(path)?;
    if let Some(index) = index.filter(|index| index.exists())
        && let Some((root, kept)) = kept_index(index, path, bytes.size())?
        && kept.serves(how.options.density())
    {
        return Ok((Against { baseline: Arc::new(Baseline::new(bytes, Some(kept))), root }, true));
    }
    let baseline = Arc::new(Baseline::new(bytes, None));
    let root =
        baseline.root_for(size, how.options.density(), how.threads).map_err(|error| cannot("read", path, &error))?;
    Ok((Against { baseline, root }, false))
}

/// What was kept of the baseline as it is now; nothing where it was of an earlier one.
fn kept_index(index: &Path, baseline: &Path, size: u64) -> Result<Option<([u8; ROOT_BYTES], AnchorIndex)>, Failure> {
    let kept = fs::read(index).map_err(|error| cannot("read", index, &error))?;
    let parsed = kept.split_first_chunk::<ROOT_BYTES>();
    let parsed = parsed.and_then(|(root, kept)| Some((*root, AnchorIndex::from_bytes(kept)?)));
    let parsed = parsed.ok_or_else(|| Failure::usage(format!("{} is no index; give another name", index.display())))?;
    let (_, _, made, _) = stamp(index)?;
    let (_, _, written, changed) = stamp(baseline)?;
    Ok((parsed.1.size() == size && made > written.max(changed)).then_some(parsed))
}

fn keep_index(path: &Path, against: &Against, how: &FileOptions) -> Result<(), Failure> {
    let index =
        against.baseline.built_by(how.options.density(), how.threads).map_err(|error| cannot("index", path, &error))?;
    let part = Part::create(path, 0o666)?;
    let bytes = index.to_bytes();
    let written = (&part.file).write_all(&against.root).and_then(|()| (&part.file).write_all(&bytes));
    written.map_err(|error| cannot("write", path, &error))?;
    part.keep(path)
}

/// Nothing stands at `out` until it is whole and verified.
fn decode(
    file: &Path,
    baseline: Option<&Path>,
    out: &Path,
    max_bytes: Option<ByteCount>,
    threads: Option<usize>,
) -> Result<FileSummary, Failure> {
    let input = File::open(file).map_err(|error| cannot("read", file, &error))?;
    let mut input = BufReader::with_capacity(64 << 10, input);
    let baseline = baseline.map(open).transpose()?;
    let part = Part::create(out, 0o666)?;
    let whole = File::options().read(true).write(true).open(&part.path);
    let whole: Arc<dyn WriteAt> = Arc::new(FileOutput(whole.map_err(|error| cannot("write", out, &error))?));
    let most = max_bytes.map_or_else(|| free(&part.file), |most| Ok(most.bytes()));
    let most = most.map_err(|error| cannot("write", out, &error))?;
    let summary = decode_file(&mut input, baseline, &whole, count(threads), most);
    let summary = summary.map_err(|error| match error {
        FileError::TooLong(_) if max_bytes.is_none() => Failure::failed(format!(
            "{}: what it makes is longer than what is free for {} ({}); where it has holes, --max-bytes allows more",
            file.display(),
            out.display(),
            units::bytes(most)
        )),
        error => failure(file, &error),
    })?;
    part.keep(out)?;
    Ok(summary)
}

/// Bytes that are free where a file is.
fn free(file: &File) -> io::Result<u64> {
    let stat = nix::sys::statvfs::fstatvfs(file)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn open(path: &Path) -> Result<Arc<dyn ReadAt>, Failure> {
    let opened = File::open(path).and_then(FileAt::new);
    Ok(Arc::new(opened.map_err(|error| cannot("read", path, &error))?))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::chain(format!("cannot {what} {}", path.display()), error)
}

fn count(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1)
}

fn options(how: &HdeHow) -> Result<FileOptions, Failure> {
    let algorithm: Algorithm =
        how.algorithm.parse().map_err(|error: dataplane_hde::UnknownAlgorithm| Failure::usage(error.to_string()))?;
    let level = Level::new(i64::from(how.level)).ok_or_else(|| Failure::usage("a level is 1 to 22"))?;
    let threads = count(how.threads);
    Ok(FileOptions {
        options: Options { algorithm, level, ..Options::default() },
        link: how.link.map(|link| link.bits() / 8 / u64::try_from(threads).unwrap_or(1)),
        threads,
        ..FileOptions::default()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_meanwhile_is_not_encoded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "before").unwrap();
        let rests = Rests::of([path.as_path()].into_iter()).unwrap();
        rests.check().unwrap();
        // Of the same size, and at once: only the time of change tells.
        while rests.check().is_ok() {
            fs::write(&path, "behind").unwrap();
        }
        fs::remove_file(&path).unwrap();
        rests.check().unwrap_err();
    }

    #[test]
    fn what_would_not_fit_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let [encoded, out] = ["encoded", "out"].map(|name| folder.path().join(name));
        // Zeros without end: a head that says 2^62 bytes, and one record for all of them.
        let size = (1_u64 << 62).to_le_bytes();
        let mut bytes = [b"DWCPHDE\x02", [0, 0, 64, 0].as_slice(), &size, &[0; 40]].concat();
        bytes.extend_from_slice(&[0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]);
        fs::write(&encoded, &bytes).unwrap();
        let failed = decode(&encoded, None, &out, None, Some(1)).unwrap_err();
        assert!(format!("{failed:?}").contains("--max-bytes"), "{failed:?}");
        // The same that does not say so.
        bytes[12..20].fill(0xff);
        fs::write(&encoded, &bytes).unwrap();
        let most = "10MiB".parse().unwrap();
        let failed = decode(&encoded, None, &out, Some(most), Some(2)).unwrap_err();
        assert!(format!("{failed:?}").contains("longer than 10485760 bytes"), "{failed:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_index_is_of_the_baseline_as_it_is_now_or_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, index) = (folder.path().join("baseline"), folder.path().join("index"));
        fs::write(&path, vec![7; 300_000]).unwrap();
        let how = FileOptions::default();
        let (made, is_kept) = against(&path, Some(&index), 0, &how).unwrap();
        assert!(!is_kept);
        // Of one tick of the file system's clock nothing is believed.
        while kept_index(&index, &path, 300_000).is_ok_and(|kept| kept.is_none()) || !index.exists() {
            keep_index(&index, &made, &how).unwrap();
        }
        assert!(against(&path, Some(&index), 0, &how).unwrap().1);
        fs::write(&path, vec![8; 300_000]).unwrap();
        let (again, is_kept) = against(&path, Some(&index), 0, &how).unwrap();
        assert!(!is_kept);
        assert_ne!(again.root, made.root);
        fs::write(&index, "a file of somebody's").unwrap();
        assert!(against(&path, Some(&index), 0, &how).is_err());
    }
}
