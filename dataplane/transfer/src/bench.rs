//! A bench: the path between two agents, measured by sessions and pieces like those of a transfer, without files.
//!
//! The node that runs it opens a channel with its right; the other end consents as to a transfer: by a grant of the control plane, or, for
//! a direct one, because a root of its own accepts direct sends of that node. Then both ends do the same, each in its direction: pieces of
//! one buffer are sent, received, compared and dropped, and ten times a second each end tells the other what it sees. What that comes to
//! is [`samples`]. A host takes part in few at once; nothing is kept.

mod advice;
mod conversation;
mod samples;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use dataplane_amst::{Channel, Session};
use proto_model::{
    BenchFlow, BenchGrant, BenchId, BenchPlan, BenchReport, BenchState, PublicKey, Traceparent, TransferError,
};
use proto_wire::{
    Signed,
    bench::{self as wire, BenchAuthority, BenchFrame, BenchOpen},
    frames::SenderFrame,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Transfers,
    amst_link::path_info,
    link::LinkError,
    reason::end,
    receiver::{SKEW, stopping},
    service::Shared,
    stop::Stop,
};
use advice::Known;
use conversation::{Conversation, Does, PIECE_BYTES, Seen};
use samples::Ends;

/// How long the other end has to consent.
const CONSENT: Duration = Duration::from_secs(15);
/// How long the other end has to take the last word.
const LAST_FRAME: Duration = Duration::from_secs(5);
/// Round trips before data flows.
const PINGS: usize = 5;
/// Rights that were used, at most: they are valid for minutes, and one is used at a time.
const MAX_USED: usize = 1024;
const LIMIT: &str = "limits.benches";

/// What this host says of itself as an end that moves so many bytes a second: what of it holds that back, in a sentence; empty where nothing
/// does.
pub type HostAdvice = Arc<dyn Fn(u64) -> String + Send + Sync>;

/// All benches of a host. Clones are the same.
#[derive(Clone)]
pub struct Benches(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    host: HostAdvice,
    most: AtomicUsize,
    running: AtomicUsize,
    /// Rights that were used here, until they end by themselves.
    used: Mutex<HashMap<BenchId, DateTime<Utc>>>,
}

/// By what right a bench is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BenchRight {
    /// A grant, which names the other end.
    Grant(Signed),
    /// Without one.
    Direct {
        /// What is asked for.
        plan: BenchPlan,
        /// The other end.
        peer: PublicKey,
    },
}

/// A right that was checked.
#[derive(Clone, Debug)]
pub struct CheckedBench {
    /// The other end.
    pub peer: PublicKey,
    plan: BenchPlan,
    authority: BenchAuthority,
    traceparent: Option<Traceparent>,
}

/// A place among the benches of a host, until dropped.
#[derive(Debug)]
pub struct BenchPlace(Benches);

/// Whether a first frame opens a bench.
#[must_use]
pub fn opens_bench(frame: &[u8]) -> Option<BenchOpen> {
    match SenderFrame::decode(frame) {
        Ok(SenderFrame::Bench(open)) => Some(*open),
        _ => None,
    }
}

impl Benches {
    /// Those of a host that trusts what its transfers trust; at most so many at once.
    #[must_use]
    pub fn new(transfers: &Transfers, most: usize, host: HostAdvice) -> Self {
        metrics::describe_counter!("dwcp_benches_total", "Benches of which this node was an end, by role and outcome");
        metrics::describe_gauge!("dwcp_benches_active", "Benches of which this node is an end now");
        metrics::gauge!("dwcp_benches_active").set(0);
        Self(Arc::new(Inner {
            shared: Arc::clone(&transfers.0),
            host,
            most: AtomicUsize::new(most),
            running: AtomicUsize::new(0),
            used: Mutex::default(),
        }))
    }

    /// At most so many at once from now on.
    pub fn limit(&self, most: usize) {
        self.0.most.store(most, Relaxed);
    }

