//! How many lanes a session has: does what the scaler of lanes and the peer want.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::{Lane, Session};
use crate::{TransportSettings, endpoint::open_lane, frames::LANES_END, scaler::LaneBounds};

/// Lanes that come and go by themselves, at most: more never paid.
const MOST: u32 = 4;

/// Before a lane is dialled again after one that did not come.
const REDIAL: Duration = Duration::from_secs(10);

/// The peer may want more lanes once in such a time: each costs both ends a handshake.
const RISE: Duration = Duration::from_secs(2);

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
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// What the peer said last, where it was dialled.
    said_by_peer: u32,
    /// What of it holds.
    by_peer: u32,
    /// When more of it may hold.
    next_rise: Option<Instant>,
    /// That the peer was asked for last.
    asked: u32,
    /// Lanes that are being dialled.
    dialling: BTreeSet<u8>,
    /// When the next may be dialled, after one that did not come.
    next_dial: Option<Instant>,
    /// Given to the lane that was dialled last.
    last_number: u8,
}

impl Wanted {
    /// Fewer at once, more once in a while.
    fn hear_peer(&mut self, now: Instant) {
        if self.said_by_peer > self.by_peer {
            if self.next_rise.is_some_and(|next| now < next) {
                return;
            }
            self.next_rise = Some(now + RISE);
        }
        self.by_peer = self.said_by_peer;
    }

    /// A number for a lane, where there may be one more.
    fn number(&mut self, lanes: &[Arc<Lane>]) -> Option<u8> {
        let used = |number: u8| self.dialling.contains(&number) || lanes.iter().any(|lane| lane.number == number);
        // One that is added may still be noted as dialled.
        let only_dialled = self.dialling.iter().filter(|number| lanes.iter().all(|lane| lane.number != **number));
        if lanes.len() + only_dialled.count() >= most_lanes() {
            return None;
        }
        // Not one that was used just now, whose end the peer may not have seen.
        let mut others = (0..=u8::MAX).map(|step| self.last_number.wrapping_add(1).wrapping_add(step));
        let number = others.find(|number| *number != 0 && !used(*number))?;
        self.last_number = number;
        self.dialling.insert(number);
        Some(number)
    }
}

fn most_lanes() -> usize {
    usize::try_from(TransportSettings::MAX_LANES).unwrap_or(usize::MAX)
}

/// A lane that is being dialled, until dropped.
#[derive(Debug)]
pub(crate) struct LaneDial {
    session: Session,
    pub(crate) number: u8,
    came: bool,
}

impl LaneDial {
    /// It is one of the session's lanes.
    pub(crate) fn came(mut self) {
        self.came = true;
    }
}

impl Drop for LaneDial {
    fn drop(&mut self) {
        let mut state = self.session.wanted();
        state.dialling.remove(&self.number);
        if !self.came {
            state.next_dial = Some(self.session.0.shared.clock.now() + REDIAL);
        }
    }
}

impl Session {
    /// The peer wants so many lanes.
    pub(super) fn peer_wants_lanes(&self, lanes: u32) {
        if self.dialled() {
            self.wanted().said_by_peer = lanes;
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
            open_lane(LaneDial { session: self.clone(), number, came: false }, self);
        }
        spare.iter().for_each(|lane| self.retire(lane));
    }

    /// The numbers of lanes to open, and the lanes to retire.
    fn plan(&self, own: u32, most: u32) -> (Vec<u8>, Vec<Arc<Lane>>) {
        let now = self.0.shared.clock.now();
        let mut state = self.wanted();
        // After the lock: what is no more noted as dialled is among them.
        let lanes = self.lanes();
        let in_use: Vec<_> = lanes.iter().filter(|lane| !lane.end.is_retiring()).cloned().collect();
        state.hear_peer(now);
        let wanted = own.max(state.by_peer.min(most)).max(1);
        let coming = state.dialling.iter().filter(|number| lanes.iter().all(|lane| lane.number != **number)).count();
        let there = u32::try_from(in_use.len() + coming).unwrap_or(u32::MAX);
        let may_dial = self.closed().is_none() && state.next_dial.is_none_or(|next| now >= next);
        let missing = if may_dial { wanted.saturating_sub(there) } else { 0 };
        let numbers = (0..missing).map_while(|_| state.number(&lanes)).collect();
        let ends = self.0.features & LANES_END != 0;
        let keep = usize::try_from(wanted).unwrap_or(usize::MAX);
        let spare = if ends { in_use.into_iter().skip(keep).collect() } else { Vec::new() };
        (numbers, spare)
    }

    /// Whether a lane with this number may join; none that is there already.
    pub(crate) fn may_join(&self, number: u8) -> bool {
        let lanes = self.lanes();
        lanes.len() < most_lanes() && lanes.iter().all(|lane| lane.number != number)
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
