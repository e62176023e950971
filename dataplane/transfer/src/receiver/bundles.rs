//! Whole small files, many together: decoded against old versions of them that are held here, verified together, written each.

use std::{fs::File, io, os::unix::fs::FileExt};

use dataplane_hde::{Lean, NoSources, Sources};
use proto_wire::{
    frames::{FileEnd, MAX_PUBLISHED, ReceiverFrame},
    manifest::{Entry, Kind},
    piece::{BundleRow, Header, MAX_BUNDLE_BASIS_BYTES, SMALL_FILE_BYTES, read_bundle},
};

use super::{
    compare::{read_small, read_small_of_any_size},
    decoders::Worker,
    files::{Whole, temporary_name},
    incoming::may_be_basis,
    state::{After, Receiving},
};
use crate::{
    confine::set_file,
    fates::{Fate, Moved},
    reason::end,
    stop::Stop,
    tally::add,
};

/// A file of a bundle, before its contents are known.
struct Small {
    entry: Entry,
    file: u64,
    attempt: u8,
    /// As it was read; its root is not known yet.
    moved: Moved,
}

/// Takes a bundle.
pub(super) fn take(
    receiving: &Receiving,
    header: &Header,
    bundle: &[u8],
    worker: &mut Worker,
    after: &mut After,
) -> Result<(), Stop> {
    let (rows, table, container) = read_bundle(bundle, header.segment, header.file)?;
    let files = rows.iter().map(|row| small(receiving, row)).collect::<Result<Vec<_>, _>>()?;
    let bytes = files.iter().map(|small| small.moved.size).sum::<u64>();
    if bytes != u64::from(header.decoded_bytes) {
        return Err(Stop::violation("a bundle does not have the length of its files"));
    }
    let refers = rows.iter().any(|row| row.basis);
    let Some(mut basis) = OldVersions::of(receiving, &rows, &files) else {
        ask_again(&files, after);
        return Ok(());
    };
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let room = worker.decoded.begin(bytes);
    let mut reused = 0;
    let verified = match worker.decoder.decode(container, bytes, &mut basis, room) {
        Ok(decoded) => {
            reused = decoded.basis_bytes;
            let mut hasher = blake3::Hasher::new();
            hasher.update(table).update(&worker.decoded);
            *hasher.finalize().as_bytes() == header.value
        }
        Err(error) if refers => {
            may_be_basis(
                receiving,
                rows.iter().find(|row| row.basis).map_or(header.file, |row| row.file),
                &error,
                true,
            )?;
            false
        }
        Err(error) => return Err(Stop::violation(error.to_string())),
    };
    if !verified && refers {
        tracing::warn!(transfer = %receiving.id, file = header.file, "a bundle of small files did not verify and is asked for whole");
        ask_again(&files, after);
        return Ok(());
    }
    if !verified {
        return Err(Stop::temporary(end::CORRUPTED, "a bundle of small files did not verify"));
    }
    write_all(receiving, files, &worker.decoded, after)?;
    receiving.tally.reused(reused);
    Ok(())
}

