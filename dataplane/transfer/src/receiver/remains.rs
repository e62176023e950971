//! What is left of a transfer that broke off and will not go on: found by what was written down at its beginning, and removed.

use std::{fs, io, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use foundation_runtime::durable;
use proto_model::{Digest, PublicKey, RootPath, TransferId, TransferRole, TransferState};
use proto_wire::tree_path::MAX_DEPTH;
use serde::{Deserialize, Serialize};

use super::files::temporary_number;
use crate::{
    confine::Folder,
    ends::{End, remove_folder},
    service::Shared,
};

const FILE: &str = "remains";
/// How long a direct send may pause.
const DIRECT: TimeDelta = TimeDelta::days(7);

/// Where the temporary files of a transfer lie, and until when it may go on.
#[derive(Debug, Serialize, Deserialize)]
struct Remains {
    destination: String,
    not_after_ms: i64,
    /// Whose transfer it is; not said by earlier versions.
    #[serde(default)]
    sender: String,
    /// BLAKE3 of the grant by which it was accepted; none for a direct send.
    #[serde(default)]
    grant: Option<String>,
}

/// Until when a transfer may go on.
pub(super) fn until(not_after: Option<DateTime<Utc>>, now: DateTime<Utc>) -> DateTime<Utc> {
    not_after.unwrap_or(now + DIRECT)
}

/// Writes it down, before anything is made: where it goes, whose it is, until when.
pub(super) fn write_down(
    folder: &Path,
    (destination, sender, not_after): (&RootPath, PublicKey, DateTime<Utc>),
    grant: Option<Digest>,
) -> io::Result<()> {
    let remains = Remains {
        destination: destination.to_string(),
        not_after_ms: not_after.timestamp_millis(),
        sender: hex::encode(sender.as_bytes()),
        grant: grant.map(|grant| grant.to_string()),
    };
    durable::replace(&folder.join(FILE), &serde_json::to_vec(&remains).map_err(io::Error::from)?, 0o600)
}

/// Whose a transfer is that broke off, or runs, here.
pub(super) fn sender_of(shared: &Shared, id: TransferId) -> Option<PublicKey> {
    read(shared, id)?.sender.parse().ok()
}

/// Whether a transfer that broke off, or runs, here was accepted by this very grant.
pub(super) fn was_accepted_by(shared: &Shared, id: TransferId, grant: Digest) -> bool {
    let kept = read(shared, id).and_then(|remains| remains.grant?.parse::<Digest>().ok());
    kept == Some(grant)
}

fn read(shared: &Shared, id: TransferId) -> Option<Remains> {
    let bytes = fs::read(shared.folder.of(id, TransferRole::Receiver).join(FILE)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Reads any bytes as a note.
pub(crate) fn read_any_note(bytes: &[u8]) {
    if let Ok(remains) = serde_json::from_slice::<Remains>(bytes) {
        drop((remains.destination.parse::<RootPath>(), remains.sender.parse::<PublicKey>()));
    }
}

/// Transfers that broke off, and whose grant is over.
pub(crate) fn over(shared: &Shared) -> io::Result<Vec<TransferId>> {
    let now = (shared.clock.utc() - super::admission::SKEW).timestamp_millis();
    let broken = shared.folder.unfinished(TransferRole::Receiver)?.into_iter().map(|(id, _)| id);
    // One without a note has made nothing yet, and is younger than its note.
    Ok(broken.filter(|id| read(shared, *id).is_some_and(|remains| remains.not_after_ms < now)).collect())
}

/// When the next transfer that broke off is over.
pub(crate) fn next_over(shared: &Shared) -> io::Result<Option<DateTime<Utc>>> {
    let now = (shared.clock.utc() - super::admission::SKEW).timestamp_millis();
    let broken = shared.folder.unfinished(TransferRole::Receiver)?.into_iter();
    let ends = broken.filter_map(|(id, _)| read(shared, id)).map(|remains| remains.not_after_ms);
    Ok(ends
        .filter(|end| *end >= now)
        .min()
        .and_then(DateTime::from_timestamp_millis)
        .map(|end| end + super::admission::SKEW))
}

/// Ends a transfer that does not run: removes its temporary files, and keeps the end.
pub(crate) fn discard(shared: &Shared, id: TransferId, role: TransferRole, state: TransferState) -> io::Result<()> {
    if role == TransferRole::Receiver && shared.syncs.is_run(id) {
        shared.syncs.give_up(id)?;
        return sweep_out(shared, id);
    }
    sweep_destination(shared, id, role);
    shared.folder.finish(id, role, &End::new(state, None, None, shared.clock.utc()))
}

/// Removes what is left of a run of a sync: its number says that it is over.
pub(crate) fn sweep_out(shared: &Shared, id: TransferId) -> io::Result<()> {
    sweep_destination(shared, id, TransferRole::Receiver);
    remove_folder(&shared.folder.of(id, TransferRole::Receiver))
}

fn sweep_destination(shared: &Shared, id: TransferId, role: TransferRole) {
    let remains = (role == TransferRole::Receiver).then(|| read(shared, id)).flatten();
    if let Some(path) = remains.and_then(|remains| remains.destination.parse::<RootPath>().ok()) {
        let opened = shared.roots.load().open(&path.root).map_err(io::Error::other);
        // A root or folder that is gone has taken its temporary files with it.
        if let Ok(folder) = opened.and_then(|root| root.granted(path.path.as_bytes())) {
            sweep_below(&folder, id);
        }
    }
}

/// Removes the temporary files of a transfer from a folder.
pub(super) fn sweep_one(folder: &Folder, id: TransferId) {
    for name in folder.list().unwrap_or_default() {
        if temporary_number(id, &name.name).is_some() {
            // What cannot be removed now stays: it is hidden, and says whose it is.
            drop(folder.remove(&name.name));
        }
    }
}

/// The same, from everything below it too.
pub(super) fn sweep_below(folder: &Folder, id: TransferId) {
    sweep(folder, id, 0);
}

fn sweep(folder: &Folder, id: TransferId, depth: usize) {
    sweep_one(folder, id);
    let names = folder.list().unwrap_or_default().into_iter();
    for name in names.filter(|name| name.is_folder && depth < MAX_DEPTH) {
        folder.folder(&name.name).iter().for_each(|folder| sweep(folder, id, depth + 1));
    }
}
