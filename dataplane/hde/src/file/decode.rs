//! Decodes a file by several threads, each segment to its place.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use proto_wire::hde::{
    FILE_CHECK_BYTES, FILE_HEAD_BYTES, FILE_MAGIC_BYTES, FILE_TAIL_BYTES, FileHead, FileTail, Head, LAG,
    RECORD_DIGEST_BYTES, Record, ShortHead,
};

use super::{Bytes, FileError, FileSummary, panicked, short};
use crate::{
    decoder::Decoder,
    encoder::MAX_ENCODED_BYTES,
    read_at::ReadAt,
    sources::HeldSources,
    tree::{Tree, part_value, root},
};

/// Bytes that come into being, in any order.
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
        self.0.read_exact_at(room, offset)
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
    input: &mut dyn Read,
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
    let baseline = chosen(baseline, head.baseline_bytes)?;
    let summary = FileSummary { encoded_bytes: wide(FILE_HEAD_BYTES), ..FileSummary::default() };
    let mut taken = blake3::Hasher::new();
    taken.update(&bytes);
    let mut records = Records { input, head, max_bytes, summary, taken };
    let done = Done::default();
    let threads = threads.clamp(1, 64);
    let (send, jobs) = sync_channel(threads);
    let jobs = Mutex::new(jobs);
    let read = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let history: Arc<dyn ReadAt> = Arc::clone(output) as Arc<dyn ReadAt>;
                let sources = HeldSources::new(baseline.clone(), Some(history));
                let worker = Worker { output, baseline: baseline.as_ref(), sources, done: &done, head };
                let jobs = &jobs;
                scope.spawn(move || worker.run(jobs))
            })
            .collect();
        let read = records.dispatch(&send);
        drop(send);
        let ended = workers.into_iter().all(|worker| worker.join().is_ok());
        if ended { read } else { Err(panicked(())) }
    });
    let ended = done.finish();
    let failed = ended.as_ref().err().is_some() || read.is_err();
    if let (true, Some(baseline)) = (failed, &baseline) {
        // Whatever failed: with the wrong baseline that is the reason.
        if root(baseline.as_ref(), threads).map_err(FileError::Baseline)? != head.baseline {
            return Err(FileError::OtherBaseline);
        }
    }
    let tree = ended?;
    let tail = read?;
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

/// What one segment is made of.
struct Job {
    number: u64,
    length: usize,
    from: Origin,
}

enum Origin {
    Container(Vec<u8>, [u8; RECORD_DIGEST_BYTES]),
    Baseline(u64),
    Zeros,
}

/// Reads the records.
struct Records<'a> {
    input: &'a mut dyn Read,
    head: FileHead,
    max_bytes: u64,
    summary: FileSummary,
    /// Of all that was read.
    taken: blake3::Hasher,
}

