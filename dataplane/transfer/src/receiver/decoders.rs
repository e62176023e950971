//! What decoding takes of this process's memory, whatever peers send and however many: a few decoders that all transfers
//! share, and one budget for the parts of segments that wait for their other parts.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use dataplane_hde::{Decoder, SmallDecoder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::direct::Aligned;
use crate::service::Shared;

/// What decodes one segment at a time: at most two segments of memory.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(super) decoder: Decoder,
    pub(super) small: SmallDecoder,
    pub(super) decoded: Aligned,
}

/// The decoders of a process: twice as many as threads that one transfer may use, so that one whose disk hangs leaves others
/// their share.
#[derive(Debug)]
pub(crate) struct Decoders {
    places: Arc<Semaphore>,
    kept: Mutex<Vec<Worker>>,
}

/// The right to decode one segment.
#[derive(Debug)]
pub(crate) struct DecoderPlace {
    _permit: OwnedSemaphorePermit,
}

/// Threads that one transfer decodes with.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16)
}

impl Default for Decoders {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(2 * threads())), kept: Mutex::default() }
    }
}

impl Decoders {
    /// Waits for a place, in turn with all other transfers.
    pub(super) async fn place(&self) -> Option<DecoderPlace> {
        Arc::clone(&self.places).acquire_owned().await.ok().map(|permit| DecoderPlace { _permit: permit })
    }

    /// Whether as many decode as one transfer has threads.
    pub(super) fn are_busy(&self) -> bool {
        self.places.available_permits() <= threads()
    }

    /// A decoder for whoever has a place.
    pub(super) fn take(&self, _place: &DecoderPlace) -> Worker {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives a decoder back, for the next one.
    pub(super) fn give(&self, worker: Worker) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    /// Gives their memory back to the system where nobody decodes now.
    pub(super) fn rest(&self) {
        if self.places.available_permits() == 2 * threads() {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// A transfer's part of what waits in this process; given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: usize,
    all: Option<Arc<AtomicUsize>>,
}

impl Room {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more. Refused where all transfers together have more than the budget, and this one more than its share of it.
    pub(super) fn grow(&mut self, all: &Arc<AtomicUsize>, more: usize, shared: &Shared) -> bool {
        let budget = usize::try_from(shared.settings.load().receive_budget.bytes()).unwrap_or(usize::MAX);
        let sum = all.fetch_add(more, Relaxed).saturating_add(more);
        if sum > budget && self.bytes + more > budget / shared.running().max(1) {
            all.fetch_sub(more, Relaxed);
            metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.receive_budget").increment(1);
            return false;
        }
        self.bytes += more;
        self.all.get_or_insert_with(|| Arc::clone(all));
        true
    }

    pub(super) fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        if let Some(all) = &self.all {
            all.fetch_sub(less, Relaxed);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
