//! What the parts of one receiving transfer share.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use chrono::{DateTime, Utc};
use proto_model::{PublicKey, RootPath, TransferId, TransferOptions};
use proto_wire::{TreePath, frames::ReceiverFrame};
use rustix::fs::Stat;
use tokio::sync::mpsc;

use super::{
    backlog::Backlog,
    dictionaries::Offered,
    files::{Ending, Files, Whole, temporary_name},
    flushes::Flushes,
};
use crate::{
    bit_set::BitSet,
    confine::Folder,
    exclude::Excludes,
    fates::{Fate, Moved},
    file_hash::Division,
    journal::{FileNumber, Journal},
    page_store::PageStore,
    reason::{end, issue},
    service::Shared,
    stop::{Stop, is_full},
    sync::{CHANGED, SyncRun},
    tally::{Tally, add},
};

/// One transfer at its receiver.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) shared: Arc<Shared>,
    pub(super) id: TransferId,
    /// Whose it is.
    pub(super) sender: PublicKey,
    pub(super) options: TransferOptions,
    /// Of which sync it is a run.
    pub(super) run: Option<Arc<SyncRun>>,
    pub(super) excludes: Excludes,
    pub(super) division: Division,
    /// Whether the sender says of entries how many of their bytes are holes.
    pub(super) tells_holes: bool,
    /// Whether both ends may say what they know of versions.
    pub(super) deltas: bool,
    /// Whether the sender can use dictionaries.
    pub(super) is_offered: bool,
    /// Whether small files may lean on dictionaries …
    pub(super) leans: bool,
    /// … and on which.
    pub(super) dictionaries: Mutex<Offered>,
    /// Whether segments may refer to earlier ones of the same file.
    pub(super) takes_history: bool,
    /// Where it is received, as the grant names it.
    pub(super) destination: RootPath,
    /// Until when it may go on.
    pub(super) not_after: DateTime<Utc>,
    /// None only where a dry run has nothing to compare with.
    pub(super) target: Option<Folder>,
    /// The target's file system, where it is promised room.
    pub(super) device: u64,
    pub(super) pages: PageStore,
    pub(super) journal: Mutex<Journal>,
    pub(super) resuming: bool,
    pub(super) files: Mutex<Files>,
    /// What is written and not durable.
    pub(super) backlog: Arc<Backlog>,
    pub(super) flushes: Flushes,
    pub(super) tally: Arc<Tally>,
    /// Bytes promised to this transfer and not yet written.
    pub(super) promised: AtomicU64,
    /// Bytes of wanted files, against the grant's bound.
    pub(super) wanted_bytes: AtomicU64,
    /// What was or should have been promised in all.
    pub(super) missing_bytes: AtomicU64,
    /// To the sender.
    pub(super) frames: mpsc::Sender<ReceiverFrame>,
    /// To whoever puts files in place.
    pub(super) whole: mpsc::Sender<Whole>,
    /// Entries that are not in place, each said once.
    pub(super) left_out: Mutex<BitSet>,
}

impl Receiving {
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dictionaries(&self) -> MutexGuard<'_, Offered> {
        self.dictionaries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk of this host's own folder fails.
    pub(super) fn own(&self, error: &io::Error) -> Stop {
        self.shared.own("receiver", error)
    }

    /// The folder that receives.
    pub(super) fn target(&self) -> io::Result<&Folder> {
        self.target.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The folder that an entry lies in, resolved anew.
    pub(super) fn parent(&self, path: &TreePath) -> io::Result<Folder> {
        self.target()?.folder(path.split().0.unwrap_or_default())
    }

    /// Sends a frame, from a blocking thread.
    pub(super) fn send(&self, frame: ReceiverFrame) -> Result<(), Stop> {
        self.frames.blocking_send(frame).map_err(|_closed| gone())
    }

    /// Does what is left to do, without holding a thread or a decoder while the sender does not read.
    pub(super) async fn follow_up(&self, after: After) -> Result<(), Stop> {
        for whole in after.whole {
            self.whole.send(whole).await.map_err(|_closed| gone())?;
        }
        for frame in after.frames {
            self.frames.send(frame).await.map_err(|_closed| gone())?;
        }
        Ok(())
    }

    /// Whether an entry is not in place, by whichever end's fault.
    pub(super) fn is_left_out(&self, index: u64) -> bool {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).contains(index)
    }

    /// Writes down that an entry is not in place, once, and goes on; but a full disk ends the transfer.
    pub(super) fn leave_out(&self, file: u64, path: &[u8], reason: &str, error: &io::Error) -> Result<(), Stop> {
        if is_full(error) {
            return Err(self.destination_fails(error));
        }
        self.leave_out_because(file, path, reason, error.to_string())
    }