impl Records<'_> {
    /// Hands out all segments; stops early where nobody takes them any more.
    fn dispatch(&mut self, jobs: &SyncSender<Job>) -> Result<FileTail, FileError> {
        loop {
            match self.record()? {
                Record::End => break,
                Record::Segment { bytes } => {
                    let length = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_ENCODED_BYTES);
                    let mut container = vec![0; length.ok_or(FileError::NotEncoded)?];
                    self.fill(&mut container)?;
                    let mut digest = [0; RECORD_DIGEST_BYTES];
                    self.fill(&mut digest)?;
                    let number = self.summary.segments;
                    let made = Head::parse(&container);
                    let made = made.map_err(|error| FileError::Segment { number, source: error.into() })?.0;
                    self.segment(jobs, made.segment_bytes, Origin::Container(container, digest))?;
                }
                Record::Run { segments, offset } => {
                    for number in 0..segments {
                        let at =
                            number.checked_mul(self.head.segment_bytes.into()).and_then(|by| offset.checked_add(by));
                        let at = at.ok_or(FileError::NotEncoded)?;
                        self.segment(jobs, self.whole(), Origin::Baseline(at))?;
                    }
                }
                Record::Zeros { segments } => {
                    for _ in 0..segments {
                        self.segment(jobs, self.whole(), Origin::Zeros)?;
                    }
                }
            }
        }
        let mut tail = [0; FILE_TAIL_BYTES];
        self.fill(&mut tail)?;
        let (expected, mut check) = (self.taken.finalize(), [0; FILE_CHECK_BYTES]);
        self.fill(&mut check)?;
        if expected.as_bytes()[..FILE_CHECK_BYTES] != check {
            return Err(FileError::Damaged);
        }
        Ok(FileTail::parse(&tail))
    }

    /// The length of the next segment of a run: the last one may be shorter.
    fn whole(&self) -> u32 {
        let left = self.head.size.map_or(u64::MAX, |size| size.saturating_sub(self.summary.original_bytes));
        u32::try_from(left).unwrap_or(u32::MAX).min(self.head.segment_bytes)
    }

    fn segment(&mut self, jobs: &SyncSender<Job>, bytes: u32, from: Origin) -> Result<(), FileError> {
        let number = self.summary.segments;
        // All but the last are of the same length, or else they would not be where they belong.
        let aligned = self.summary.original_bytes == number * u64::from(self.head.segment_bytes);
        if !aligned || bytes == 0 || bytes > self.head.segment_bytes {
            return Err(FileError::NotEncoded);
        }
        self.summary.segments += 1;
        self.summary.original_bytes += u64::from(bytes);
        if self.summary.original_bytes > self.max_bytes {
            return Err(FileError::TooLong(self.max_bytes));
        }
        let job = Job { number, length: usize::try_from(bytes).unwrap_or(0), from };
        jobs.send(job).map_err(|_gone| FileError::Digest)
    }

    fn record(&mut self) -> Result<Record, FileError> {
        let mut bytes = Vec::new();
        // A varint ends with a byte below 128; a run has two of them.
        for _ in 0..2 {
            loop {
                let mut byte = [0];
                self.fill(&mut byte)?;
                bytes.push(byte[0]);
                if byte[0] < 0x80 || bytes.len() > 20 {
                    break;
                }
            }
            if let Some(record) = Record::take(&mut bytes.as_slice()) {
                return Ok(record);
            }
        }
        Err(FileError::NotEncoded)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FileError> {
        self.summary.encoded_bytes += wide(bytes.len());
        read_exact(self.input, bytes)?;
        self.taken.update(bytes);
        Ok(())
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

struct Worker<'a> {
    output: &'a Arc<dyn WriteAt>,
    baseline: Option<&'a Bytes>,
    sources: HeldSources,
    done: &'a Done,
    head: FileHead,
}

impl Worker<'_> {
    fn run(mut self, jobs: &Mutex<Receiver<Job>>) {
        let (mut decoder, mut room) = (Decoder::new(), Vec::new());
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            // After a failure the rest is taken and dropped, so that nobody waits.
            if self.done.wait(job.number) {
                let value = self.decode(&mut decoder, &job, &mut room);
                self.done.add(job.number, value);
            }
        }
    }

    fn decode(&mut self, decoder: &mut Decoder, job: &Job, room: &mut Vec<u8>) -> Result<[u8; 32], FileError> {
        let offset = job.number * u64::from(self.head.segment_bytes);
        room.clear();
        match &job.from {
            Origin::Container(container, digest) => {
                let decoded = decoder.decode(container, job.length, &mut self.sources, room);
                decoded.map_err(|source| FileError::Segment { number: job.number, source })?;
                let value = part_value(room, offset, self.is_alone(job));
                if value[..RECORD_DIGEST_BYTES] != digest[..] {
                    return Err(FileError::SegmentDigest(job.number));
                }
                self.output.write_at(offset, room).map_err(FileError::Output)?;
                Ok(value)
            }
            Origin::Baseline(at) => {
                room.resize(job.length, 0);
                let baseline = self.baseline.ok_or(FileError::BaselineNeeded)?;
                baseline.read_at(*at, room).map_err(FileError::Baseline)?;
                self.output.write_at(offset, room).map_err(FileError::Output)?;
                Ok(part_value(room, offset, self.is_alone(job)))
            }
            Origin::Zeros => {
                room.resize(job.length, 0);
                Ok(part_value(room, offset, self.is_alone(job)))
            }
        }
    }

    /// Whether the segment is all of the file.
    fn is_alone(&self, job: &Job) -> bool {
        job.number == 0 && self.head.size == Some(wide(job.length))
    }
}

fn read_exact(input: &mut dyn Read, bytes: &mut [u8]) -> Result<(), FileError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => FileError::NotEncoded,
        _ => FileError::Input(error),
    })
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