    /// Checks the right of a bench that this node is to run.
    ///
    /// # Errors
    /// Why it has none.
    pub fn check(&self, right: BenchRight, traceparent: Option<Traceparent>) -> Result<CheckedBench, TransferError> {
        let checked = match right {
            BenchRight::Grant(signed) => self.opened(&signed).and_then(|grant| {
                if grant.source.key != self.0.shared.key {
                    return Err(invalid("the grant names another node as the source"));
                }
                let (peer, plan) = (grant.destination.key, grant.plan);
                Ok(CheckedBench { peer, plan, authority: BenchAuthority::Grant(signed), traceparent })
            }),
            BenchRight::Direct { plan, peer } => {
                Ok(CheckedBench { peer, plan, authority: BenchAuthority::Direct(plan), traceparent })
            }
        };
        checked.map_err(|stop| stop.to_error())
    }

    /// Runs a bench over a session with its other end; ends at once when cancelled. Reports appear in `reports`, the last one with an end.
    pub async fn run(
        &self,
        bench: CheckedBench,
        session: Session,
        reports: &watch::Sender<BenchReport>,
        max_streams: u32,
        cancel: &CancellationToken,
    ) {
        let ran = tokio::select! {
            ran = self.run_it(bench, session, reports, max_streams, cancel) => ran,
            () = self.0.shared.tasks.cancelled() => Err(stopping()),
        };
        let outcome = match &ran {
            Ok(()) => BenchState::Succeeded,
            Err(stop) if stop.reason == end::CANCELLED => BenchState::Cancelled,
            Err(_) => BenchState::Failed,
        };
        count("source", outcome);
        reports.send_modify(|report| {
            report.state = outcome;
            report.error = ran.err().map(|stop| stop.to_error());
        });
    }

