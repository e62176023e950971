//! Keeps the versions that the receiver has in place, so that the next ones are encoded against them. Goes on behind the transfer's end;
//! the next transfer to the same peer waits a little for it.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dataplane_content::{
    Acknowledged, Place,
    policy::{Prospect, Went},
};
use foundation_runtime::OnEnd;
use futures::{FutureExt, future::BoxFuture};
use proto_model::{Digest, PublicKey};
use proto_wire::{TreePath, manifest::Entry};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::state::{Seen, Sending};
use crate::{
    fates::{Fate, Moved},
    stop::Stop,
    versions::{FileStat, Kept, Published},
};

/// Versions that are kept together: as many files are open.
const AT_ONCE: usize = 256;
/// What is smaller costs more to keep than it saves.
const LEAST_BYTES: u64 = 256;
/// How long the end of a transfer waits until what it keeps is open: whoever replaces a file then, as editors do, finds the one before
/// kept. One that is written to before it is kept is not.
const AT_THE_END: Duration = Duration::from_secs(1);
/// Ends of transfers that keep, or wait to keep, what one peer has, and beginnings that wait for them: each holds what it was sent with.
const MAX_WAITING: usize = 64;
/// Files of earlier attempts that are remembered.
const MAX_UNHEARD: usize = 1 << 16;
/// How long a transfer waits for what the one before it keeps.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who keeps versions now, by peer.
#[derive(Debug, Default)]
pub(crate) struct Keepers(Mutex<HashMap<PublicKey, Arc<tokio::sync::Mutex<()>>>>);

impl Keepers {
    /// The turn of whoever keeps versions of this peer; its place in the line is taken at once. None where too many wait already.
    fn turn(&self, peer: PublicKey) -> Option<BoxFuture<'static, OwnedMutexGuard<()>>> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(peer).or_default())
        };
        if Arc::strong_count(&turn) > MAX_WAITING {
            return None;
        }
        let mut turn = turn.lock_owned().boxed();
        Some(match (&mut turn).now_or_never() {
            Some(free) => std::future::ready(free).boxed(),
            None => turn,
        })
    }

    /// Waits until all versions of this peer are kept, but not for long.
    pub(super) async fn are_done(&self, peer: PublicKey) {
        // Where it takes longer, older versions are referred to.
        if let Some(turn) = self.turn(peer) {
            drop(tokio::time::timeout(PATIENCE, turn).await);
        }
    }
}

/// Files that earlier attempts of a transfer sent, and of which nobody heard whether they are in place. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Unheard(Arc<Mutex<HashMap<TreePath, Moved>>>);

impl Unheard {
    fn files(&self) -> MutexGuard<'_, HashMap<TreePath, Moved>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt broke off.
    pub(super) fn hear(&self, sending: &Sending) {
        let mut files = self.files();
        let went = sending.pages.for_each_fate(|_, entry, fate| {
            if let Fate::Moved(moved) = fate
                && files.len() < MAX_UNHEARD
            {
                files.insert(entry.path.clone(), moved);
            }
            Ok(())
        });
        if let Err(error) = went {
            tracing::debug!(%error, "what an attempt sent is not known any more");
        }
    }

    /// What became of a file that is not sent in this attempt: the receiver has it as it was sent before.
    fn fate(&self, entry: &Entry) -> Option<Moved> {
        let moved = self.files().get(&entry.path).copied()?;
        (moved.size == entry.size() && moved.mtime == entry.mtime).then_some(moved)
    }
}

/// Begins to keep what the receiver has in place.
pub(super) async fn begin(sending: &Arc<Sending>) {
    if !sending.uses_versions() || sending.options.dry_run || !sending.shared.versions.remembers() {
        return;
    }
    // What is not kept costs bytes the next time.
    let Some(turn) = sending.shared.keepers.turn(sending.peer) else { return };
    let (keeping, tasks) = (Arc::clone(sending), sending.shared.tasks.clone());
    let (opened, are_open) = oneshot::channel::<()>();
    let run = async move {
        let tasks = keeping.shared.tasks.clone();
        // The one before may copy for hours: no transfer's end waits for that.
        let turn = tokio::select! {
            turn = turn => turn,
            () = tasks.cancelled() => return,
        };
        let at = Arc::clone(&keeping);
        let kept = tasks.blocking("keep versions", move || keep(&at, opened)).await;
        drop(turn);
        match kept {
            Ok(Ok(large)) => {
                let index =
                    move || keeping.shared.versions.keep_indexes(&large, || keeping.shared.tasks.is_cancelled());
                // One that is missing is made when it is needed.
                let _indexed = tasks.blocking("index versions", index).await;
            }
            Ok(Err(error)) => tracing::warn!(error = %error.message, "versions that a peer has are not kept"),
            Err(_cancelled) => {}
        }
    };
    tasks.spawn("keep versions", OnEnd::Expected, run);
    drop(tokio::time::timeout(AT_THE_END, are_open).await);
}

