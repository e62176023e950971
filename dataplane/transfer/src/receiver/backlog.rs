//! What is written and not yet durable: a crash of this host costs no more than this, and what is under way.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::Notify;

use super::{files::temporary_name, publish::SYNC_EACH_BELOW, state::Receiving};
use crate::{confine::Folder, stop::Stop};

/// So many bytes of unfinished files are made durable and written down at once, without waiting for the next turn.
const KEEP_BYTES: u64 = 4 << 20;
/// With so many bytes that are not durable nothing more is taken, where the network is faster than the disk: a tenth of a second of a
/// slow one, so that it never has to wait long for work.
const MAX_BYTES: u64 = 16 << 20;

/// Counts what is not durable. Changed under the lock of the files.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Of files that are not whole: the journal is to hold it.
    unfinished: AtomicU64,
    /// Of these, of files that wait to be put in place, and of what is being made durable.
    bytes: AtomicU64,
    due: Notify,
    freed: Notify,
}

impl Backlog {
    /// So many bytes more of a file that is not whole.
    pub(super) fn written(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        if self.unfinished.fetch_add(bytes, Relaxed) + bytes >= KEEP_BYTES {
            self.due.notify_one();
        }
    }

    /// So many bytes of a file that came whole.
    pub(super) fn came_whole(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// So many bytes are of an unfinished file no more.
    pub(super) fn not_unfinished(&self, bytes: u64) {
        self.unfinished.fetch_sub(bytes, Relaxed);
    }

    /// So many bytes are durable, or given up.
    pub(super) fn settled(&self, bytes: u64) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Relaxed);
            self.freed.notify_one();
        }
    }

    /// Waits until it is worth while to keep the journal.
    pub(super) async fn is_due(&self) {
        while self.unfinished.load(Relaxed) < KEEP_BYTES {
            self.due.notified().await;
        }
    }

    /// Whether more may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.load(Relaxed) < MAX_BYTES
    }

    /// Waits until something was settled.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// Makes what was written durable, then writes down that it is held.
pub(super) fn keep_journal(receiving: &Receiving, of_all: bool) -> Result<(), Stop> {
    let mut dirty = receiving.files().take_dirty(of_all);
    if dirty.is_empty() {
        return Ok(());
    }
    let bytes = dirty.iter().map(|dirty| dirty.bytes).sum();
    let failed = |error: &io::Error| receiving.destination_fails(error);
    if dirty.len() < SYNC_EACH_BELOW {
        let mut held = Vec::with_capacity(dirty.len());
        for dirty in dirty {
            let name = temporary_name(receiving.id, dirty.number);
            // One that is in place by now, or was given up, is not held.
            let Ok(file) = receiving.parent(&dirty.path).and_then(|parent| parent.write(&name)) else { continue };
            receiving.flushes.of(&name, || file.sync_data()).map_err(|error| failed(&error))?;
            held.push(dirty);
        }
        dirty = held;
    } else {
        let names = dirty.iter().map(|dirty| temporary_name(receiving.id, dirty.number));
        let flush = || receiving.target().and_then(Folder::sync_file_system);
        receiving.flushes.of_all(names, flush).map_err(|error| failed(&error))?;
    }
    let own = |error: &io::Error| receiving.own(error);
    for dirty in dirty {
        receiving.journal().segments(dirty.number, &dirty.segments).map_err(|error| own(&error))?;
    }
    // Whoever begins a file does not wait for the disk.
    let journal = receiving.journal().file();
    journal.sync_data().map_err(|error| own(&error))?;
    receiving.backlog.settled(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_journal_is_due_by_bytes_and_nothing_more_is_taken_while_the_disk_is_behind() {
        let backlog = Backlog::default();
        backlog.written(KEEP_BYTES - 1);
        assert!(backlog.is_due().now_or_never().is_none());
        backlog.came_whole(KEEP_BYTES);
        assert!(backlog.is_due().now_or_never().is_none(), "what came whole is put in place instead");
        backlog.written(1);
        assert!(backlog.is_due().now_or_never().is_some());
        backlog.not_unfinished(KEEP_BYTES);
        assert!(backlog.is_due().now_or_never().is_none());

        backlog.written(MAX_BYTES - 2 * KEEP_BYTES - 1);
        assert!(backlog.has_room() && backlog.freed().now_or_never().is_none());
        backlog.came_whole(1);
        assert!(!backlog.has_room());
        backlog.settled(KEEP_BYTES);
        assert!(backlog.has_room() && backlog.freed().now_or_never().is_some());
    }
}
