//! Makes a file of another one that is held here: one that was renamed costs no data.
//!
//! Only what lies in the granted folder is looked at. Whoever may write there is told its chunks under any path (`old_versions`), so that he
//! learns nothing by naming a digest, and nobody gets what he may not read.

use std::{fs::File, io, os::unix::fs::FileExt};

use proto_model::Digest;
use proto_wire::{frames::WantedFile, manifest::Entry, tree_path::TreePath};
use rustix::fs::ioctl_ficlone;

use super::{
    compare::Comparer,
    files::temporary_name,
    state::{Receiving, gone},
};
use crate::{exclude::is_temporary, journal::FileNumber, stop::Stop, versions::FileStat};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

impl Comparer {
    /// Makes a file that is not there of another one of the same digest; false where there is none.
    pub(super) fn make_of_another(&mut self, index: u64, entry: &Entry) -> Result<bool, Stop> {
        let receiving = std::sync::Arc::clone(&self.receiving);
        let Some(root) = entry.versions.root.filter(|_| receiving.deltas && !receiving.options.dry_run) else {
            return Ok(false);
        };
        if entry.size() == 0 || !receiving.files().may_make() {
            return Ok(false);
        }
        let Some(source) = find(&receiving, entry, root) else { return Ok(false) };
        receiving.promise(entry, 0)?;
        receiving.files().want(index);
        let number = receiving.journal().number();
        match make(&receiving, entry, &source, number) {
            Ok(digest) if digest == root => {
                receiving.files().made(index, entry, receiving.division, (number, root));
                receiving.verified(entry.size(), entry.size());
                self.say(WantedFile { file: index, made: true, ..WantedFile::default() })?;
            }
            Ok(_) => {
                receiving.remove_temporary(&entry.path, number);
                self.say(WantedFile { file: index, ..WantedFile::default() })?;
            }
            Err(error) if receiving.frames.is_closed() => {
                drop(error);
                return Err(gone());
            }
            Err(error) => {
                // What cannot be copied may still come.
                tracing::debug!(transfer = %receiving.id, %error, "a renamed file is not copied");
                receiving.remove_temporary(&entry.path, number);
                self.say(WantedFile { file: index, ..WantedFile::default() })?;
            }
        }
        Ok(true)
    }
}

/// A file of the granted folder that had this digest, and looks as it did then.
fn find(receiving: &Receiving, entry: &Entry, root: [u8; 32]) -> Option<File> {
    let at = &receiving.destination;
    let known = receiving.shared.versions.by_digest(&at.root, Digest::from_bytes(root));
    known.into_iter().find_map(|(path, stat)| {
        let below = match at.path.as_bytes() {
            [] => path.as_slice(),
            folder => path.strip_prefix(folder)?.strip_prefix(b"/")?,
        };
        let path = TreePath::parse(below).ok().filter(|path| !is_temporary(path.name()))?;
        let file = receiving.parent(&path).and_then(|parent| parent.read(path.name())).ok()?;
        let now = FileStat::from(&file.metadata().ok()?);
        (now == stat && now.size == entry.size()).then_some(file)
    })
}

/// Copies a file beside its final name, by its blocks where the file system shares them; gives the digest of the copy.
fn make(receiving: &Receiving, entry: &Entry, source: &File, number: FileNumber) -> io::Result<[u8; 32]> {
    let copy = receiving.parent(&entry.path)?.create(&temporary_name(receiving.id, number))?;
    let shared = ioctl_ficlone(&copy, source).is_ok();
    let taken = receiving.take_room(if shared { 0 } else { entry.size() });
    let _taken = taken.map_err(|stop| io::Error::new(io::ErrorKind::StorageFull, stop))?;
    let (mut hasher, mut offset, mut buffer) = (blake3::Hasher::new(), 0_u64, vec![0; READ_BYTES]);
    while offset < entry.size() {
        if receiving.frames.is_closed() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        let len = usize::try_from(entry.size() - offset).unwrap_or(usize::MAX).min(buffer.len());
        let from = if shared { &copy } else { source };
        from.read_exact_at(&mut buffer[..len], offset)?;
        hasher.update(&buffer[..len]);
        if !shared {
            copy.write_all_at(&buffer[..len], offset)?;
        }
        offset += u64::try_from(len).unwrap_or_default();
    }
    Ok(*hasher.finalize().as_bytes())
}