/// Takes a bundle that leans on a dictionary: both ends have the same bytes of that, so what does not verify is no accident of the disk.
pub(super) fn take_leaning(
    receiving: &Receiving,
    header: &Header,
    bundle: &[u8],
    worker: &mut Worker,
    after: &mut After,
) -> Result<(), Stop> {
    let dictionary = receiving.dictionary(header.file_bytes)?;
    let (rows, table, packed) = read_bundle(bundle, header.segment, header.file)?;
    if rows.iter().any(|row| row.basis) {
        return Err(Stop::violation("a bundle leans on a dictionary and on old versions"));
    }
    let files = rows.iter().map(|row| small(receiving, row)).collect::<Result<Vec<_>, _>>()?;
    let bytes = files.iter().map(|small| small.moved.size).sum::<u64>();
    if bytes != u64::from(header.decoded_bytes) {
        return Err(Stop::violation("a bundle does not have the length of its files"));
    }
    let Worker { small, decoded, .. } = worker;
    let room = decoded.zeros(usize::try_from(bytes).unwrap_or(usize::MAX));
    let made = small.decompress(packed, Lean::Dictionary(&dictionary), room);
    made.map_err(|error| Stop::violation(error.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(table).update(decoded);
    if *hasher.finalize().as_bytes() != header.value {
        return Err(Stop::temporary(end::CORRUPTED, "a bundle of small files did not verify"));
    }
    write_all(receiving, files, &worker.decoded, after)
}

fn write_all(receiving: &Receiving, files: Vec<Small>, decoded: &[u8], after: &mut After) -> Result<(), Stop> {
    let mut rest = decoded;
    for small in files {
        let size = usize::try_from(small.moved.size).unwrap_or(usize::MAX);
        let (contents, others) = rest.split_at_checked(size).unwrap_or_default();
        rest = others;
        write(receiving, small, contents, after)?;
    }
    Ok(())
}

/// What a row says, where it may say so.
fn small(receiving: &Receiving, row: &BundleRow) -> Result<Small, Stop> {
    let file = row.file;
    let entry = receiving.pages.entry(file).map_err(|error| receiving.own(&error))?;
    let entry = entry.ok_or_else(|| Stop::violation(format!("there is no entry {file}")))?;
    if !matches!(entry.kind, Kind::File { .. }) {
        return Err(Stop::violation(format!("entry {file} is no file")));
    }
    let (size, mode, mtime, attempt) = match row.as_read {
        Some(read) => (u64::from(read.size), read.mode, read.mtime, read.attempt),
        None => (entry.size(), entry.mode, entry.mtime, 0),
    };
    if size > SMALL_FILE_BYTES || (attempt == 0 && size != entry.size()) {
        return Err(Stop::violation(format!("file {file} in a bundle has a size that it may not have")));
    }
    Ok(Small { entry, file, attempt, moved: Moved { root: [0; 32], size, mode, mtime } })
}

/// All files of a bundle are to come whole.
fn ask_again(files: &[Small], after: &mut After) {
    let numbers: Vec<_> = files.iter().map(|small| small.file).collect();
    after.frames.extend(numbers.chunks(MAX_PUBLISHED).map(|numbers| ReceiverFrame::ResendFiles(numbers.to_vec())));
}

/// The old versions that a bundle refers to, one after another.
struct OldVersions {
    bytes: Vec<u8>,
}

impl OldVersions {
    /// None where one cannot be read, or all are more than a bundle may refer to: they changed.
    fn of(receiving: &Receiving, rows: &[BundleRow], files: &[Small]) -> Option<Self> {
        let mut bytes = Vec::new();
        for small in rows.iter().zip(files).filter(|(row, _)| row.basis).map(|(_, small)| small) {
            let parent = receiving.parent(&small.entry.path).ok()?;
            bytes.append(&mut read_small_of_any_size(&parent, small.entry.path.name()).ok()?);
            if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BUNDLE_BASIS_BYTES {
                return None;
            }
        }
        Some(Self { bytes })
    }
}

impl Sources for OldVersions {
    fn basis(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let held = start.and_then(|start| self.bytes.get(start..)?.get(..room.len()));
        room.copy_from_slice(held.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn history(&mut self, offset: u64, room: &mut [u8]) -> io::Result<()> {
        NoSources.history(offset, room)
    }
}

fn write(receiving: &Receiving, small: Small, contents: &[u8], after: &mut After) -> Result<(), Stop> {
    let Small { entry, file, attempt, moved } = small;
    let moved = Moved { root: *blake3::hash(contents).as_bytes(), ..moved };
    if receiving.is_left_out(file) {
        return receiving.not_made(file, Some(moved));
    }
    let before = receiving.files().begin_small(file, attempt)?;
    receiving.count(moved.size.saturating_sub(entry.size()))?;
    if let Some(number) = before {
        receiving.remove_temporary(&entry.path, number);
    }
    let taken = receiving.take_room(moved.size)?;
    let number = receiving.journal().number();
    let temporary = temporary_name(receiving.id, number);
    let written = receiving.parent(&entry.path).and_then(|parent| parent.create(&temporary));
    let dressed = |file: File| {
        file.write_all_at(contents, 0)?;
        set_file(&file, moved.mode, moved.mtime)
    };
    if let Err(error) = written.and_then(dressed) {
        receiving.remove_temporary(&entry.path, number);
        receiving.unwritable(file, &entry.path, &error)?;
        return receiving.not_made(file, Some(moved));
    }
    drop(taken);
    receiving.verified(moved.size, 0);
    receiving.files().small_is_whole(file, &entry.path, number, moved.size);
    after.whole.push(Whole { file, path: entry.path, temporary, moved, dressed: true });
    Ok(())
}

/// Keeps a small file of which the sender says that it has the same: compared once more, so that nothing is believed.
pub(super) fn equal(receiving: &Receiving, end: &FileEnd, entry: &Entry, mut after: After) -> Result<After, Stop> {
    let (file, bytes) = (end.file, entry.size());
    if receiving.files().begin_small(file, 0)?.is_some() || !matches!(entry.kind, Kind::File { .. }) {
        return Err(Stop::violation(format!("file {file} came twice, or is none")));
    }
    let parent = receiving.parent(&entry.path);
    let same = parent.and_then(|parent| {
        let contents = read_small(&parent, entry.path.name(), bytes)?;
        Ok((blake3::hash(&contents).as_bytes() == &end.root).then_some(parent))
    });
    let Ok(Some(parent)) = same else {
        // It changed meanwhile.
        receiving.files().not_begun(file);
        after.frames.push(ReceiverFrame::ResendFiles(vec![file]));
        return Ok(after);
    };
    drop(receiving.take_room(bytes)?);
    let moved = Moved { root: end.root, size: bytes, mode: entry.mode, mtime: entry.mtime };
    if let Err(error) = parent.read(entry.path.name()).and_then(|file| set_file(&file, entry.mode, entry.mtime)) {
        receiving.unwritable(file, &entry.path, &error)?;
        return receiving.not_made(file, Some(moved)).map(|()| after);
    }
    receiving.pages.set_fate(file, Fate::Moved(moved)).map_err(|error| receiving.own(&error))?;
    receiving.verified(bytes, bytes);
    add(&receiving.tally.files_done, 1);
    receiving.files().done(file);
    Ok(after)
}
