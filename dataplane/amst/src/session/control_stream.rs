//! The session's own stream: credit, pings, and what channels are no more wanted. Whoever reads it never waits for anybody,
//! so credit cannot be stuck behind something.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Notify,
};

use super::Session;
use crate::{
    CloseReason,
    frames::{MAX_FRAME, Malformed, SessionFrame},
};

/// Above channels, which are above pieces.
const PRIORITY: i32 = 2;

/// Pongs that wait to be written, at most; a peer that asks faster than it reads loses the oldest.
const MAX_PONGS: usize = 64;

/// Channels that ended and whose end the peer does not take note of, at most: whoever opens one after another and reads nothing
/// is cut off.
const MAX_NOT_WANTED: usize = 4096;

/// What waits to be said of lanes, at most: two frames for each that ends.
const MAX_LANE_FRAMES: usize = 64;

/// What waits to be written. Of credit only the newest counts, so this is bounded by the number of channels.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    credit: BTreeMap<u64, u64>,
    /// See [`MAX_NOT_WANTED`].
    not_wanted: Vec<u64>,
    pings: VecDeque<u64>,
    pongs: VecDeque<u64>,
    /// Of lanes over TCP that are over: pieces that were taken.
    lanes_over: BTreeMap<u8, u64>,
    want_lanes: Option<u32>,
    /// See [`MAX_LANE_FRAMES`].
    lanes: Vec<SessionFrame>,
    closed: bool,
}

impl Outbox {
    pub(super) fn credit(&self, channel: u64, total: u64) {
        self.put(|waiting| {
            // Grants of two readers may arrive in the wrong order; the sum only grows.
            let newest = waiting.credit.entry(channel).or_default();
            *newest = total.max(*newest);
        });
    }

    /// False where the peer has not read for so long that there is no room for it.
    pub(super) fn not_wanted(&self, channel: u64) -> bool {
        let mut room = true;
        self.put(|waiting| {
            waiting.credit.remove(&channel);
            room = waiting.not_wanted.len() < MAX_NOT_WANTED;
            if room {
                waiting.not_wanted.push(channel);
            }
        });
        room
    }

    pub(super) fn ping(&self, number: u64) {
        self.put(|waiting| waiting.pings.push_back(number));
    }

    pub(super) fn lane_over(&self, lane: u8, taken: u64) {
        self.put(|waiting| {
            // Of one that was said to be over before it was asked for, what was said first.
            waiting.lanes_over.entry(lane).or_insert(taken);
        });
    }

    fn pong(&self, number: u64) {
        self.put(|waiting| {
            if waiting.pongs.len() == MAX_PONGS {
                waiting.pongs.pop_front();
            }
            waiting.pongs.push_back(number);
        });
    }

    pub(super) fn want_lanes(&self, lanes: u32) {
        self.put(|waiting| waiting.want_lanes = Some(lanes));
    }

    /// What is said of a lane's end. Lost where the peer reads nothing while lanes come and go: then it knows of none of them.
    pub(super) fn lane(&self, frame: SessionFrame) {
        self.put(|waiting| {
            if waiting.lanes.len() < MAX_LANE_FRAMES {
                waiting.lanes.push(frame);
            }
        });
    }

    pub(super) fn close(&self) {
        self.put(|waiting| waiting.closed = true);
    }

    fn put(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.lock());
        self.bell.notify_one();
    }

    /// All that waits; none once closed.
    fn take(&self) -> Option<Vec<Bytes>> {
        let waiting = std::mem::take(&mut *self.lock());
        if waiting.closed {
            self.lock().closed = true;
            return None;
        }
        let credit = waiting.credit.into_iter().map(|(channel, total)| SessionFrame::Credit { channel, total });
        let not_wanted = waiting.not_wanted.into_iter().map(|channel| SessionFrame::NotWanted { channel });
        let pings = waiting.pings.into_iter().map(SessionFrame::Ping);
        let pongs = waiting.pongs.into_iter().map(SessionFrame::Pong);
        let over = waiting.lanes_over.into_iter().map(|(lane, taken)| SessionFrame::LaneOver { lane, taken });
        let lanes = waiting.want_lanes.map(SessionFrame::WantLanes).into_iter().chain(waiting.lanes);
        let frames = credit.chain(not_wanted).chain(pings).chain(pongs).chain(over).chain(lanes);
        Some(frames.map(|frame| frame.encode()).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what waits, until the session ends.
pub(super) async fn write(session: Session, mut stream: SendStream) {
    if stream.set_priority(PRIORITY).is_err() {
        return;
    }
    while let Some(mut frames) = session.0.outbox.take() {
        if frames.is_empty() {
            session.0.outbox.bell.notified().await;
        } else if stream.write_all_chunks(&mut frames).await.is_err() {
            // The connection's end says more.
            return;
        }
    }
}

/// Obeys what the peer says, until the session ends.
pub(super) async fn read(session: Session, mut stream: RecvStream) {
    loop {
        match read_frame(&mut stream).await.and_then(|frame| Ok(SessionFrame::decode(&frame)?)) {
            Ok(SessionFrame::Credit { channel, total }) => session.with_channel(channel, |state| state.credit(total)),
            Ok(SessionFrame::NotWanted { channel }) => session.with_channel(channel, |state| state.not_wanted()),
            Ok(SessionFrame::Ping(number)) => session.0.outbox.pong(number),
            Ok(SessionFrame::Pong(number)) => session.0.pings.answered(number),
            Ok(SessionFrame::LaneOver { lane, taken }) => session.tcp_lane_over(lane, taken),
            Ok(SessionFrame::WantLanes(lanes)) => session.peer_wants_lanes(lanes),
            Ok(SessionFrame::RetireLane { lane }) => session.peer_retires(lane),
            Ok(SessionFrame::LaneDrained { lane }) => session.peer_drained(lane),
            Ok(SessionFrame::Unknown) => {}
            Err(FrameError::Malformed(error)) => return session.close(CloseReason::Protocol(error.to_string())),
            // The stream lives as long as the session: the connection's end gives the reason.
            Err(FrameError::Ended) => return,
        }
    }
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream or its connection ended.
    #[error("the stream ended")]
    Ended,
    /// The peer sent something else.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Reads a frame with its length as u16.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, FrameError> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.map_err(|_ended| FrameError::Ended)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > MAX_FRAME {
        return Err(Malformed.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.map_err(|_ended| FrameError::Ended)?;
    Ok(frame)
}
