//! Small files, which travel whole and many together.

use std::{
    io::{self, Read},
    sync::Arc,
};

use dataplane_hde::Version;
use proto_wire::{
    frames::{FileEnd, SenderFrame},
    manifest::Entry,
    piece::{BUNDLE_ROW_BYTES, BundleRow, Header, MAX_BUNDLE_FILES, PieceKind, SMALL_FILE_BYTES, write_bundle_table},
};

use super::{
    buffers::Buffer,
    state::{BEFORE_BYTES, Seen, Sending, Worker},
};
use crate::{
    fates::{Fate, Moved},
    reason::issue,
    stop::Stop,
    tally::add,
};

/// A bundle's contents: with its table it stays a piece.
pub(super) const MAX_BUNDLE_BYTES: u64 = (1 << 20) - (MAX_BUNDLE_FILES * BUNDLE_ROW_BYTES) as u64;

/// A small file that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) file: u64,
    pub(super) entry: Entry,
    /// The BLAKE3 of what the receiver has there, where it is to be compared.
    pub(super) there: Option<[u8; 32]>,
}

/// Small files that are gathered for a bundle.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    files: Vec<Wanted>,
    bytes: u64,
}

impl Bundle {
    /// Adds a file; gives back the bundle that is full, if this one begins another.
    pub(super) fn push(&mut self, wanted: Wanted) -> Option<Self> {
        let full = self.bytes + wanted.entry.size() > MAX_BUNDLE_BYTES || self.files.len() == MAX_BUNDLE_FILES;
        let done = full.then(|| std::mem::take(self));
        self.bytes += wanted.entry.size();
        self.files.push(wanted);
        done
    }

    /// What was gathered, if anything was.
    pub(super) fn take(&mut self) -> Option<Self> {
        (!self.files.is_empty()).then(|| std::mem::take(self))
    }

    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX) + self.files.len() * BUNDLE_ROW_BYTES
    }
}

/// What reading a small file came to.
enum Small {
    Read(BundleRow, Vec<u8>),
    /// It is not small any more.
    Grown,
    Unreadable(io::Error),
    Changed,
}

