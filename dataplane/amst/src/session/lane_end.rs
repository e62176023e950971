//! How a lane ends while its session goes on: nothing that it carries is lost, and both ends know it.
//!
//! Who retires a lane puts no new pieces on it, waits until the peer has acknowledged all that it sent, and says so (`RetireLane`). The other end does
//! the same. Who has said it and heard it has received all that will ever come, takes that off the connection, and says so too (`LaneDrained`). Then
//! nothing is left on it, and who dialled closes it with a code of its own, or the other end after a while: a connection that both are done with may end in any way. One that
//! ends before that ends the session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use foundation_runtime::OnEnd;
use tokio::sync::watch;

use super::{Lane, Session};
use crate::{CloseReason, close::Code, frames::SessionFrame};

/// How long the end that was dialled waits for the other one to close a lane of which both are done.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long nothing may come of a session while the peer has yet to say how far it is with the end of a lane: longer than any piece takes.
const SILENCE: Duration = Duration::from_secs(120);

/// How far the end of a lane has come. Each only becomes true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stage {
    /// No new pieces.
    retiring: bool,
    /// The peer sends nothing more on it, and all it sent is here.
    peer_retired: bool,
    /// Every stream that came was taken up.
    accepted: bool,
    /// All that came was read.
    drained: bool,
    peer_drained: bool,
}

/// A lane's way to its end.
#[derive(Debug)]
pub(crate) struct LaneEnd {
    stage: watch::Sender<Stage>,
    /// Pieces that are being read from it.
    receiving: AtomicUsize,
}

/// A piece that is read from a lane, until dropped.
#[derive(Debug)]
pub(super) struct Receiving(Arc<Lane>);

impl LaneEnd {
    pub(super) fn new() -> Self {
        Self { stage: watch::Sender::new(Stage::default()), receiving: AtomicUsize::new(0) }
    }

    /// Whether it takes no new pieces.
    pub(crate) fn is_retiring(&self) -> bool {
        self.stage.borrow().retiring
    }

    /// Whether nothing of ours can be lost with it any more: all that was sent arrived, and all that came was read.
    pub(super) fn is_drained(&self) -> bool {
        self.stage.borrow().drained
    }

    /// Something was sent or read: who waits for the last of it looks again.
    pub(super) fn look_again(&self) {
        if self.is_retiring() {
            self.stage.send_modify(|_same| {});
        }
    }

    /// Resolves once the peer sends nothing more, and all that it sent is here.
    pub(super) async fn peer_retired(&self) {
        self.until(|stage| stage.peer_retired).await;
    }

    /// Every stream was taken up.
    pub(super) fn accepted(&self) {
        self.stage.send_modify(|stage| stage.accepted = true);
    }

    async fn until(&self, met: impl FnMut(&Stage) -> bool) {
        // The sender lives as long as this.
        drop(self.stage.subscribe().wait_for(met).await);
    }
}

impl Receiving {
    /// To be called as its stream is taken up, before anybody may find that all were.
    pub(super) fn begin(lane: &Arc<Lane>) -> Self {
        lane.end.receiving.fetch_add(1, Relaxed);
        Self(Arc::clone(lane))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.end.receiving.fetch_sub(1, Relaxed);
        self.0.end.look_again();
    }
}

impl Session {
    /// Begins to retire a lane, where that has not begun.
    pub(super) fn retire(&self, lane: &Arc<Lane>) {
        // Under the lock by which lanes are picked, so that none is picked later.
        let begun = self.0.with_lanes(|_lanes| {
            lane.end.stage.send_if_modified(|stage| !std::mem::replace(&mut stage.retiring, true))
        });
        if begun {
            let work = end(self.clone(), Arc::clone(lane));
            self.0.shared.tasks.spawn("amst lane end", OnEnd::Expected, work);
        }
    }

    /// The peer sends nothing more on a lane.
    pub(super) fn peer_retires(&self, number: u8) {
        if number == 0 {
            return self.close(CloseReason::Protocol("the first lane was to be retired".to_owned()));
        }
        if let Some(lane) = self.lane(number) {
            lane.end.stage.send_modify(|stage| stage.peer_retired = true);
            self.retire(&lane);
        }
    }

    /// The peer has read all that we sent on a lane.
    pub(super) fn peer_drained(&self, number: u8) {
        if let Some(lane) = self.lane(number) {
            lane.end.stage.send_modify(|stage| stage.peer_drained = true);
        }
    }

    fn lane(&self, number: u8) -> Option<Arc<Lane>> {
        self.lanes().into_iter().find(|lane| lane.number == number)
    }
}

/// Goes the way to the end of a lane, or to that of the session.
async fn end(session: Session, lane: Arc<Lane>) {
    let done = async {
        lane.end.until(|_stage| lane.sending.load(Relaxed) == 0).await;
        session.0.outbox.lane(SessionFrame::RetireLane { lane: lane.number });
        let all_came = |stage: &Stage| stage.peer_retired && stage.accepted && lane.end.receiving.load(Relaxed) == 0;
        answered(&session, lane.end.until(all_came)).await;
        lane.end.stage.send_modify(|stage| stage.drained = true);
        session.0.outbox.lane(SessionFrame::LaneDrained { lane: lane.number });
        tokio::select! {
            () = answered(&session, lane.end.until(|stage| stage.peer_drained)) => {}
            // By the peer, who was done with it; or it is lost, and with it nothing.
            _closed = lane.connection.closed() => return,
        }
        if !session.dialled() {
            // Its driver sees the close first; a dialler that forgets it keeps nobody.
            tokio::select! {
                _closed = lane.connection.closed() => {}
                () = tokio::time::sleep(CLOSE_TIMEOUT) => {}
            }
        }
        lane.connection.close(Code::LaneEnd.into(), Code::LaneEnd.words());
    };
    tokio::select! {
        () = done => {}
        _closed = session.wait_closed() => {}
    }
}

/// Waits for what the peer is to say. Where it says that no more, and nothing else either, the session ends.
async fn answered(session: &Session, answer: impl Future<Output = ()>) {
    let heard =
        || session.lanes().iter().map(|lane| lane.connection.stats().frame_rx.stream).fold(0, u64::wrapping_add);
    let mut answer = std::pin::pin!(answer);
    let mut before = heard();
    while tokio::time::timeout(SILENCE, &mut answer).await.is_err() {
        let now = heard();
        if now == before {
            return session.close(CloseReason::Lost("the peer did not end a lane that it was to".to_owned()));
        }
        before = now;
    }
}
