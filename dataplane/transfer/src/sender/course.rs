//! What the segments of one reading of a file share: their order, where later ones refer to earlier ones, whether that pays, and what
//! the receiver makes of what it holds.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use dataplane_hde::LAG;
use tokio::sync::Notify;

use super::known::KnownSegment;
use crate::intervals::Intervals;

/// Of so many segments one is also encoded without its history, to see whether that pays.
const TRIAL_EVERY: u64 = 8;
/// Bytes of those by which it is decided.
const TRIALS: u64 = 2;
/// It pays where at least one part in so many is saved: searching takes two to ten times the processor time.
const PAYS: u64 = 33;

/// One reading of a file.
#[derive(Debug)]
pub(super) struct Course {
    /// None where segments refer to nothing of the same file.
    history: Option<Order>,
    known: Mutex<Vec<KnownSegment>>,
}

#[derive(Debug, Default)]
struct Order {
    /// Encoded, or not to be.
    encoded: Mutex<Intervals>,
    more: Notify,
    trials: AtomicU64,
    /// What these came to with and without their history.
    with: AtomicU64,
    without: AtomicU64,
}

impl Course {
    pub(super) fn new(uses_history: bool) -> Self {
        Self { history: uses_history.then(Order::default), known: Mutex::default() }
    }

    /// Waits until all is encoded that a segment may refer to, so that no thread waits for that.
    pub(super) async fn turn(&self, segment: u64) {
        let (Some(order), Some(last)) = (&self.history, segment.checked_sub(LAG)) else { return };
        loop {
            let more = order.more.notified();
            if order.encoded.lock().unwrap_or_else(PoisonError::into_inner).first_missing() > last {
                return;
            }
            more.await;
        }
    }

    /// A segment is encoded, or will not be.
    pub(super) fn is_encoded(&self, segment: u64) {
        if let Some(order) = &self.history {
            order.encoded.lock().unwrap_or_else(PoisonError::into_inner).insert(segment);
            order.more.notify_one();
        }
    }

    /// Whether a segment refers to earlier ones, as far as that has paid.
    pub(super) fn uses_history(&self) -> bool {
        self.history.as_ref().is_some_and(|order| {
            let (with, without) = (order.with.load(Relaxed), order.without.load(Relaxed));
            order.trials.load(Relaxed) < TRIALS || with <= without - without / PAYS
        })
    }

    /// Whether this segment is encoded in both ways.
    pub(super) fn is_trial(&self, segment: u64) -> bool {
        segment >= LAG && segment % TRIAL_EVERY == LAG % TRIAL_EVERY && self.uses_history()
    }

    /// What a segment came to in both ways.
    pub(super) fn tried(&self, with: u64, without: u64) {
        if let Some(order) = &self.history {
            order.with.fetch_add(with, Relaxed);
            order.without.fetch_add(without, Relaxed);
            order.trials.fetch_add(1, Relaxed);
        }
    }

    /// The receiver makes a segment of what it holds; how many are to be told by now.
    pub(super) fn is_known(&self, known: KnownSegment) -> usize {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(known);
        all.len()
    }

    /// What is to be told.
    pub(super) fn take_known(&self) -> Vec<KnownSegment> {
        std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_segment_has_its_turn_when_all_it_may_refer_to_is_encoded() {
        let course = Course::new(true);
        let has_turn = |segment| course.turn(segment).now_or_never().is_some();
        assert!(has_turn(LAG - 1) && !has_turn(LAG));
        course.is_encoded(1);
        assert!(!has_turn(LAG));
        course.is_encoded(0);
        assert!(has_turn(LAG + 1) && !has_turn(LAG + 2));
        assert!(Course::new(false).turn(1 << 20).now_or_never().is_some());
    }

    #[test]
    fn history_that_does_not_pay_is_given_up() {
        let course = Course::new(true);
        assert!(!course.is_trial(LAG - 1) && course.is_trial(LAG) && !course.is_trial(LAG + 1));
        course.tried(1000, 1000);
        assert!(course.uses_history(), "one alone says little");
        course.tried(900, 1000);
        assert!(course.uses_history());
        course.tried(1050, 1000);
        assert!(!course.uses_history() && !course.is_trial(2 * LAG));
    }
}