/// What reading a bundle came to.
#[derive(Default)]
struct Outcome {
    rows: Vec<BundleRow>,
    contents: Vec<u8>,
    /// Files that the receiver has as they are.
    equal: Vec<BundleRow>,
    grown: Vec<(u64, Entry)>,
    given_up: Vec<(u64, Entry, &'static str, String)>,
    encoded: Option<(Header, Buffer)>,
}

/// Reads and sends a bundle; gives back the files that are not small any more.
pub(super) async fn send(sending: &Arc<Sending>, bundle: Bundle) -> Result<Vec<(u64, Entry)>, Stop> {
    send_files(sending, bundle.files, 0).await
}

/// Sends one file as a bundle of its own, in a second reading; false where it has grown again.
pub(super) async fn send_one(sending: &Arc<Sending>, file: u64, entry: Entry) -> Result<bool, Stop> {
    Ok(send_files(sending, vec![Wanted { file, entry, there: None }], 1).await?.is_empty())
}

async fn send_files(sending: &Arc<Sending>, files: Vec<Wanted>, attempt: u8) -> Result<Vec<(u64, Entry)>, Stop> {
    let outcome =
        sending.on_worker("transfer bundle", move |sending, worker| read(sending, worker, files, attempt)).await??;
    for (file, entry, reason, message) in outcome.given_up {
        sending.give_up(file, entry.path.as_bytes(), reason, message).await?;
    }
    for row in outcome.equal {
        // No piece comes before this end: the receiver compares once more, and keeps what it has.
        let end = FileEnd { file: row.file, root: row.root, attempt: 0, entry: None };
        sending.frame(SenderFrame::FileEnd(end)).await?;
        add(&sending.tally.bytes_reused, row.size.into());
        sending.set_fate(row.file, Fate::Moved(moved(&row)))?;
    }
    if let Some((header, encoded)) = outcome.encoded {
        sending.send_pieces(header, encoded).await?;
        for row in outcome.rows {
            sending.set_fate(row.file, Fate::Moved(moved(&row)))?;
        }
    }
    Ok(outcome.grown)
}

fn moved(row: &BundleRow) -> Moved {
    Moved { root: row.root, size: row.size.into(), mode: row.mode, mtime: row.mtime }
}

fn read(sending: &Sending, worker: &mut Worker, files: Vec<Wanted>, first: u8) -> Result<Outcome, Stop> {
    let mut outcome = Outcome::default();
    let reading = sending.tally.reading.begin();
    for Wanted { file, entry, there } in files {
        let mut small = read_one(sending, file, &entry, first);
        if matches!(small, Small::Changed) && first == 0 {
            small = read_one(sending, file, &entry, 1);
        }
        match small {
            // Of one that was read a second time the entry is another one: it is sent.
            Small::Read(row, _) if row.attempt == 0 && Some(row.root) == there => outcome.equal.push(row),
            Small::Read(row, contents) => {
                outcome.rows.push(row);
                outcome.contents.extend_from_slice(&contents);
            }
            Small::Grown => outcome.grown.push((file, entry)),
            Small::Unreadable(error) => outcome.given_up.push((file, entry, issue::UNREADABLE, error.to_string())),
            Small::Changed => {
                let message = "it changed twice while it was read; send again when it rests".to_owned();
                outcome.given_up.push((file, entry, issue::CHANGED_WHILE_READ, message));
            }
        }
    }
    drop(reading);
    let _encoding = sending.tally.encoding.begin();
    let Some(first) = outcome.rows.first() else { return Ok(outcome) };
    let header = Header {
        kind: PieceKind::Bundle,
        part: 0,
        parts: 1,
        attempt: 0,
        encoded_bytes: 0,
        decoded_bytes: 0,
        file: first.file,
        segment: u64::try_from(outcome.rows.len()).unwrap_or_default(),
        file_bytes: 0,
        value: [0; 32],
    };
    let read = worker.read.bytes();
    read.resize(BEFORE_BYTES, 0);
    write_bundle_table(&outcome.rows, read);
    read.append(&mut outcome.contents);
    let bundle = &read[BEFORE_BYTES..];
    let decoded_bytes = u32::try_from(bundle.len()).unwrap_or(u32::MAX);
    let header = Header { decoded_bytes, value: *blake3::hash(bundle).as_bytes(), ..header };
    let version = Version::plain(sending.shared.settings.load().hde);
    let encoded = worker.encode(&version, 0, &sending.buffers);
    let (encoding, encoded) = encoded.map_err(|error| Stop::violation(error.to_string()))?;
    add(&sending.tally.bytes_encoded_in, encoding.input_bytes);
    outcome.encoded = Some((header, encoded));
    Ok(outcome)
}

fn read_one(sending: &Sending, file: u64, entry: &Entry, attempt: u8) -> Small {
    let read = || -> io::Result<Small> {
        let mut source = sending.sources.read(&entry.path)?;
        let seen = Seen::of(&source)?;
        let as_promised = seen.size == entry.size() && seen.mtime == entry.mtime;
        if attempt == 0 && !as_promised {
            return Ok(Small::Changed);
        }
        if seen.size > SMALL_FILE_BYTES {
            return Ok(Small::Grown);
        }
        let mut contents = Vec::with_capacity(usize::try_from(seen.size).unwrap_or_default());
        // One byte more than there should be, so that growth is seen.
        (&mut source).take(seen.size + 1).read_to_end(&mut contents)?;
        if u64::try_from(contents.len()) != Ok(seen.size) || Seen::of(&source)? != seen {
            return Ok(Small::Changed);
        }
        let root = *blake3::hash(&contents).as_bytes();
        let size = u32::try_from(seen.size).map_err(io::Error::other)?;
        Ok(Small::Read(BundleRow { file, size, mode: seen.mode, mtime: seen.mtime, attempt, root }, contents))
    };
    read().unwrap_or_else(Small::Unreadable)
}