    async fn run_it(
        &self,
        bench: CheckedBench,
        session: Session,
        reports: &watch::Sender<BenchReport>,
        max_streams: u32,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        let _place = self.place()?;
        let base_rtt_ms = tokio::select! {
            base = base_rtt(&session) => base?.as_secs_f64() * 1000.0,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        let mut channel =
            session.open_channel().await.map_err(|error| unreachable(error.to_string(), error.is_temporary()))?;
        let seed = rand::random();
        let opening = BenchOpen { authority: bench.authority, traceparent: bench.traceparent, seed };
        let opening = SenderFrame::Bench(Box::new(opening)).encode();
        channel.control_tx.send(&opening).await.map_err(LinkError::from)?;
        tokio::select! {
            consent = consented(&mut channel) => consent?,
            () = cancel.cancelled() => return Err(cancelled()),
        }
        reports.send_modify(|report| {
            report.state = BenchState::Running;
            report.path = Some(path_info(&session));
        });
        let plan = bench.plan;
        let does =
            Does { sends: plan.direction.has(BenchFlow::Forward), receives: plan.direction.has(BenchFlow::Reverse) };
        let conversation = self.conversation(session, plan, does, &seed, cancel.clone());
        let mut shown = 0;
        let seen = conversation
            .run(channel, |seen| {
                let intervals: Vec<_> = flows(&plan, seen).flat_map(|ends| ends.intervals(false)).collect();
                if intervals.len() > shown {
                    shown = intervals.len();
                    reports.send_modify(|report| report.intervals = intervals);
                }
            })
            .await?;
        reports.send_modify(|report| conclude(report, &plan, &seen, base_rtt_ms, max_streams));
        Ok(())
    }

    /// Takes part in a bench that a peer opened on this channel.
    pub async fn serve(&self, mut channel: Channel, session: Session, open: BenchOpen) -> Result<(), TransferError> {
        let peer = channel.peer;
        let plan = match self.admit(peer, &open.authority) {
            Ok(admitted) => admitted,
            Err(stop) => {
                say_last(channel, &stop).await;
                return Err(stop.to_error());
            }
        };
        let (plan, _place) = plan;
        if let Err(error) = channel.control_tx.send(&BenchFrame::Opened.encode()).await {
            return Err(Stop::from(LinkError::from(error)).to_error());
        }
        tracing::info!(component = "bench", peer = %peer.node_id(), seconds = plan.seconds, "taking part in a bench");
        let does =
            Does { sends: plan.direction.has(BenchFlow::Reverse), receives: plan.direction.has(BenchFlow::Forward) };
        let cancel = self.0.shared.tasks.token().child_token();
        let ran = self.conversation(session, plan, does, &open.seed, cancel).run(channel, |_seen| {}).await;
        count("destination", if ran.is_ok() { BenchState::Succeeded } else { BenchState::Failed });
        if let Err(stop) = ran {
            tracing::info!(component = "bench", peer = %peer.node_id(), reason = %stop, "a bench broke off");
        }
        Ok(())
    }

    fn conversation(
        &self,
        session: Session,
        plan: BenchPlan,
        does: Does,
        seed: &[u8; 32],
        cancel: CancellationToken,
    ) -> Conversation {
        Conversation {
            clock: self.0.shared.clock.clone(),
            session,
            plan,
            does,
            payload: payload(seed),
            host: Arc::clone(&self.0.host),
            cancel,
        }
    }

    /// Whether a peer may do this here, and the place for it.
    fn admit(&self, peer: PublicKey, authority: &BenchAuthority) -> Result<(BenchPlan, BenchPlace), Stop> {
        let shared = &self.0.shared;
        match authority {
            BenchAuthority::Grant(signed) => {
                let grant = self.opened(signed)?;
                if grant.destination.key != shared.key {
                    return Err(invalid("the grant names another node as the destination"));
                }
                if grant.source.key != peer {
                    return Err(invalid("the grant names another node as the source"));
                }
                let place = self.place()?;
                self.use_up(&grant)?;
                Ok((grant.plan, place))
            }
            BenchAuthority::Direct(plan) => {
                let member = shared.trust.membership().by_key(&peer);
                let member = member.ok_or_else(|| Stop::final_(end::NOT_ACCEPTED, "the source is not in the fleet"))?;
                if !shared.roots.load().accept_some(&member) {
                    let message = format!(
                        "no root here accepts direct sends of {}; the host's owner adds it to `accept`, or an operator asks the control plane",
                        member.name
                    );
                    return Err(Stop::final_(end::NOT_ACCEPTED, message));
                }
                Ok((*plan, self.place()?))
            }
        }
    }

    /// The grant, if it is of this fleet's control plane and of now.
    fn opened(&self, signed: &Signed) -> Result<BenchGrant, Stop> {
        let shared = &self.0.shared;
        let bundle = shared.trust.bundle();
        let key = bundle.grant_key.verifying_key();
        let grant = wire::open(key, signed).map_err(|error| invalid(error.to_string()))?;
        if grant.fleet != bundle.fleet {
            return Err(invalid("the grant is of another fleet"));
        }
        if grant.epoch != bundle.epoch {
            let message = format!("the grant is of epoch {}, and this host is in epoch {}", grant.epoch, bundle.epoch);
            return Err(Stop::final_(end::GRANT_OF_OTHER_EPOCH, message));
        }
        let now = shared.clock.utc();
        if now < grant.not_before - SKEW {
            let message = format!("the grant begins at {}; check this host's clock", grant.not_before);
            return Err(Stop::final_(end::GRANT_NOT_YET_VALID, message));
        }
        if !grant.is_valid_at(now, SKEW) {
            let message = format!("the grant ended at {}; ask for the bench again", grant.not_after);
            return Err(Stop::final_(end::GRANT_EXPIRED, message));
        }
        Ok(grant)
    }

    /// A right is good for once: who has stolen it with its key gets nothing more by it.
    fn use_up(&self, grant: &BenchGrant) -> Result<(), Stop> {
        let now = self.0.shared.clock.utc();
        let mut used = self.0.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, until| *until > now);
        if used.contains_key(&grant.bench) {
            return Err(Stop::final_(end::ALREADY_FINISHED, "this bench has run before"));
        }
        if used.len() >= MAX_USED {
            return Err(Stop::temporary(end::BUSY, "too many benches were run here in the last minutes"));
        }
        used.insert(grant.bench, grant.not_after + SKEW);
        Ok(())
    }

    /// A place among those that run here at once.
    fn place(&self) -> Result<BenchPlace, Stop> {
        let most = self.0.most.load(Relaxed);
        let entered = self.0.running.fetch_update(Relaxed, Relaxed, |running| (running < most).then_some(running + 1));
        if entered.is_err() {
            metrics::counter!("dwcp_limit_hits_total", "limit" => LIMIT).increment(1);
            let name = self.0.shared.name_of(&self.0.shared.key);
            return Err(Stop::temporary(
                end::BUSY,
                format!("{name} takes part in {most} at once (limits.benches); try again later"),
            ));
        }
        metrics::gauge!("dwcp_benches_active").increment(1);
        Ok(BenchPlace(self.clone()))
    }
}

