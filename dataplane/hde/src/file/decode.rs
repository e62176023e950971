//! Decodes a file by several threads, each segment to its place.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use blake3::hazmat::HasherExt as _;
use proto_wire::hde::{FILE_HEAD_BYTES, FILE_MAGIC_BYTES, FileHead, LAG, RECORD_DIGEST_BYTES, ShortHead};

use super::{
    Bytes, FileError, FileSummary, panicked,
    records::{Job, Origin, Records, read_exact},
    short,
};
use crate::{
    decoder::{Decoder, grown},
    read_at::ReadAt,
    sources::HeldSources,
    tree::{Tree, root},
};

/// Bytes that come into being, in any order. What was not written yet is read as zeros, also where nothing stands behind it.
pub trait WriteAt: ReadAt {
    /// Puts `bytes` at `offset`; what is skipped is zeros.
    ///
    /// # Errors
    /// Where they cannot be written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// All is written; there are so many bytes.
    ///
    /// # Errors
    /// Where they cannot be written.
    fn end(&self, size: u64) -> io::Result<()>;
}

/// A new, empty file.
#[derive(Debug)]
pub struct FileOutput(pub File);

impl ReadAt for FileOutput {
    fn size(&self) -> u64 {
        u64::MAX
    }

    fn read_at(&self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < room.len() {
            match self.0.read_at(&mut room[filled..], offset.saturating_add(wide(filled))) {
                // Zeros are not written, so the file ends before them where nothing is written behind them yet.
                Ok(0) => {
                    room[filled..].fill(0);
                    return Ok(());
                }
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl WriteAt for FileOutput {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn end(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }
}

/// Decodes what [`super::encode_file`] made, at most `max_bytes` of it; the digest of the whole is checked at the end, so the
/// output is to be given its name only after success. Each segment is verified before later ones refer to it.
///
/// # Errors
/// On any damage, on another baseline, and where a file cannot be read or written.
pub fn decode_file(
    input: &mut (dyn Read + Send),
    baseline: Option<Bytes>,
    output: &Arc<dyn WriteAt>,
    threads: usize,
    max_bytes: u64,
) -> Result<FileSummary, FileError> {
    let (mut bytes, mut magic) = ([0; FILE_HEAD_BYTES], [0; FILE_MAGIC_BYTES]);
    read_exact(input, &mut magic)?;
    if ShortHead::is_of(&magic) {
        return short::decode(magic, input, baseline, output.as_ref(), max_bytes);
    }
    bytes[..FILE_MAGIC_BYTES].copy_from_slice(&magic);
    read_exact(input, &mut bytes[FILE_MAGIC_BYTES..])?;
    let head = FileHead::parse(&bytes).ok_or(FileError::NotEncoded)?;
    if head.size.is_some_and(|size| size > max_bytes) {
        return Err(FileError::TooLong(max_bytes));
    }
    let baseline = chosen(baseline, head.baseline_bytes)?;
    let records = Mutex::new(Records::new(input, head, max_bytes, &bytes));
    let done = Done::default();
    let threads = threads.clamp(1, 64);
    let worker = || Worker {
        output: output.as_ref(),
        baseline: baseline.as_ref(),
        sources: HeldSources::new(baseline.clone(), Some(Arc::clone(output) as Arc<dyn ReadAt>)),
        decoder: Decoder::new(),
        container: Vec::new(),
        room: Vec::new(),
        records: &records,
        done: &done,
        head,
    };
    let ended = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| worker().run())).collect();
        worker().run();
        others.into_iter().all(|other| other.join().is_ok())
    });
    let records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (tree, tail) = (done.finish(), records.ended);
    let failed = tree.is_err() || !matches!(tail, Some(Ok(_)));
    if let (true, Some(baseline)) = (failed, &baseline) {
        // Whatever failed: with the wrong baseline that is the reason.
        if root(baseline.as_ref(), threads).map_err(FileError::Baseline)? != head.baseline {
            return Err(FileError::OtherBaseline);
        }
    }
    let tree = tree?;
    let tail = tail.filter(|_| ended).ok_or_else(|| panicked(()))??;
    if tail.size != records.summary.original_bytes || tree.root() != tail.root {
        return Err(FileError::Digest);
    }
    output.end(tail.size).map_err(FileError::Output)?;
    Ok(records.summary)
}