    pub(super) fn leave_out_because(&self, file: u64, path: &[u8], reason: &str, message: String) -> Result<(), Stop> {
        if !self.left_out.lock().unwrap_or_else(PoisonError::into_inner).insert(file) {
            return Ok(());
        }
        self.tally.issue(path, reason, message);
        self.not_made(file, None)?;
        let aborted = {
            let mut files = self.files();
            let aborted = files.abort(file);
            files.done(file);
            aborted
        };
        if let Some((path, number)) = aborted.begun {
            self.remove_temporary(&path, number);
        }
        match (aborted.moved, aborted.early_end) {
            (Some(moved), _) => self.not_made(file, Some(moved)),
            (None, Some(end)) => self.ended_elsewhere(file, end),
            (None, None) => Ok(()),
        }
    }

    /// Writes down how the sender read a file that is not in place here.
    pub(super) fn ended_elsewhere(&self, file: u64, end: Ending) -> Result<(), Stop> {
        let as_told = || -> Result<_, Stop> {
            let entry = self.pages.entry(file).map_err(|error| self.own(&error))?;
            Ok(entry.map(|entry| (entry.size(), entry.mode, entry.mtime)))
        };
        let read = end.changed.map_or_else(as_told, |changed| Ok(Some(changed)))?;
        read.map_or(Ok(()), |(size, mode, mtime)| {
            self.not_made(file, Some(Moved { root: end.root, size, mode, mtime }))
        })
    }

    /// Writes down how the sender knows an entry that is not in place here.
    pub(super) fn not_made(&self, file: u64, moved: Option<Moved>) -> Result<(), Stop> {
        self.pages.set_fate(file, Fate::NotMade(moved)).map_err(|error| self.own(&error))
    }

    /// Removes a temporary file; that it stays is only untidy, and is mended by the next attempt.
    pub(super) fn remove_temporary(&self, path: &TreePath, number: FileNumber) {
        self.remove_temporary_name(path, &temporary_name(self.id, number));
    }

    pub(super) fn remove_temporary_name(&self, path: &TreePath, name: &[u8]) {
        let removed = self.parent(path).and_then(|parent| parent.remove(name));
        if let Err(error) = removed {
            tracing::debug!(transfer = %self.id, %error, "a temporary file stays behind");
        }
    }

    /// Contents were verified and written.
    pub(super) fn verified(&self, bytes: u64, reused: u64) {
        add(&self.tally.bytes_done, bytes);
        add(&self.tally.bytes_reused, reused);
    }

    /// Whether what stands at a path may be replaced or deleted; always, but in a run of a sync.
    pub(super) fn may_replace(&self, path: &[u8], parent: &Folder, name: &[u8], there: &Stat) -> Result<bool, Stop> {
        let Some(run) = &self.run else { return Ok(true) };
        run.may_replace(path, parent, name, there).map_err(|error| self.own(&error))
    }

    /// Leaves an entry out that others changed at the destination of a sync.
    pub(super) fn is_others(&self, file: u64, path: &TreePath) -> Result<(), Stop> {
        self.leave_out_because(file, path.as_bytes(), issue::DESTINATION_CHANGED, CHANGED.to_owned())
    }

    /// Notes what a run of a sync put in place, or left as it was.
    pub(super) fn note_placed(
        &self,
        path: &[u8],
        parent: &Folder,
        name: &[u8],
        digest: Option<[u8; 32]>,
    ) -> Result<(), Stop> {
        let Some(run) = &self.run else { return Ok(()) };
        // One that is gone again is nobody's.
        let Ok(Some(there)) = parent.stat(name) else { return Ok(()) };
        run.placed(path, &there, digest).map_err(|error| self.own(&error))
    }

    /// An issue that says why something could not be written.
    pub(super) fn unwritable(&self, file: u64, path: &TreePath, error: &io::Error) -> Result<(), Stop> {
        self.leave_out(file, path.as_bytes(), issue::UNWRITABLE, error)
    }
}

/// What is left to do once a piece, or a file's end, is taken.
#[derive(Debug, Default)]
pub(super) struct After {
    /// To be put in place.
    pub(super) whole: Vec<Whole>,
    /// To be said to the sender.
    pub(super) frames: Vec<ReceiverFrame>,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.shared.release(self.device, self.promised.load(Relaxed));
    }
}

/// The parts of the attempt are being taken down; whoever sees this is not heard any more.
pub(super) fn gone() -> Stop {
    Stop::temporary(end::SHUTDOWN, "the attempt is over")
}