impl Drop for BenchPlace {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Relaxed);
        metrics::gauge!("dwcp_benches_active").decrement(1);
    }
}

impl std::fmt::Debug for Benches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Benches").field("running", &self.0.running).finish_non_exhaustive()
    }
}

fn count(role: &'static str, outcome: BenchState) {
    let outcome = match outcome {
        BenchState::Succeeded => "succeeded",
        BenchState::Cancelled => "cancelled",
        BenchState::Pending | BenchState::Running | BenchState::Failed => "failed",
    };
    metrics::counter!("dwcp_benches_total", "role" => role, "outcome" => outcome).increment(1);
}

fn invalid(message: impl Into<String>) -> Stop {
    Stop::final_(end::GRANT_INVALID, message)
}

fn cancelled() -> Stop {
    Stop::final_(end::CANCELLED, "who asked for it went away")
}

fn unreachable(message: String, temporary: bool) -> Stop {
    LinkError { message, temporary }.into()
}

/// What pieces carry: no link compresses it, and both ends make it from the seed.
fn payload(seed: &[u8; 32]) -> Bytes {
    let mut bytes = vec![0; PIECE_BYTES];
    blake3::Hasher::new_keyed(seed).finalize_xof().fill(&mut bytes);
    Bytes::from(bytes)
}

/// The shortest of a few round trips.
async fn base_rtt(session: &Session) -> Result<Duration, Stop> {
    let mut shortest = Duration::MAX;
    for _ in 0..PINGS {
        let rtt = session.ping().await.map_err(|error| unreachable(error.to_string(), true))?;
        shortest = shortest.min(rtt);
    }
    Ok(shortest)
}

async fn consented(channel: &mut Channel) -> Result<(), Stop> {
    let answer = timeout(CONSENT, channel.control_rx.recv()).await;
    let answer = answer.map_err(|_elapsed| Stop::temporary(end::STALLED, "the other end did not answer"))?;
    let answer = answer.map_err(LinkError::from)?;
    let busy = || Stop::temporary(end::BUSY, "the other end has no room for one more sender now, or knows no benches");
    match BenchFrame::decode(&answer.ok_or_else(busy)?) {
        Ok(BenchFrame::Opened) => Ok(()),
        Ok(BenchFrame::Abort(abort)) => Err(abort.into()),
        Ok(BenchFrame::Sample(_) | BenchFrame::End(_)) => Err(Stop::violation("no consent came")),
        // An older agent answers with its own kind of frame.
        Err(_other) => Err(Stop::final_(end::PROTOCOL_VIOLATION, "the other end's version knows no benches")),
    }
}

/// The flows of a bench, as the source sees them.
fn flows<'a>(plan: &'a BenchPlan, seen: &'a Seen) -> impl Iterator<Item = Ends<'a>> {
    let flows = [(BenchFlow::Forward, &seen.ours, &seen.theirs), (BenchFlow::Reverse, &seen.theirs, &seen.ours)];
    let present = flows.into_iter().filter(|(flow, ..)| plan.direction.has(*flow));
    present.map(|(flow, sender, receiver)| Ends { flow, sender, receiver, seconds: plan.seconds })
}

fn conclude(report: &mut BenchReport, plan: &BenchPlan, seen: &Seen, base_rtt_ms: f64, max_streams: u32) {
    report.intervals = flows(plan, seen).flat_map(|ends| ends.intervals(true)).collect();
    report.results = flows(plan, seen)
        .map(|ends| {
            let (sender, receiver) = match ends.flow {
                BenchFlow::Forward => (&seen.our_end, &seen.their_end),
                BenchFlow::Reverse => (&seen.their_end, &seen.our_end),
            };
            let mut result = ends.result(base_rtt_ms, sender);
            let hosts = [sender.host.as_str(), receiver.host.as_str()];
            result.advice = advice::advice(&result, Known { plan, max_streams, hosts });
            result
        })
        .collect();
}

/// Refuses, and waits until the other end has heard it.
async fn say_last(mut channel: Channel, stop: &Stop) {
    let say = async {
        if channel.control_tx.send(&conversation::abort(stop)).await.is_ok() {
            while let Ok(Some(_)) = channel.control_rx.recv().await {}
        }
    };
    // A peer that does not close has the frame, or is gone.
    let _closed = timeout(LAST_FRAME, say).await;
}
