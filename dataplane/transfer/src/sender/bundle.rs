//! Small files, which travel whole and many together.

use std::{
    io::{self, Read},
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use dataplane_hde::{Baseline, Basis, Class, Encoding, HistoryUse, MAX_SEGMENT_BYTES, Version};
use proto_wire::{
    frames::{DictionaryContents, FileEnd, SenderFrame},
    manifest::Entry,
    piece::{
        AsRead, BundleRow, HEADER_BYTES, Header, MAX_BUNDLE_BASIS_BYTES, MAX_BUNDLE_FILES, MAX_ROW_BYTES, PieceKind,
        SMALL_FILE_BYTES, write_bundle,
    },
};

use super::{
    buffers::Buffer,
    encoders::{BEFORE_BYTES, Worker},
    leaning,
    state::{Seen, Sending},
};
use crate::{
    dictionaries::class_of,
    fates::{Fate, Moved},
    reason::{end, issue},
    stop::Stop,
    tally::add,
};

/// A bundle's contents: with its table it stays a piece.
pub(super) const MAX_BUNDLE_BYTES: u64 = (1 << 20) - (MAX_BUNDLE_FILES * MAX_ROW_BYTES) as u64;

/// Files that lean on a dictionary go by themselves from so many bytes on.
const LEAST_LEANING_BYTES: u64 = 1 << 10;

/// A small file that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) file: u64,
    pub(super) entry: Entry,
    /// The BLAKE3 of what the receiver has there, where it says so.
    pub(super) there: Option<[u8; 32]>,
}

/// Small files that are gathered for a bundle.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    /// The number of the dictionary that they lean on; 0 for none.
    dictionary: u32,
    files: Vec<Wanted>,
    bytes: u64,
}

impl Bundle {
    pub(super) fn leaning(dictionary: u32) -> Self {
        Self { dictionary, ..Self::default() }
    }

    /// Its files, where they go with others; else the bundle.
    pub(super) fn dissolved(self) -> (Vec<Wanted>, Option<Self>) {
        let alone = self.dictionary != 0 && self.bytes >= LEAST_LEANING_BYTES;
        if alone { (Vec::new(), Some(self)) } else { (self.files, None) }
    }

    /// Adds a file; gives back the bundle that is full, if this one begins another.
    pub(super) fn push(&mut self, wanted: Wanted) -> Option<Self> {
        let full = self.bytes + wanted.entry.size() > MAX_BUNDLE_BYTES || self.files.len() == MAX_BUNDLE_FILES;
        let done = full.then(|| std::mem::replace(self, Self::leaning(self.dictionary)));
        self.bytes += wanted.entry.size();
        self.files.push(wanted);
        done
    }

    /// What was gathered, if anything was.
    pub(super) fn take(&mut self) -> Option<Self> {
        (!self.files.is_empty()).then(|| std::mem::take(self))
    }

    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX) + self.files.len() * MAX_ROW_BYTES
    }
}

/// What reading a small file came to.
enum Small {
    Read(SmallFile),
    /// It is not small any more.
    Grown,
    Unreadable(io::Error),
    Changed,
}

/// A small file as it was read.
struct SmallFile {
    file: u64,
    attempt: u8,
    moved: Moved,
    contents: Vec<u8>,
}

