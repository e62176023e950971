//! What the sender knows of versions that the receiver holds.

use std::{os::unix::fs::FileExt, sync::Arc};

use dataplane_hde::{Baseline, Basis, SKETCH_WINDOW_BYTES, Sketch, sketch_windows, sketch_word};
use foundation_runtime::Cancelled;
use proto_wire::{
    manifest::{Entry, Versions},
    piece::SMALL_FILE_BYTES,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{file::Wish, gathering::Offer, state::Sending};
use crate::{
    holes::is_hole,
    receiver::{LEAST_WORDS, SKETCH_FROM_BYTES, stopping},
    stop::Stop,
    versions::{FileStat, Kept},
};

/// Versions that were announced and are remembered; others are asked for again.
const MAX_ANNOUNCED: usize = 1 << 16;

/// What a file is encoded against, and the memory that it takes, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) basis: Basis,
    _memory: Option<OwnedSemaphorePermit>,
}

/// What this file may be encoded against.
pub(super) async fn basis(sending: &Arc<Sending>, wish: &Wish) -> Result<Held, Stop> {
    let held = match &wish.offer {
        Offer::Nothing | Offer::Undescribed => {
            if matches!(wish.offer, Offer::Undescribed) {
                sending.replaces(wish.file);
            }
            if wish.entry.versions.baseline != 0 {
                sending.fell_back("gone");
            }
            return Ok(Held::default());
        }
        Offer::Signature(index, _memory) => {
            if wish.entry.versions.baseline != 0 {
                sending.fell_back("gone");
            }
            sending.is_described(wish.file);
            Held { basis: Basis::Signature(Arc::clone(index)), _memory: None }
        }
        Offer::Baseline(digest) => baseline(sending, wish.file, &wish.entry, *digest).await?,
    };
    sending.has_basis(wish.file);
    if wish.elsewhere {
        sending.is_elsewhere(wish.file);
    }
    Ok(held)
}

async fn baseline(sending: &Arc<Sending>, file: u64, entry: &Entry, digest: [u8; 32]) -> Result<Held, Stop> {
    let (at, entry) = (Arc::clone(sending), entry.clone());
    let find = move || at.kept(&entry, digest);
    let kept = sending.group.blocking("transfer baseline", find).await.map_err(|Cancelled| stopping())?;
    let Some(kept) = kept else {
        sending.fell_back("unreadable");
        return Ok(Held::default());
    };
    sending.refers_to(file, kept.digest);
    // Others may hold the memory for as long as their receivers please: then this one does without.
    let room = Arc::clone(&sending.shared.indexes).acquire_many_owned(index_kib(sending, kept.size));
    let patience = sending.shared.settings.load().stall_timeout / 2;
    let Ok(room) = sending.unless_cancelled(tokio::time::timeout(patience, room)).await? else {
        metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.basis_budget").increment(1);
        sending.fell_back("memory");
        return Ok(Held::default());
    };
    let at = Arc::clone(sending);
    let opened = sending.group.blocking("transfer baseline", move || at.shared.versions.open(kept.digest)).await;
    let Some((bytes, index)) = opened.map_err(|Cancelled| stopping())? else {
        sending.fell_back("unreadable");
        return Ok(Held::default());
    };
    let baseline = Arc::new(Baseline::new(bytes, index));
    Ok(Held { basis: Basis::Baseline(baseline), _memory: room.ok() })
}

/// Memory of an index of a baseline of so many bytes (half of it, from 32 MiB on no more than 16 MiB or a sixteenth, at most 64 MiB), and some
/// for what is read of it.
fn index_kib(sending: &Sending, size: u64) -> u32 {
    // All of it there is, where that is less: what is configured since this program's start does not count.
    let most = sending.shared.index_kib;
    let needed = (size / 2).min((16 << 20).max(size / 16)).min(64 << 20) / 1024 + 1024;
    u32::try_from(needed.min(most)).unwrap_or(u32::MAX)
}

/// Memory for the anchors of a version of so many bytes, where there is some that nobody has.
pub(super) fn index_memory(sending: &Sending, size: u64) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&sending.shared.indexes).try_acquire_many_owned(index_kib(sending, size)).ok()
}

impl Sending {
    /// The place of an entry at the receiver.
    pub(super) fn place(&self, entry: &Entry) -> Vec<u8> {
        crate::versions::place(&self.destination, &entry.path)
    }

