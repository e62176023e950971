//! One end of a bench while it runs: sends pieces, takes and drops them, and tells the other end what it sees.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dataplane_amst::{Arrivals, Channel, ControlError, PieceReceiver, PieceSender, Session, SessionInfo};
use foundation_runtime::Clock;
use futures::{StreamExt, stream::FuturesUnordered};
use proto_model::BenchPlan;
use proto_wire::{
    bench::{BenchEnd, BenchFrame, BenchSample},
    frames::Abort,
};
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{HostAdvice, samples::Samples};
use crate::{
    attribution::{Attribution, SenderLook, of_sender},
    link::LinkError,
    reason::end,
    stop::Stop,
};

/// What transfers put into a piece, but for its head.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// How often an end looks and says what it sees.
const LOOK: Duration = Duration::from_millis(100);
/// The same until the first byte has come, with which a receiver's time begins.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// How long what was under way is waited for, after the sender has ended.
const REST: Duration = Duration::from_secs(3);
/// How much longer than data flows all of it may last: a time-out of the session, and what goes before and after.
const GRACE: Duration = Duration::from_secs(15);
/// How long the other end has to take a frame.
const SAY: Duration = Duration::from_secs(5);

/// What an end does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Does {
    pub(super) sends: bool,
    pub(super) receives: bool,
}

/// An end of a bench.
pub(super) struct Conversation {
    pub(super) clock: Clock,
    pub(super) session: Session,
    pub(super) plan: BenchPlan,
    pub(super) does: Does,
    /// Of each piece.
    pub(super) payload: Bytes,
    /// What this host says of itself.
    pub(super) host: HostAdvice,
    pub(super) cancel: CancellationToken,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) ours: Samples,
    pub(super) theirs: Samples,
    pub(super) our_end: BenchEnd,
    pub(super) their_end: BenchEnd,
}

impl Conversation {
    /// Runs until both ends have said their last. `progress` is shown what is known with each look.
    pub(super) async fn run(self, channel: Channel, mut progress: impl FnMut(&Seen) + Send) -> Result<Seen, Stop> {
        let Channel { mut control_tx, mut control_rx, pieces_tx, mut pieces_rx, .. } = channel;
        let begun = self.clock.now();
        let until = begun + Duration::from_secs(self.plan.seconds.into());
        let late = until + GRACE;
        let mut looks = Looks::new(&self, pieces_rx.arrivals(), begun);
        let attribution = Attribution::default();
        let look = || of_sender(&SenderLook { window_full: true, reading: 0, encoding: 0, path: pieces_tx.path_use() });
        let blame = attribution.keep::<()>(&self.clock, look);
        let sending = self.send(&pieces_tx, until);
        let taking = self.take(&mut pieces_rx);
        tokio::pin!(blame, sending, taking);
        let mut seen = Seen::default();
        let mut sent = !self.does.sends;
        let (mut said_end, mut their_end) = (false, None);
        let mut next_look = TokioInstant::from_std(begun);
        loop {
            tokio::select! {
                frame = control_rx.recv() => match heard(frame)? {
                    BenchFrame::Sample(sample) => seen.theirs.add(sample),
                    BenchFrame::End(end) => {
                        seen.their_end = end;
                        their_end = Some(self.clock.now());
                    }
                    BenchFrame::Abort(abort) => return Err(abort.into()),
                    BenchFrame::Opened => return Err(Stop::violation("a bench was opened twice")),
                },
                result = &mut sending, if !sent => {
                    result?;
                    sent = true;
                }
                result = &mut taking, if self.does.receives => return Err(result),
                () = &mut blame, if !sent => {}
                () = self.cancel.cancelled() => {
                    return Err(Stop::final_(end::CANCELLED, "who asked for it went away"));
                }
                () = sleep_until(next_look), if !said_end => {
                    let now = self.clock.now();
                    next_look = TokioInstant::from_std(now + looks.pause());
                    let Some(sample) = looks.look(&self.session.info(), pieces_tx.path_use().lane_busy, now) else { continue };
                    seen.ours.add(sample.clone());
                    said(timeout(SAY, control_tx.send(&BenchFrame::Sample(sample).encode())).await)?;
                    progress(&seen);
                }
                () = sleep_until(TokioInstant::from_std(late)) => {
                    return Err(Stop::temporary(end::STALLED, "the bench did not end in time"));
                }
            }
            let now = self.clock.now();
            let rested = their_end.is_some_and(|at| now.saturating_duration_since(at) >= REST);
            let received = !self.does.receives || looks.is_over(now) || rested;
            if sent && received && !said_end {
                said_end = true;
                // What was sent since the last look.
                if let Some(sample) = looks.look(&self.session.info(), pieces_tx.path_use().lane_busy, now) {
                    seen.ours.add(sample.clone());
                    said(timeout(SAY, control_tx.send(&BenchFrame::Sample(sample).encode())).await)?;
                }
                seen.our_end = self.end(&attribution, &seen.ours);
                said(timeout(SAY, control_tx.send(&BenchFrame::End(seen.our_end.clone()).encode())).await)?;
            }
            if said_end && their_end.is_some() {
                progress(&seen);
                control_tx.finish();
                return Ok(seen);
            }
        }
    }