/// The baseline that a file of one of so many bytes is decoded against, where that may be the one that was given.
pub(super) fn chosen(baseline: Option<Bytes>, bytes: u64) -> Result<Option<Bytes>, FileError> {
    match baseline {
        None if bytes > 0 => Err(FileError::BaselineNeeded),
        Some(baseline) if bytes > 0 && baseline.size() != bytes => Err(FileError::OtherBaseline),
        given => Ok(given.filter(|_| bytes > 0)),
    }
}

/// Segments that are done.
#[derive(Debug, Default)]
struct Done {
    state: Mutex<Progress>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// All before it are done.
    next: u64,
    ahead: BTreeMap<u64, [u8; 32]>,
    tree: Tree,
    failed: Option<FileError>,
}

impl Done {
    /// Waits until `number` may be decoded; false where that is in vain.
    fn wait(&self, number: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.failed.is_none() && state.next + LAG <= number {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failed.is_none()
    }

    fn add(&self, number: u64, value: Result<[u8; 32], FileError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Ok(value) => {
                state.ahead.insert(number, value);
                loop {
                    let next = state.next;
                    let Some(value) = state.ahead.remove(&next) else { break };
                    state.tree.push(value);
                    state.next += 1;
                }
            }
            Err(error) => drop(state.failed.get_or_insert(error)),
        }
        self.moved.notify_all();
    }

    fn finish(self) -> Result<Tree, FileError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failed.map_or(Ok(state.tree), Err)
    }
}

struct Worker<'a, 'r> {
    output: &'a dyn WriteAt,
    baseline: Option<&'a Bytes>,
    sources: HeldSources,
    decoder: Decoder,
    container: Vec<u8>,
    room: Vec<u8>,
    records: &'a Mutex<Records<'r>>,
    done: &'a Done,
    head: FileHead,
}

impl Worker<'_, '_> {
    /// Takes segments until there are no more, or one failed.
    fn run(mut self) {
        loop {
            let next = self.records.lock().unwrap_or_else(PoisonError::into_inner).next(&mut self.container);
            let Some(job) = next else { return };
            if !self.done.wait(job.number) {
                return;
            }
            let value = self.decode(&job);
            self.done.add(job.number, value);
        }
    }

    /// The value of a segment that is in its place.
    fn decode(&mut self, job: &Job) -> Result<[u8; 32], FileError> {
        let offset = job.number * u64::from(self.head.segment_bytes);
        let mut parts = Parts { hasher: blake3::Hasher::new(), offset, output: Some(self.output) };
        parts.hasher.set_input_offset(offset);
        let longest = if matches!(job.from, Origin::Container(_)) { job.length } else { job.length.min(PART) };
        grown(&mut self.room, longest);
        match job.from {
            Origin::Container(digest) => {
                let room = &mut self.room[..job.length];
                let decoded = self.decoder.decode_into(&self.container, &mut self.sources, room);
                decoded.map_err(|source| FileError::Segment { number: job.number, source })?;
                room.chunks(PART).try_for_each(|part| parts.put(part))?;
                let value = parts.hasher.finalize_non_root();
                if value[..RECORD_DIGEST_BYTES] != digest[..] {
                    return Err(FileError::SegmentDigest(job.number));
                }
                return Ok(value);
            }
            Origin::Baseline(at) => {
                let baseline = self.baseline.ok_or(FileError::BaselineNeeded)?;
                for begin in (0..job.length).step_by(PART) {
                    let part = &mut self.room[..(job.length - begin).min(PART)];
                    baseline.read_at(at.saturating_add(wide(begin)), part).map_err(FileError::Baseline)?;
                    parts.put(part)?;
                }
            }
            Origin::Zeros => {
                // They are there where nothing was written.
                parts.output = None;
                self.room[..longest].fill(0);
                for begin in (0..job.length).step_by(PART) {
                    parts.put(&self.room[..(job.length - begin).min(PART)])?;
                }
            }
        }
        Ok(parts.hasher.finalize_non_root())
    }
}

/// Bytes that are hashed and written at once, so that they stay in the processor's cache meanwhile.
const PART: usize = 256 << 10;

/// Parts of a segment on their way: hashed, and put in their place.
struct Parts<'a> {
    hasher: blake3::Hasher,
    offset: u64,
    output: Option<&'a dyn WriteAt>,
}

impl Parts<'_> {
    fn put(&mut self, part: &[u8]) -> Result<(), FileError> {
        self.hasher.update(part);
        if let Some(output) = self.output {
            output.write_at(self.offset, part).map_err(FileError::Output)?;
        }
        self.offset += wide(part.len());
        Ok(())
    }
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
