//! Reads the records of an encoded file, one after another.

use std::io::{self, Read};

use proto_wire::hde::{
    FILE_CHECK_BYTES, FILE_HEAD_BYTES, FILE_TAIL_BYTES, FileHead, FileTail, Head, RECORD_DIGEST_BYTES, Record,
};

use super::{FileError, FileSummary};
use crate::{decoder::grown, encoder::MAX_ENCODED_BYTES};

/// What one segment is made of.
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) length: usize,
    pub(super) from: Origin,
}

pub(super) enum Origin {
    /// What stands in the container that was read, and becomes what has this digest.
    Container([u8; RECORD_DIGEST_BYTES]),
    Baseline(u64),
    Zeros,
}

/// Reads the records.
pub(super) struct Records<'a> {
    input: &'a mut (dyn Read + Send),
    head: FileHead,
    max_bytes: u64,
    pub(super) summary: FileSummary,
    /// Of all that was read.
    taken: blake3::Hasher,
    /// Segments of the present run that are still to come.
    run: Option<(Record, u64)>,
    /// How it ended.
    pub(super) ended: Option<Result<FileTail, FileError>>,
}

impl<'a> Records<'a> {
    /// What follows the head that was read.
    pub(super) fn new(
        input: &'a mut (dyn Read + Send),
        head: FileHead,
        max_bytes: u64,
        bytes: &[u8; FILE_HEAD_BYTES],
    ) -> Self {
        let summary = FileSummary { encoded_bytes: wide(FILE_HEAD_BYTES), ..FileSummary::default() };
        let mut taken = blake3::Hasher::new();
        taken.update(bytes);
        Self { input, head, max_bytes, summary, taken, run: None, ended: None }
    }

    /// The next segment, its container in a buffer that is used again; none at the end, and after an error.
    pub(super) fn next(&mut self, container: &mut Vec<u8>) -> Option<Job> {
        if self.ended.is_some() {
            return None;
        }
        match self.job(container) {
            Ok(Some(job)) => return Some(job),
            Ok(None) => self.ended = Some(self.tail()),
            Err(error) => self.ended = Some(Err(error)),
        }
        None
    }

    fn job(&mut self, container: &mut Vec<u8>) -> Result<Option<Job>, FileError> {
        let (record, left) = match self.run.take() {
            Some(run) => run,
            None => match self.record()? {
                Record::End => return Ok(None),
                Record::Segment { bytes } => return self.container(bytes, container).map(Some),
                Record::Run { segments: 0, .. } | Record::Zeros { segments: 0 } => return Err(FileError::NotEncoded),
                run @ (Record::Run { segments, .. } | Record::Zeros { segments }) => (run, segments),
            },
        };
        let (from, next) = match record {
            Record::Run { segments, offset } => {
                let next = offset.checked_add(self.head.segment_bytes.into()).ok_or(FileError::NotEncoded)?;
                (Origin::Baseline(offset), Record::Run { segments, offset: next })
            }
            other => (Origin::Zeros, other),
        };
        self.run = (left > 1).then_some((next, left - 1));
        self.segment(self.whole(), from).map(Some)
    }

    fn container(&mut self, bytes: u64, container: &mut Vec<u8>) -> Result<Job, FileError> {
        let length = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_ENCODED_BYTES);
        let length = length.ok_or(FileError::NotEncoded)?;
        container.truncate(length);
        grown(container, length);
        self.fill(container)?;
        let mut digest = [0; RECORD_DIGEST_BYTES];
        self.fill(&mut digest)?;
        let number = self.summary.segments;
        let head = Head::parse(container);
        let head = head.map_err(|error| FileError::Segment { number, source: error.into() })?.0;
        self.segment(head.segment_bytes, Origin::Container(digest))
    }

    fn tail(&mut self) -> Result<FileTail, FileError> {
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

    fn segment(&mut self, bytes: u32, from: Origin) -> Result<Job, FileError> {
        let number = self.summary.segments;
        // All but the last are of the same length, or else they would not be where they belong.
        let aligned = self.summary.original_bytes == number * u64::from(self.head.segment_bytes);
        if !aligned || bytes == 0 || bytes > self.head.segment_bytes {
            return Err(FileError::NotEncoded);
        }
        self.summary.segments += 1;
        self.summary.original_bytes += u64::from(bytes);
        if self.head.size.is_some_and(|size| size < self.summary.original_bytes) {
            return Err(FileError::NotEncoded);
        }
        if self.summary.original_bytes > self.max_bytes {
            return Err(FileError::TooLong(self.max_bytes));
        }
        Ok(Job { number, length: usize::try_from(bytes).unwrap_or(0), from })
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

pub(super) fn read_exact(input: &mut (dyn Read + Send), bytes: &mut [u8]) -> Result<(), FileError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => FileError::NotEncoded,
        _ => FileError::Input(error),
    })
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
