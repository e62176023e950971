//! How many lanes a session has: does what the scaler of lanes and the peer want.

use std::sync::{Arc, PoisonError};

use super::{Lane, Session};
use crate::{TransportSettings, endpoint::open_lane, frames::LANES_END, scaler::LaneBounds};

/// Lanes that come and go by themselves, at most: more never paid.
const MOST: u32 = 4;

/// Between what their number moves: fixed, or as many as there are threads.
pub(super) fn bounds(settings: &TransportSettings, sockets: usize, dialled: bool) -> LaneBounds {
    let threads = u32::try_from(sockets).unwrap_or(MOST).clamp(1, MOST);
    match (settings.lanes, dialled) {
        (0, _) => LaneBounds { min: 1, max: threads },
        (lanes, true) => LaneBounds { min: lanes, max: lanes },
        // Who dialled has its own number.
        (_, false) => LaneBounds { min: 1, max: 1 },
    }
}

/// What was wanted of lanes so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// By the peer, where it was dialled.
    by_peer: u32,
    /// That were asked for last: of the peer, or by dialling.
    asked: u32,
    /// Given to the lane that was dialled last.
    last_number: u8,
}

impl Session {
    /// The peer wants so many lanes.
    pub(super) fn peer_wants_lanes(&self, lanes: u32) {
        if self.dialled() {
            self.wanted().by_peer = lanes;
            self.adjust_lanes();
        }
    }

    /// Opens and retires lanes, or asks the peer to.
    pub(crate) fn adjust_lanes(&self) {
        let (own, most) = self.0.scaling.lanes();
        if !self.dialled() {
            let asked = std::mem::replace(&mut self.wanted().asked, own);
            if own != asked.max(1) {
                self.0.outbox.want_lanes(own);
            }
            return;
        }
        let (numbers, spare) = self.plan(own, most);
        for number in numbers {
            open_lane(self, number);
        }
        spare.iter().for_each(|lane| self.retire(lane));
    }

    /// The numbers of lanes to open, and the lanes to retire.
    fn plan(&self, own: u32, most: u32) -> (Vec<u8>, Vec<Arc<Lane>>) {
        let lanes = self.lanes();
        let in_use: Vec<_> = lanes.iter().filter(|lane| !lane.end.is_retiring()).cloned().collect();
        let mut state = self.wanted();
        let wanted = own.max(state.by_peer.min(most)).max(1);
        // Each is dialled once: one that does not come is given up by who wanted it, and asked for later.
        let missing = wanted.saturating_sub(state.asked.max(1));
        state.asked = wanted;
        let mut numbers = Vec::new();
        for _ in 0..missing.min(TransportSettings::MAX_LANES) {
            // Not one that was used just now, whose end the peer may not have seen.
            let taken = |number: u8| number == 0 || lanes.iter().any(|lane| lane.number == number);
            state.last_number = state.last_number.wrapping_add(1);
            while taken(state.last_number) {
                state.last_number = state.last_number.wrapping_add(1);
            }
            numbers.push(state.last_number);
        }
        let ends = self.0.features & LANES_END != 0;
        let keep = usize::try_from(wanted).unwrap_or(usize::MAX);
        let spare = if ends { in_use.into_iter().skip(keep).collect() } else { Vec::new() };
        (numbers, spare)
    }

    /// Whether a lane with this number may join; none that is there already.
    pub(crate) fn may_join(&self, number: u8) -> bool {
        let lanes = self.lanes();
        let most = usize::try_from(TransportSettings::MAX_LANES).unwrap_or(usize::MAX);
        lanes.len() < most && lanes.iter().all(|lane| lane.number != number)
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