/// Keeps what the receiver has in place, and says when the first of it is open. Gives back what may be indexed.
fn keep(sending: &Sending, opened: oneshot::Sender<()>) -> Result<Vec<Kept>, Stop> {
    let (mut batch, mut opened, mut large) = (Batch::default(), Some(opened), Vec::new());
    let kept = sending.pages.for_each_fate(|file, entry, fate| {
        let moved = match fate {
            Fate::Moved(moved) => sending.is_published(file).then_some(moved),
            // Where it is not what the receiver has after all, no next version refers to it.
            Fate::Kept => sending.unheard.fate(entry),
            Fate::LeftOut | Fate::NotMade(_) => None,
        };
        let Some(moved) = moved.filter(|moved| moved.size >= LEAST_BYTES) else { return Ok(()) };
        if sending.shared.tasks.is_cancelled() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        batch.add(sending, file, entry, &moved);
        if batch.acknowledged.len() >= AT_ONCE {
            drop(opened.take());
            large.append(&mut std::mem::take(&mut batch).keep(sending));
        }
        Ok(())
    });
    drop(opened.take());
    match kept {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(sending.own(&error)),
        Ok(()) | Err(_) => {
            large.append(&mut batch.keep(sending));
            Ok(large)
        }
    }
}

/// Versions that the receiver has, where the files are still those.
#[derive(Default)]
struct Batch {
    acknowledged: Vec<Acknowledged>,
    /// The same files, as they are known here.
    here: Vec<Published>,
}

impl Batch {
    fn add(&mut self, sending: &Sending, number: u64, entry: &Entry, moved: &Moved) {
        let Ok(file) = sending.sources.read(&entry.path) else { return };
        let Ok(seen) = Seen::of(&file) else { return };
        if seen.size != moved.size || seen.mtime != moved.mtime {
            return;
        }
        let digest = Digest::from_bytes(moved.root);
        if let (Some((_, path)), Ok(data)) = (sending.sources.place(&entry.path), file.metadata()) {
            self.here.push(Published { path, stat: FileStat::from(&data), digest });
        }
        let (went, replaced) = sending.how_it_went(number, moved.size);
        let place = Place { root: sending.destination.root.as_str().to_owned(), path: sending.place(entry) };
        let prospect = Prospect { is_standing: sending.is_standing, replaced };
        self.acknowledged.push(Acknowledged { place, file, digest, size: moved.size, went, prospect });
    }

    fn keep(self, sending: &Sending) -> Vec<Kept> {
        if let Some(root) = sending.sources.root() {
            sending.shared.versions.published(root, self.here);
        }
        let paths = self.acknowledged.iter().map(|one| one.place.path.clone()).collect();
        sending.shared.versions.keep(&sending.peer, self.acknowledged);
        sending.shared.versions.to_index(&sending.peer, &sending.destination.root, paths)
    }
}

/// How a file that has an older version at the receiver is sent.
#[derive(Debug, Default)]
pub(super) struct Basis {
    /// Whether it is encoded against that.
    pub(super) used: bool,
    /// Whether that is of another file.
    pub(super) elsewhere: bool,
    /// Whether the receiver said what that is.
    pub(super) described: bool,
    /// The version, where it is kept here and was not found wanting.
    pub(super) version: Option<Digest>,
    /// Segments that did not verify.
    pub(super) failed: u32,
    /// Bytes of it that are no reference.
    pub(super) literal: u64,
    /// Bytes of each segment that are: of a small file there is one.
    referenced: Vec<u32>,
}

impl Basis {
    /// So many bytes of a segment refer to the basis.
    pub(super) fn refers(&mut self, segment: u64, bytes: u64) {
        let at = usize::try_from(segment).unwrap_or(usize::MAX);
        if bytes > 0 {
            if self.referenced.len() <= at {
                self.referenced.resize(at + 1, 0);
            }
            self.referenced[at] = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
    }

    /// A segment travels without its basis: so many bytes of it referred to that.
    fn forget(&mut self, segment: u64) -> u64 {
        let at = usize::try_from(segment).unwrap_or(usize::MAX);
        self.referenced.get_mut(at).map(std::mem::take).unwrap_or_default().into()
    }

    /// The same of all segments: the file is read once more.
    fn forget_all(&mut self) -> u64 {
        std::mem::take(&mut self.referenced).into_iter().map(u64::from).sum()
    }
}

impl Sending {
    /// A segment has to travel that was told by references.
    pub(super) fn take_back(&self, file: u64, segment: u64) {
        let bytes = self.bases().get_mut(&file).map_or(0, |basis| basis.forget(segment));
        self.tally.not_reused(bytes);
    }

    /// All of a file may have to.
    pub(super) fn take_all_back(&self, file: u64) {
        let bytes = self.bases().get_mut(&file).map_or(0, Basis::forget_all);
        self.tally.not_reused(bytes);
    }

    /// How a file was sent, and whether it replaced an older version.
    fn how_it_went(&self, file: u64, size: u64) -> (Went, bool) {
        match self.bases().get(&file) {
            Some(basis) if basis.used && basis.described => (Went::Described, true),
            // Not a version after another one of this place.
            Some(basis) if basis.elsewhere => (Went::Whole, false),
            Some(basis) if basis.used => (Went::Delta { plain: size, encoded: basis.literal.max(1) }, true),
            Some(_) => (Went::Whole, true),
            None => (Went::Whole, false),
        }
    }
}
