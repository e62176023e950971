//! The parsers of this crate that meet bytes of others, or files that somebody may have damaged, for whoever tries them with any
//! bytes (`tests/parsers`).

use proto_model::Glob;

use crate::{ends, exclude::Excludes, fates, journal, receiver, sender::SendJob, sync};

/// Compiles patterns, and asks them about a path.
pub fn excludes(globs: &[Glob], path: &[u8]) {
    if let Ok(excludes) = Excludes::new(globs) {
        let _covered = excludes.covers(path);
    }
}

/// Reads the bytes as a journal, as what became of an entry, as a kept job, as the notes of a transfer, and as a record of a sync.
pub fn files(bytes: &[u8]) {
    journal::read_any(bytes);
    fates::read_any(bytes);
    ends::read_any(bytes);
    receiver::read_any_note(bytes);
    sync::read_any_record(bytes);
    let _transfer = SendJob::from_bytes(bytes).as_ref().and_then(SendJob::transfer);
}
