//! How many lines of one kind are written: whoever makes the program say the same thing ten thousand times must not fill its disk,
//! nor hide what others say.
//!
//! A kind is a place in the source, so a flood of one costs no line of another. What is left out is counted, and said.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{Level, Metadata, callsite::Identifier};

/// Lines of one kind in a second, unless told otherwise.
pub(crate) const LINES_PER_SECOND: u32 = 10;

/// Over so long lines are counted, so that a short burst is written whole, and a flood makes one line of a sum in this time.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// Who asks for details gets more of them.
const DETAIL_FACTOR: u32 = 100;

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Write,
    /// It is one of many; the first of them is to be remembered.
    LeaveOut {
        first: bool,
    },
}

/// Lines that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) level: Level,
    pub(crate) component: String,
    /// The first of them.
    pub(crate) like: String,
    pub(crate) count: u64,
}

/// Counts lines by kind.
#[derive(Debug)]
pub(crate) struct Restraint {
    most: AtomicU32,
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    written: u32,
    left_out: LeftOut,
}

impl Restraint {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { most: AtomicU32::new(per_second), kinds: Mutex::default() }
    }

    /// So many lines of one kind in a second from now on.
    pub(crate) fn set(&self, per_second: u32) {
        self.most.store(per_second, Ordering::Relaxed);
    }

    /// Whether a line is written, and the sum that comes before it.
    pub(crate) fn admit(&self, metadata: &Metadata<'_>, now: Instant) -> (Option<LeftOut>, Verdict) {
        let detail = if *metadata.level() > Level::INFO { DETAIL_FACTOR } else { 1 };
        let seconds = u32::try_from(WINDOW.as_secs()).unwrap_or(1);
        let most = self.most.load(Ordering::Relaxed).saturating_mul(seconds).saturating_mul(detail);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(metadata.callsite()).or_insert_with(|| Kind::new(*metadata.level(), now));
        let before = kind.end_window(now);
        if kind.written < most {
            kind.written += 1;
            return (before, Verdict::Write);
        }
        kind.left_out.count += 1;
        metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.log_lines_per_second").increment(1);
        (before, Verdict::LeaveOut { first: kind.left_out.count == 1 })
    }

    /// What the first of the lines said that are left out now.
    pub(crate) fn remember(&self, metadata: &Metadata<'_>, component: &str, message: &str) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = kinds.get_mut(&metadata.callsite()) {
            component.clone_into(&mut kind.left_out.component);
            message.clone_into(&mut kind.left_out.like);
        }
    }

    /// Sums whose time has come, of kinds that may have fallen silent.
    pub(crate) fn due(&self, now: Instant) -> Vec<LeftOut> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.values_mut().filter_map(|kind| kind.end_window(now)).collect()
    }
}

impl Kind {
    fn new(level: Level, since: Instant) -> Self {
        let left_out = LeftOut { level, component: String::new(), like: String::new(), count: 0 };
        Self { since, written: 0, left_out }
    }

    /// Begins anew where the window is over; what was left out in it.
    fn end_window(&mut self, now: Instant) -> Option<LeftOut> {
        if now.saturating_duration_since(self.since) < WINDOW {
            return None;
        }
        let next = Self::new(self.left_out.level, now);
        let ended = std::mem::replace(self, next).left_out;
        (ended.count > 0).then_some(ended)
    }
}

#[cfg(test)]
mod tests {
    use foundation_runtime::Clock;

    use super::*;

    #[test]
    fn what_was_left_out_is_summed_when_its_time_is_over() {
        let begun = Clock::system().now();
        let mut kind = Kind::new(Level::INFO, begun);
        kind.written = 100;
        kind.left_out.count = 9_900;
        kind.left_out.like = "A stranger knocks".to_owned();
        assert_eq!(kind.end_window(begun + WINDOW / 2), None);
        let sum = kind.end_window(begun + WINDOW).unwrap();
        assert_eq!((sum.count, sum.like.as_str()), (9_900, "A stranger knocks"));
        assert_eq!((kind.written, kind.left_out.count), (0, 0));
        assert_eq!(kind.end_window(begun + 2 * WINDOW), None);
    }
}