/// What reading a bundle came to.
#[derive(Default)]
struct Outcome {
    sent: Vec<(u64, Moved)>,
    /// Files that the receiver has as they are.
    equal: Vec<(u64, Moved)>,
    grown: Vec<(u64, Entry)>,
    given_up: Vec<(u64, Entry, &'static str, String)>,
    encoded: Option<(Header, Buffer)>,
    /// Dictionaries that are to be shipped.
    dictionaries: Vec<DictionaryContents>,
}

/// What a bundle is made of.
#[derive(Default)]
struct Parts {
    rows: Vec<BundleRow>,
    contents: Vec<u8>,
    /// Old versions that the receiver holds, too.
    basis: Vec<u8>,
    /// Classes of files that have no old version, where their contents are, and what they are.
    classed: Vec<(Class, Range<usize>, [u8; 32])>,
}

/// A bundle of which all is said but its piece.
pub(super) struct Said {
    /// Files that are not small any more.
    pub(super) grown: Vec<(u64, Entry)>,
    pub(super) piece: Option<(Header, Buffer)>,
}

/// Reads a bundle, and says what became of its files.
pub(super) async fn say(sending: &Arc<Sending>, bundle: Bundle) -> Result<Said, Stop> {
    say_files(sending, bundle, 0).await
}

/// Sends one file as a bundle of its own, in a second reading; false where it has grown again.
pub(super) async fn send_one(sending: &Arc<Sending>, file: u64, entry: Entry) -> Result<bool, Stop> {
    let mut bundle = Bundle::default();
    drop(bundle.push(Wanted { file, entry, there: None }));
    let Said { grown, piece } = say_files(sending, bundle, 1).await?;
    if let Some((header, encoded)) = piece {
        sending.send_pieces(header, encoded).await?;
    }
    Ok(grown.is_empty())
}

async fn say_files(sending: &Arc<Sending>, bundle: Bundle, attempt: u8) -> Result<Said, Stop> {
    let outcome =
        sending.on_worker("transfer bundle", move |sending, worker| read(sending, worker, bundle, attempt)).await??;
    if sending.is_finished.load(Relaxed) {
        outcome.is_as_before(sending)?;
    }
    for (file, entry, reason, message) in outcome.given_up {
        sending.give_up(file, entry.path.as_bytes(), reason, message).await?;
    }
    for (file, moved) in outcome.equal {
        // No piece comes before this end: the receiver compares once more, and keeps what it has.
        let end = FileEnd { file, root: moved.root, attempt: 0, entry: None };
        sending.frame(SenderFrame::FileEnd(end)).await?;
        sending.tally.reused(moved.size);
        sending.set_fate(file, Fate::Moved(moved))?;
    }
    for dictionary in outcome.dictionaries {
        add(&sending.tally.bytes_sent, u64::try_from(dictionary.container.len()).unwrap_or_default());
        sending.frame(SenderFrame::Dictionary(dictionary)).await?;
    }
    for (file, moved) in outcome.sent {
        sending.set_fate(file, Fate::Moved(moved))?;
    }
    Ok(Said { grown: outcome.grown, piece: outcome.encoded })
}

impl Outcome {
    /// Whether all files were read as they were the first time: the receiver was told what the tree comes to by that.
    fn is_as_before(&self, sending: &Sending) -> Result<(), Stop> {
        let mut same = self.grown.is_empty() && self.given_up.is_empty();
        let mut fates = sending.pages.fates();
        for (file, moved) in self.sent.iter().chain(&self.equal) {
            let before = fates.get(*file).map_err(|error| sending.own(&error))?;
            same &= matches!(before, Fate::Moved(before) if before == *moved);
        }
        let message = "a file changed before the receiver had asked for it again";
        if same { Ok(()) } else { Err(Stop::temporary(end::CORRUPTED, message)) }
    }
}

fn read(sending: &Sending, worker: &mut Worker, bundle: Bundle, first: u8) -> Result<Outcome, Stop> {
    let (mut outcome, mut parts) = (Outcome::default(), Parts::default());
    let reading = sending.tally.reading.begin();
    let Bundle { dictionary, files, .. } = bundle;
    for Wanted { file, entry, there } in files {
        let mut small = read_one(sending, file, &entry, first);
        if matches!(small, Small::Changed) && first == 0 {
            small = read_one(sending, file, &entry, 1);
        }
        match small {
            // Of one that was read a second time the entry is another one: it is sent.
            Small::Read(read) if read.attempt == 0 && Some(read.moved.root) == there && is_as_told(&read, &entry) => {
                outcome.equal.push((file, read.moved));
            }
            Small::Read(read) => {
                outcome.sent.push((file, read.moved));
                let old = there.filter(|_| read.attempt == 0).and_then(|digest| sending.old_small(&entry, digest));
                parts.add(read, &entry, old);
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
    if let Some(leaning) = sending.leaning().filter(|_| dictionary == 0) {
        let options = sending.shared.settings.load().hde;
        let files =
            parts.classed.drain(..).filter_map(|(class, at, digest)| Some((class, parts.contents.get(at)?, digest)));
        let to_ship = leaning.look(&mut worker.small, files, options.level.number());
        let contents = |dictionary| leaning::contents(&mut worker.encoder, options, dictionary);
        outcome.dictionaries = to_ship.into_iter().map(contents).collect::<Result<_, _>>()?;
    }
    outcome.encoded = encode(sending, worker, parts, dictionary)?;
    Ok(outcome)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn is_as_told(read: &SmallFile, entry: &Entry) -> bool {
    read.moved.size == entry.size() && read.moved.mode == entry.mode && read.moved.mtime == entry.mtime
}

impl Parts {
    fn add(&mut self, mut read: SmallFile, entry: &Entry, old: Option<Vec<u8>>) {
        let fits = |old: &Vec<u8>| {
            let bytes = u64::try_from(self.basis.len() + old.len()).unwrap_or(u64::MAX);
            bytes <= MAX_BUNDLE_BASIS_BYTES
        };
        let old = old.filter(fits);
        let as_read = AsRead {
            size: u32::try_from(read.contents.len()).unwrap_or(u32::MAX),
            mode: read.moved.mode,
            mtime: read.moved.mtime,
            attempt: read.attempt,
        };
        let as_told = read.attempt == 0 && is_as_told(&read, entry);
        self.rows.push(BundleRow { file: read.file, basis: old.is_some(), as_read: (!as_told).then_some(as_read) });
        if let Some(class) = class_of(entry.path.name(), entry.size()).filter(|_| old.is_none()) {
            let start = self.contents.len();
            self.classed.push((class, start..start + read.contents.len(), read.moved.root));
        }
        self.basis.extend_from_slice(&old.unwrap_or_default());
        self.contents.append(&mut read.contents);
    }
}

fn encode(
    sending: &Sending,
    worker: &mut Worker,
    mut parts: Parts,
    dictionary: u32,
) -> Result<Option<(Header, Buffer)>, Stop> {
    let Some(first) = parts.rows.first().map(|row| row.file) else { return Ok(None) };
    let _encoding = sending.tally.encoding.begin();
    let mut room = vec![0; HEADER_BYTES];
    write_bundle(&parts.rows, first, &mut room);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&room[HEADER_BYTES + 4..]).update(&parts.contents);
    let mut header = Header {
        kind: PieceKind::Bundle,
        part: 0,
        parts: 1,
        attempt: 0,
        encoded_bytes: 0,
        decoded_bytes: u32::try_from(parts.contents.len()).unwrap_or(u32::MAX),
        file: first,
        segment: u64::try_from(parts.rows.len()).unwrap_or_default(),
        file_bytes: 0,
        value: *hasher.finalize().as_bytes(),
    };
    let options = sending.shared.settings.load().hde;
    if let Some(leaning) = sending.leaning().filter(|_| dictionary != 0) {
        let started = sending.shared.clock.now();
        let packed = leaning.compress(&mut worker.small, dictionary, &parts.contents, options.level.number());
        if let Some(packed) = packed {
            let encoding = Encoding::leaning(parts.contents.len(), packed.len());
            if let Some(meter) = &sending.shared.encoders.meter {
                meter.record(&encoding, started);
            }
            sending.count(&encoding);
            (header.kind, header.file_bytes) = (PieceKind::Leaning, dictionary.into());
            room.extend_from_slice(packed);
            return Ok(Some((header, room.into())));
        }
    }
    let version = if parts.basis.is_empty() {
        Version::plain(options)
    } else {
        let (size, basis) = (u64::from(header.decoded_bytes), std::mem::take(&mut parts.basis));
        let basis = Basis::Baseline(Arc::new(Baseline::new(Arc::new(basis), None)));
        Version::new(options, basis, size, MAX_SEGMENT_BYTES, HistoryUse::None)
    };
    let read = worker.read.bytes();
    read.resize(BEFORE_BYTES, 0);
    read.append(&mut parts.contents);
    let encoded = worker.encode(&version, 0);
    let (encoding, encoded) = encoded.map_err(|error| Stop::violation(error.to_string()))?;
    sending.count(&encoding);
    // Of each its share.
    let literal = encoding.literal_bytes / header.segment.max(1);
    let leaning = parts.rows.iter().filter(|row| row.basis);
    let referenced = encoding.referenced_bytes / wide(leaning.clone().count()).max(1);
    leaning.for_each(|row| sending.refers(row.file, 0, (referenced, literal)));
    room.extend_from_slice(&encoded.as_ref()[HEADER_BYTES..]);
    Ok(Some((header, room.into())))
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
        let moved = Moved { root, size: seen.size, mode: seen.mode, mtime: seen.mtime };
        Ok(Small::Read(SmallFile { file, attempt, moved, contents }))
    };
    read().unwrap_or_else(Small::Unreadable)
}