    /// What was kept of this digest for this place, if that is the newest.
    fn kept(&self, entry: &Entry, digest: [u8; 32]) -> Option<Kept> {
        let announced = self.announced().get(&entry.versions.baseline).copied();
        if let Some(kept) = announced.filter(|kept| kept.digest.as_bytes() == &digest) {
            return Some(kept);
        }
        let path = self.place(entry);
        let kept = self.shared.versions.newest(&self.peer, &self.destination.root, vec![path]).pop().flatten();
        kept.filter(|kept| kept.digest.as_bytes() == &digest)
    }

    /// The old version of a small file that the receiver has, if this end has it, too.
    pub(super) fn old_small(&self, entry: &Entry, digest: [u8; 32]) -> Option<Vec<u8>> {
        if !self.uses_versions() {
            return None;
        }
        let old = self.kept(entry, digest).filter(|kept| kept.size <= SMALL_FILE_BYTES).and_then(|kept| {
            let bytes = self.shared.versions.open_bytes(kept.digest)?;
            let mut old = vec![0; usize::try_from(bytes.size()).ok()?];
            bytes.read_at(0, &mut old).ok()?;
            Some(old)
        });
        let old = old.filter(|old| blake3::hash(old).as_bytes() == &digest);
        if old.is_none() && Versions::brief(&digest) == entry.versions.baseline {
            self.fell_back("unreadable");
        }
        old
    }

    /// Some words of a large file; none where it cannot be read, or has next to nothing in those places.
    fn sketch(&self, entry: &Entry) -> Option<Sketch> {
        let file = self.sources.read(&entry.path).ok()?;
        let mut window = vec![0; SKETCH_WINDOW_BYTES];
        let words = sketch_windows(entry.size()).map(|offset| {
            let read = !is_hole(&file, offset, window.len()) && file.read_exact_at(&mut window, offset).is_ok();
            if read { sketch_word(&window) } else { 0 }
        });
        (words.iter().filter(|word| **word != 0).count() >= LEAST_WORDS).then_some(words)
    }

    /// Says of entries which versions of them were kept.
    pub(super) fn announce(&self, entries: &mut [(Entry, Option<FileStat>)]) {
        if !self.uses_versions() {
            return;
        }
        let files = || entries.iter().enumerate().filter(|(_, (entry, _))| entry.size() > 0);
        let (numbers, paths): (Vec<_>, Vec<_>) = files().map(|(n, (entry, _))| (n, self.place(entry))).unzip();
        let kept = self.shared.versions.newest(&self.peer, &self.destination.root, paths);
        let mut announced = self.announced();
        let room = MAX_ANNOUNCED.saturating_sub(announced.len());
        let brief = |kept: &Kept| (Versions::brief(kept.digest.as_bytes()), *kept);
        announced.extend(kept.iter().flatten().take(room).map(brief));
        drop(announced);
        for (number, kept) in numbers.iter().zip(&kept) {
            if let Some((entry, _)) = entries.get_mut(*number) {
                entry.versions.baseline = kept.map_or(0, |kept| Versions::brief(kept.digest.as_bytes()));
            }
        }
        let Some(root) = self.sources.root() else { return };
        let here = numbers.iter().filter_map(|number| {
            let (entry, stat) = entries.get(*number)?;
            Some((*number, (self.sources.place(&entry.path)?.1, (*stat)?)))
        });
        let (numbers, files): (Vec<usize>, Vec<_>) = here.unzip();
        let held = self.shared.versions.held_all(root, &files);
        let renamed = self.shared.versions.renamed(root, &files);
        for ((number, held), renamed) in numbers.into_iter().zip(held).zip(renamed) {
            let Some((entry, _)) = entries.get_mut(number) else { continue };
            let brief = held.map(|held| Versions::brief(held.digest.as_bytes()));
            if brief.is_some_and(|brief| brief == entry.versions.baseline) {
                // One that did not change since costs no bytes: the receiver has it, or describes what it has.
                entry.versions.baseline = 0;
            } else {
                // Of one that was renamed the receiver may have it under its other name.
                entry.versions.root = renamed.map(|digest| *digest.as_bytes());
            }
            let is_new = held.is_none() && renamed.is_none() && entry.versions.baseline == 0;
            if is_new && entry.size() >= SKETCH_FROM_BYTES && !self.options.dry_run {
                entry.versions.sketch = self.sketch(entry);
            }
        }
    }
}
