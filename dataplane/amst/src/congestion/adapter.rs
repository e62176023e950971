//! Where quinn's `congestion::Controller` meets the core: the only file of the congestion control that names the library.
//!
//! quinn asks its factory for a controller per connection, before anybody knows what session the connection will belong to. So each
//! begins with a core of its own, and [`join`] moves it to that of its session's first lane. A controller that is cloned, as
//! quinn does when a peer moves, is the same lane.

use std::{
    any::Any,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use proto_model::config::CongestionAlgorithm;
use quinn::{
    Connection,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};
use quinn_proto::RttEstimator;

use super::{Acked, Core, LaneId, Lost, Snapshot};

/// Makes controllers that run one algorithm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factory(pub(crate) CongestionAlgorithm);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mut core = Core::new(self.0, now, current_mtu);
        let lane = core.join();
        let flow = Flow::new(core, now);
        Box::new(LaneController { lane: Arc::new(Lane(Mutex::new(Place { flow, lane }))), acked: Vec::new() })
    }
}

/// What governs a connection now; none if it is not one of ours.
pub(crate) fn snapshot(connection: &Connection) -> Option<Snapshot> {
    let flow = Arc::clone(&lane_of(connection)?.place().flow);
    Some(flow.core().snapshot())
}

/// Makes a connection a lane of the flow that another one belongs to. Again and again: a connection whose peer moved has a new
/// controller.
pub(crate) fn join(connection: &Connection, first: &Connection) {
    let (Some(lane), Some(first)) = (lane_of(connection), lane_of(first)) else { return };
    if Arc::ptr_eq(&lane, &first) {
        return;
    }
    let flow = Arc::clone(&first.place().flow);
    let mut place = lane.place();
    if !Arc::ptr_eq(&place.flow, &flow) {
        place.leave();
        let lane = flow.core().join();
        *place = Place { flow, lane };
    }
}

fn lane_of(connection: &Connection) -> Option<Arc<Lane>> {
    let controller = connection.congestion_state().into_any().downcast::<LaneController>().ok()?;
    Some(Arc::clone(&controller.lane))
}

/// One core, and each lane's share of its window, which is read for every packet.
#[derive(Debug)]
struct Flow {
    core: Mutex<Core>,
    share: AtomicU64,
}

impl Flow {
    fn new(core: Core, now: Instant) -> Arc<Self> {
        let share = AtomicU64::new(core.share(now));
        Arc::new(Self { core: Mutex::new(core), share })
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, now: Instant, what: impl FnOnce(&mut Core)) {
        let mut core = self.core();
        what(&mut core);
        self.share.store(core.share(now), Ordering::Relaxed);
    }
}

/// A connection's place in a flow.
#[derive(Debug)]
struct Place {
    flow: Arc<Flow>,
    lane: LaneId,
}

impl Place {
    fn leave(&self) {
        self.flow.core().leave(self.lane);
    }
}

#[derive(Debug)]
struct Lane(Mutex<Place>);

impl Lane {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.place().leave();
    }
}

/// quinn's view of a lane.
#[derive(Debug)]
struct LaneController {
    lane: Arc<Lane>,
    /// Of the acknowledgment that is being taken.
    acked: Vec<Acked>,
}

impl LaneController {
    fn tell(&self, now: Instant, what: impl FnOnce(&mut Core, LaneId)) {
        let place = self.lane.place();
        let lane = place.lane;
        place.flow.tell(now, |core| what(core, lane));
    }
}

impl Controller for LaneController {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.tell(now, |core, lane| core.sent(lane, now, bytes));
    }

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        match self.acked.last_mut().filter(|last| last.sent == sent) {
            Some(last) => last.bytes = last.bytes.saturating_add(bytes),
            None => self.acked.push(Acked { sent, bytes }),
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.tell(now, |core, lane| core.acked(lane, now, &self.acked, in_flight, app_limited));
        self.acked.clear();
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.tell(now, |core, lane| core.lost(lane, now, &Lost { sent, bytes: lost_bytes, persistent }));
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.lane.place().flow.core().set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.lane.place().flow.share.load(Ordering::Relaxed)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { lane: Arc::clone(&self.lane), acked: Vec::new() })
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
