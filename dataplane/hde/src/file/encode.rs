//! Encodes a file by several threads; one writes what they make, in order.

use std::{
    io::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use proto_wire::hde::{
    FILE_CHECK_BYTES, FileHead, FileTail, MAX_SEGMENT_BYTES, MIN_FILE_SEGMENT_BYTES, RECORD_DIGEST_BYTES, Record,
};

use super::{Bytes, Explain, FileError, FileOptions, FileSummary, panicked, short};
use crate::{
    baseline::Baseline,
    encoder::{Encoder, OVERHEAD_BYTES},
    encoding::{Encoding, Stands, Whole},
    tree::{Tree, part_value},
    version::{Basis, HistoryUse, Version},
};

/// Containers that are shorter are not kept to be filled again.
const MIN_ROOM_BYTES: usize = 1 << 20;

/// A baseline, and its BLAKE3.
#[derive(Clone, Debug)]
pub struct Against {
    /// The baseline.
    pub baseline: Arc<Baseline>,
    /// [`Baseline::root`], or what is known to be that.
    pub root: [u8; 32],
}

/// Encodes `input` against a baseline or nothing; `explain` hears of each segment. With an output of [`std::io::sink`] this is
/// `explain`.
///
/// # Errors
/// Where a file cannot be read or written.
pub fn encode_file(
    input: &Bytes,
    against: Option<&Against>,
    output: &mut dyn Write,
    how: &FileOptions,
    explain: Explain<'_>,
) -> Result<FileSummary, FileError> {
    let segment_bytes = how.segment_bytes.clamp(MIN_FILE_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
    let segment_bytes = if segment_bytes.is_power_of_two() { segment_bytes } else { MAX_SEGMENT_BYTES };
    let size = input.size();
    if size <= segment_bytes.into() {
        return short::encode(input, against, output, how, explain);
    }
    let basis = against.map_or(Basis::Nothing, |against| Basis::Baseline(Arc::clone(&against.baseline)));
    let version = Version::new(how.options, basis, size, segment_bytes, HistoryUse::Whole(Arc::clone(input)));
    let version = version.linked(how.link);
    let mut writer = Writer {
        output,
        summary: FileSummary::default(),
        tree: Tree::default(),
        run: None,
        written: blake3::Hasher::new(),
    };
    let head = FileHead {
        segment_bytes,
        size: Some(size),
        baseline_bytes: against.map_or(0, |against| against.baseline.bytes().size()),
        baseline: against.map_or([0; 32], |against| against.root),
    };
    writer.write(&head.bytes())?;
    let segments = size.div_ceil(segment_bytes.into());
    let threads = how.threads.clamp(1, 64);
    let turns = Turns { next: AtomicU64::new(0), segments, rooms: Mutex::default() };
    thread::scope(|scope| {
        let (send, made) = sync_channel(threads);
        for _ in 0..threads {
            let (send, version, turns) = (send.clone(), &version, &turns);
            let mut worker = Worker { input, version, turns, encoder: Encoder::new(), room: Vec::new() };
            if let Some(meter) = &how.meter {
                worker.encoder = worker.encoder.metered(meter.clone());
            }
            scope.spawn(move || {
                while let Some(number) = turns.take() {
                    let made = worker.encode(number);
                    if made.is_err() {
                        turns.stop();
                        version.skip(number);
                    }
                    if send.send((number, made)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let result = writer.all(&made, &turns, explain);
        turns.stop();
        // So that no thread waits for room to send.
        made.into_iter().for_each(drop);
        result
    })?;
    if writer.summary.segments != segments {
        return Err(panicked(()));
    }
    writer.finish(size)
}

/// A segment that was encoded.
struct Made {
    encoding: Encoding,
    container: Vec<u8>,
    value: [u8; 32],
}

struct Worker<'a> {
    input: &'a Bytes,
    version: &'a Version,
    turns: &'a Turns,
    encoder: Encoder,
    /// Room for what a segment may be longer than it is, and a segment.
    room: Vec<u8>,
}

impl Worker<'_> {
    fn encode(&mut self, number: u64) -> Result<Made, FileError> {
        let offset = number * u64::from(self.version.segment_bytes());
        let length = (self.version.size() - offset).min(self.version.segment_bytes().into());
        self.room.resize(OVERHEAD_BYTES + usize::try_from(length).unwrap_or(0), 0);
        self.input.read_at(offset, &mut self.room[OVERHEAD_BYTES..]).map_err(FileError::Input)?;
        let mut container = Vec::new();
        let made = self.encoder.encode_in_room(self.version, number, &mut self.room, &mut container);
        let (encoding, stands) = made.map_err(|error| FileError::Input(std::io::Error::other(error)))?;
        let value = part_value(&self.room[OVERHEAD_BYTES..], offset, false);
        if stands == Stands::InRoom {
            container = std::mem::replace(&mut self.room, self.turns.room());
        }
        Ok(Made { encoding, container, value })
    }
}

/// Hands out the numbers of segments. None is far ahead of what is written: it would wait for the history.
struct Turns {
    next: AtomicU64,
    segments: u64,
    /// Containers that were written: large ones are filled again, for new pages cost more than what is done with them.
    rooms: Mutex<Vec<Vec<u8>>>,
}

impl Turns {
    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Relaxed);
        (number < self.segments).then_some(number)
    }

    fn room(&self) -> Vec<u8> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, container: Vec<u8>) {
        // As many as are under way at once.
        if container.len() >= MIN_ROOM_BYTES {
            self.rooms.lock().unwrap_or_else(PoisonError::into_inner).push(container);
        }
    }

    fn stop(&self) {
        self.next.fetch_max(self.segments, Relaxed);
    }
}

struct Writer<'a> {
    output: &'a mut dyn Write,
    summary: FileSummary,
    tree: Tree,
    run: Option<Record>,
    /// Of all that was written.
    written: blake3::Hasher,
}

impl Writer<'_> {
    fn all(
        &mut self,
        made: &Receiver<(u64, Result<Made, FileError>)>,
        turns: &Turns,
        explain: Explain<'_>,
    ) -> Result<(), FileError> {
        let mut ahead = std::collections::BTreeMap::new();
        for (number, result) in made {
            ahead.insert(number, result?);
            while let Some(made) = ahead.remove(&self.summary.segments) {
                explain(self.summary.segments, &made.encoding);
                self.segment(&made)?;
                turns.give_back(made.container);
            }
        }
        Ok(())
    }

    fn segment(&mut self, made: &Made) -> Result<(), FileError> {
        let encoding = &made.encoding;
        let whole = match encoding.whole {
            Some(Whole::Zeros) => Some(Record::Zeros { segments: 1 }),
            Some(Whole::Basis { offset }) => Some(Record::Run { segments: 1, offset }),
            None => None,
        };
        if let Some(whole) = whole {
            let joined = self.run.and_then(|run| join(run, whole, self.summary_bytes(run)));
            if joined.is_none() {
                self.end_run()?;
            }
            self.run = Some(joined.unwrap_or(whole));
        } else {
            self.end_run()?;
            let mut head = Vec::new();
            Record::Segment { bytes: u64::try_from(made.container.len()).unwrap_or(u64::MAX) }.put(&mut head);
            self.write(&head)?;
            self.write(&made.container)?;
            self.write(&made.value[..RECORD_DIGEST_BYTES])?;
        }
        self.tree.push(made.value);
        self.summary.segments += 1;
        self.summary.original_bytes += encoding.input_bytes;
        self.summary.referenced_bytes += encoding.referenced_bytes;
        Ok(())
    }

    /// Bytes of a run so far.
    fn summary_bytes(&self, run: Record) -> u64 {
        let segments = match run {
            Record::Run { segments, .. } | Record::Zeros { segments } => segments,
            Record::Segment { .. } | Record::End => 0,
        };
        // All segments before the present one are of the same length.
        self.summary.original_bytes.checked_div(self.summary.segments).unwrap_or(0) * segments
    }

    fn end_run(&mut self) -> Result<(), FileError> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let mut bytes = Vec::new();
        run.put(&mut bytes);
        self.write(&bytes)
    }

    fn finish(mut self, size: u64) -> Result<FileSummary, FileError> {
        self.end_run()?;
        let mut end = Vec::new();
        Record::End.put(&mut end);
        let root = std::mem::take(&mut self.tree).root();
        end.extend_from_slice(&FileTail { size, root }.bytes());
        self.write(&end)?;
        let written = self.written.finalize();
        self.write(&written.as_bytes()[..FILE_CHECK_BYTES])?;
        self.output.flush().map_err(FileError::Output)?;
        Ok(self.summary)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.summary.encoded_bytes += u64::try_from(bytes.len()).unwrap_or(0);
        self.written.update(bytes);
        self.output.write_all(bytes).map_err(FileError::Output)
    }
}

/// One run of two, where the second goes on where the first of `bytes` ends.
fn join(run: Record, next: Record, bytes: u64) -> Option<Record> {
    match (run, next) {
        (Record::Zeros { segments }, Record::Zeros { .. }) => Some(Record::Zeros { segments: segments + 1 }),
        (Record::Run { segments, offset }, Record::Run { offset: then, .. }) if offset + bytes == then => {
            Some(Record::Run { segments: segments + 1, offset })
        }
        _ => None,
    }
}
