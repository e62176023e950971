//! What segments of a version know of earlier ones: anchors, in the order of the segments.
//!
//! A segment sees those of segments that are at least [`LAG`] before it, and waits for these. As anchors are added in order and
//! none is ever evicted, what it sees does not depend on what was added since.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, PoisonError, RwLock},
};

use proto_wire::hde::LAG;

use crate::{anchors::Table, read_at::ReadAt, sampling::Rate};

/// The most anchors that are aimed at: 32 MB.
const MAX_ANCHORS: u64 = 2 << 20;
/// This part of a version is allowed for that stands in no basis of its size.
const SHARE: u64 = 4;
/// The densest sampling.
const DENSEST: u32 = 7;

/// The anchors of a version.
#[derive(Debug)]
pub(crate) struct History {
    source: Arc<dyn ReadAt>,
    rate: Rate,
    segment_bytes: u64,
    table: RwLock<Table>,
    order: Mutex<Order>,
    grown: Condvar,
}

/// What is still to be added.
#[derive(Debug, Default)]
struct Order {
    /// The segment whose anchors come next.
    next: u64,
    ahead: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl History {
    /// Of a version whose basis has so many bytes: most of the version is found there, and only the rest comes here.
    pub(crate) fn new(source: Arc<dyn ReadAt>, segment_bytes: u32, basis: u64) -> Self {
        let size = source.size();
        let size = size.min(size.saturating_sub(basis) + size / SHARE);
        let mut rate = DENSEST;
        while size >> rate > MAX_ANCHORS {
            rate += 1;
        }
        let table = RwLock::new(Table::new(size >> rate));
        let segment_bytes = u64::from(segment_bytes);
        Self { source, rate: Rate(rate), segment_bytes, table, order: Mutex::default(), grown: Condvar::new() }
    }

    pub(crate) fn source(&self) -> &dyn ReadAt {
        self.source.as_ref()
    }

    pub(crate) const fn rate(&self) -> Rate {
        self.rate
    }

    /// Waits until all that segment `number` may see is there; up to where it may refer.
    pub(crate) fn wait(&self, number: u64) -> u64 {
        let Some(last) = number.checked_sub(LAG) else { return 0 };
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        while order.next <= last {
            order = self.grown.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        (last + 1).saturating_mul(self.segment_bytes).min(self.source.size())
    }

    /// Adds the anchors of a segment: place in the version, hash. Each segment once, also without any.
    pub(crate) fn add(&self, number: u64, anchors: Vec<(u64, u64)>) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if number < order.next {
            return;
        }
        order.ahead.insert(number, anchors);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            let next = order.next;
            let Some(anchors) = order.ahead.remove(&next) else { break };
            anchors.iter().for_each(|(place, hash)| table.insert(*hash, *place));
            order.next += 1;
        }
        drop(table);
        self.grown.notify_all();
    }

    /// For each of `anchors` the places before `limit` that may be the same.
    pub(crate) fn find(&self, anchors: &[(u32, u64)], limit: u64, found: &mut impl FnMut(usize, u64)) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        for (at, (_, hash)) in anchors.iter().enumerate() {
            table.find(*hash).filter(|place| *place < limit).for_each(|place| found(at, place));
        }
    }
}