    fn end(&self, attribution: &Attribution, ours: &Samples) -> BenchEnd {
        let info = self.session.info();
        let moved = ours.last().map_or(0, |sample| sample.bytes_received.max(sample.bytes_sent));
        BenchEnd {
            time_spent: if self.does.sends { attribution.times() } else { proto_model::TimeSpent::default() },
            congestion_algorithm: info.congestion_algorithm.to_owned(),
            limit: info.rate_limit.zip(info.rate_limited_by.map(str::to_owned)),
            host: (self.host)(moved / u64::from(self.plan.seconds.max(1))),
        }
    }

    /// Keeps as many pieces under way as the session sends at once, and two that wait for their turn; or as many as was asked for.
    async fn send(&self, pieces: &PieceSender, until: Instant) -> Result<(), Stop> {
        let mut under_way = FuturesUnordered::new();
        let mut number = 0;
        loop {
            let most = match self.plan.streams {
                Some(streams) => usize::try_from(streams).unwrap_or(usize::MAX),
                None => self.session.info().streams.saturating_add(2),
            };
            while under_way.len() < most {
                under_way.push(pieces.send(number, self.payload.clone()));
                number += 1;
            }
            tokio::select! {
                done = under_way.next() => done.unwrap_or(Ok(())).map_err(LinkError::from)?,
                () = sleep_until(TokioInstant::from_std(until)) => return Ok(()),
            }
        }
    }

    /// Takes pieces, looks that they are what they should be, and drops them; ends only with a reason.
    async fn take(&self, pieces: &mut PieceReceiver) -> Stop {
        loop {
            match pieces.recv().await {
                Some(piece) if piece.payload == self.payload => {}
                Some(piece) => {
                    return Stop::final_(end::CORRUPTED, format!("piece {} is not what was sent", piece.number));
                }
                None => return Stop::from(lost()),
            }
        }
    }
}

fn lost() -> LinkError {
    LinkError { message: "the session with the other end is over".to_owned(), temporary: true }
}

fn heard(frame: Result<Option<Bytes>, ControlError>) -> Result<BenchFrame, Stop> {
    match frame.map_err(LinkError::from)? {
        Some(frame) => Ok(BenchFrame::decode(&frame)?),
        None => Err(Stop::temporary(end::PEER_UNREACHABLE, "the other end stopped the bench")),
    }
}

fn said(sent: Result<Result<(), ControlError>, tokio::time::error::Elapsed>) -> Result<(), Stop> {
    match sent {
        Ok(sent) => Ok(sent.map_err(LinkError::from)?),
        Err(_elapsed) => Err(Stop::temporary(end::STALLED, "the other end does not read what it is told")),
    }
}

/// Makes samples.
struct Looks {
    does: Does,
    seconds: u32,
    arrivals: Arrivals,
    /// Since when time is counted.
    zero: Option<Instant>,
    sent_before: u64,
    lost_before: u64,
    streams: Option<u32>,
}

impl Looks {
    fn new(conversation: &Conversation, arrivals: Arrivals, begun: Instant) -> Self {
        let info = conversation.session.info();
        Self {
            does: conversation.does,
            seconds: conversation.plan.seconds,
            arrivals,
            zero: conversation.does.sends.then_some(begun),
            sent_before: info.bytes_sent,
            lost_before: info.bytes_lost,
            streams: conversation.plan.streams,
        }
    }

    fn pause(&self) -> Duration {
        if self.zero.is_some() { LOOK } else { FIRST_LOOK }
    }

    /// What is seen; nothing before the first byte.
    fn look(&mut self, info: &SessionInfo, busy: f64, now: Instant) -> Option<BenchSample> {
        let received = self.arrivals.bytes();
        if self.zero.is_none() && received == 0 {
            return None;
        }
        let zero = *self.zero.get_or_insert(now);
        let congestion = info.congestion.as_ref();
        let streams = u32::try_from(info.streams).unwrap_or(u32::MAX);
        Some(BenchSample {
            time_ms: u32::try_from(now.saturating_duration_since(zero).as_millis()).unwrap_or(u32::MAX),
            bytes_received: received,
            rtt_us: u64::try_from(info.rtt.as_micros()).unwrap_or(u64::MAX),
            bytes_sent: info.bytes_sent.saturating_sub(self.sent_before),
            bytes_lost: info.bytes_lost.saturating_sub(self.lost_before),
            streams: self.streams.map_or(streams, |asked| asked.min(streams)),
            lanes: u32::try_from(info.lanes).unwrap_or(u32::MAX),
            congestion_window: congestion.map_or(0, |congestion| congestion.window),
            congestion_mode: congestion.map_or_else(String::new, |congestion| congestion.mode.as_str().to_owned()),
            busy,
        })
    }

    /// Whether all that was to be received was looked at.
    fn is_over(&self, now: Instant) -> bool {
        let lasts = Duration::from_secs(self.seconds.into()) + LOOK;
        self.does.receives && self.zero.is_some_and(|zero| now.saturating_duration_since(zero) >= lasts)
    }
}

/// The last word to the other end.
pub(super) fn abort(stop: &Stop) -> Vec<u8> {
    BenchFrame::Abort(Abort::clone(&stop.to_abort())).encode()
}
