//! Reads a whole backup, and believes nothing of it before its last byte.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::RestoreError;
use crate::backup::{
    archive::{ArchiveError, ArchiveReader, Next},
    manifest::{self, MAX_BYTES, MAX_FILE_BYTES, Manifest},
    sealed::SealedError,
};

/// The file is read in pieces of this size.
const READ_BYTES: usize = 256 * 1024;

/// A backup that is whole.
pub(super) struct Inspected {
    pub(super) manifest: Manifest,
    /// Of the data directory, by name.
    pub(super) files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// Opens a backup.
pub(super) fn open(path: &Path, passphrase: &[u8]) -> Result<ArchiveReader<impl Read>, RestoreError> {
    let file =
        File::open(path).map_err(|source| RestoreError::Io { doing: "read", path: path.to_path_buf(), source })?;
    ArchiveReader::open(BufReader::with_capacity(READ_BYTES, file), passphrase).map_err(|error| refused(path, error))
}

/// What is wrong with the file, by the error of reading it.
pub(super) fn refused(path: &Path, error: io::Error) -> RestoreError {
    let path = path.to_path_buf();
    let error = match error.downcast::<SealedError>() {
        Ok(source) => return RestoreError::Sealed { path, source },
        Err(error) => error,
    };
    match error.downcast::<ArchiveError>() {
        Ok(source) => RestoreError::Archive { path, source },
        Err(source) => RestoreError::Io { doing: "read", path, source },
    }
}

/// Verifies all of a backup, and keeps what is small of it.
pub(super) fn verify(path: &Path, passphrase: &[u8]) -> Result<Inspected, RestoreError> {
    let wrong = |reason: &str| RestoreError::Contents { path: path.to_path_buf(), reason: reason.to_owned() };
    let mut archive = open(path, passphrase)?;
    let mut manifest: Option<Manifest> = None;
    let mut files = BTreeMap::new();
    let mut tables = Vec::new();
    loop {
        let name = match archive.next().map_err(|error| refused(path, error))? {
            Next::Part(name) => name,
            Next::Last => break,
            Next::Data(_) | Next::End { .. } => return Err(wrong("its parts are not in order")),
        };
        let keep = match name.split_once('/') {
            None if name == manifest::PART && manifest.is_none() => MAX_BYTES,
            Some(("file", _)) => MAX_FILE_BYTES,
            Some(("table", table)) => {
                tables.push(table.to_owned());
                0
            }
            _ => return Err(wrong("it has a part that this program does not know")),
        };
        let bytes = part(&mut archive, keep, path)?;
        if name == manifest::PART {
            let parsed = serde_json::from_slice(&bytes)
                .map_err(|error| wrong(&format!("its manifest cannot be read: {error}")))?;
            manifest = Some(parsed);
        } else if let Some(file) = name.strip_prefix("file/") {
            files.insert(file.to_owned(), bytes);
        }
    }
    let manifest = manifest.ok_or_else(|| wrong("it has no manifest"))?;
    let digests = files.iter().map(|(name, bytes)| (name.clone(), hex::encode(digest(&SHA256, bytes))));
    if digests.collect::<BTreeMap<_, _>>() != manifest.files || !files.contains_key("seal.key") {
        return Err(wrong("its files are not those of its manifest"));
    }
    if manifest.tables.iter().map(|table| &table.name).ne(&tables) {
        return Err(wrong("its tables are not those of its manifest"));
    }
    Ok(Inspected { manifest, files })
}

/// The rest of a part; nothing of it where `keep` is 0.
fn part(archive: &mut ArchiveReader<impl Read>, keep: usize, path: &Path) -> Result<Zeroizing<Vec<u8>>, RestoreError> {
    let mut kept = Zeroizing::new(Vec::new());
    loop {
        match archive.next().map_err(|error| refused(path, error))? {
            Next::Data(_) if keep == 0 => {}
            Next::Data(bytes) if kept.len() + bytes.len() <= keep => kept.extend_from_slice(&bytes),
            Next::End { .. } => return Ok(kept),
            Next::Data(_) | Next::Part(_) | Next::Last => {
                let reason = "one of its small parts is too long".to_owned();
                return Err(RestoreError::Contents { path: path.to_path_buf(), reason });
            }
        }
    }
}
