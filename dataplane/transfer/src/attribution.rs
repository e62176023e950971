//! What holds an end of a transfer up: looked at ten times a second, and added up by cause. Pure but for the loop.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use dataplane_amst::PathUse;
use foundation_runtime::Clock;
use proto_model::{Bottleneck, TimeSpent};

/// How often.
const LOOK: Duration = Duration::from_millis(100);
/// A look that comes later than this is not counted as longer: the host stood still.
const MOST: Duration = Duration::from_secs(1);
/// From here on the path is full.
const FULL: f64 = 0.7;
/// From here on a thread is busy all the time.
const BUSY: f64 = 0.9;
/// From here on losses are what a path loses, and not what probing it costs.
const LOSS: f64 = 0.005;

/// What a sender does at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SenderLook {
    /// As much is under way as may be.
    pub(crate) window_full: bool,
    /// Threads that read the source, and that hash and encode.
    pub(crate) reading: usize,
    pub(crate) encoding: usize,
    pub(crate) path: PathUse,
}

/// What holds a sender up.
pub(crate) fn of_sender(look: &SenderLook) -> Bottleneck {
    let SenderLook { path, .. } = look;
    if path.waits_for_rate {
        return Bottleneck::BandwidthLimit;
    }
    if look.window_full || path.waits_for_credit {
        return match path {
            PathUse { lane_busy, .. } if *lane_busy > BUSY => Bottleneck::SenderCpu,
            PathUse { lost, window_used, .. } if *window_used > FULL && *lost > LOSS => Bottleneck::PathLoss,
            PathUse { window_used, .. } if *window_used > FULL => Bottleneck::CongestionWindow,
            PathUse { waits_for_credit: true, .. } => Bottleneck::ReceiverWindow,
            _ => Bottleneck::CongestionWindow,
        };
    }
    match (look.reading, look.encoding) {
        (0, 0) => Bottleneck::Application,
        (reading, encoding) if reading >= encoding => Bottleneck::SourceDisk,
        _ => Bottleneck::Encode,
    }
}

/// What a receiver does at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiverLook {
    /// More is written than the disk has taken.
    pub(crate) disk_is_behind: bool,
    /// All threads that decode are at work.
    pub(crate) decoders_busy: bool,
}

/// What holds a receiver up.
pub(crate) fn of_receiver(look: &ReceiverLook) -> Bottleneck {
    match look {
        ReceiverLook { disk_is_behind: true, .. } => Bottleneck::ReceiverDisk,
        ReceiverLook { decoders_busy: true, .. } => Bottleneck::ReceiverCpu,
        _ => Bottleneck::Peer,
    }
}

/// Sums of an end.
#[derive(Debug, Default)]
pub(crate) struct Attribution(Mutex<TimeSpent>);

impl Attribution {
    /// The sums so far.
    pub(crate) fn times(&self) -> TimeSpent {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks, and adds up, for as long as it is polled.
    pub(crate) async fn keep<T>(&self, clock: &Clock, mut look: impl FnMut() -> Bottleneck) -> T {
        let mut before = clock.now();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = clock.now();
            let passed = now.saturating_duration_since(before).min(MOST);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).add(look(), passed);
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_that_cannot_keep_up_is_to_blame() {
        let idle = SenderLook::default();
        assert_eq!(of_sender(&idle), Bottleneck::Application);
        assert_eq!(of_sender(&SenderLook { reading: 3, encoding: 1, ..idle }), Bottleneck::SourceDisk);
        assert_eq!(of_sender(&SenderLook { reading: 1, encoding: 3, ..idle }), Bottleneck::Encode);
        let full = SenderLook { window_full: true, reading: 1, ..idle };
        let path = |path| of_sender(&SenderLook { path, ..full });
        let used = PathUse { window_used: 0.95, ..PathUse::default() };
        assert_eq!(path(used), Bottleneck::CongestionWindow);
        assert_eq!(path(PathUse { lost: 0.01, ..used }), Bottleneck::PathLoss);
        assert_eq!(path(PathUse { lane_busy: 0.97, ..used }), Bottleneck::SenderCpu);
        let credit = PathUse { waits_for_credit: true, ..PathUse::default() };
        assert_eq!(path(credit), Bottleneck::ReceiverWindow);
        assert_eq!(path(PathUse { waits_for_credit: true, ..used }), Bottleneck::CongestionWindow, "it grants enough");
        assert_eq!(path(PathUse { waits_for_rate: true, ..credit }), Bottleneck::BandwidthLimit);
    }

    #[test]
    fn a_receiver_is_held_up_by_its_disk_its_processor_or_the_sender() {
        let look = |disk_is_behind, decoders_busy| of_receiver(&ReceiverLook { disk_is_behind, decoders_busy });
        assert_eq!(look(true, true), Bottleneck::ReceiverDisk);
        assert_eq!(look(false, true), Bottleneck::ReceiverCpu);
        assert_eq!(look(false, false), Bottleneck::Peer);
    }
}
