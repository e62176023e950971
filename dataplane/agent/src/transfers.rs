//! The node's part in every transfer: what it is to send, what arrives, what is to be stopped.
//!
//! Jobs of the control plane become senders; channels that peers open go to the receiver, which asks nobody but the grant.
//! Every end is kept until the control plane stored it. What was begun goes on at the next start, without the control plane.

mod connector;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dataplane_amst::{Endpoint, IncomingChannel};
use dataplane_control_client::{Job, Jobs};
use dataplane_transfer::{
    Benches, Connector, Link, Order, Received, SendAuthority, SendJob, Sent, Transfers, opens_bench,
};
use foundation_listener::limit_hits;
use foundation_runtime::{OnEnd, TaskGroup};
use futures::future::BoxFuture;
use proto_model::{
    DirectRequest, PublicKey, Traceparent, TransferError, TransferId, TransferReport, TransferRole, config::Limits,
};
use proto_wire::sync::OpenSync;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use connector::AmstConnector;
use connector::InTurn;

use crate::{
    apply::count,
    turns::{Turn, Turns},
};

/// How long a peer that opened a channel has to say what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(30);

/// Finds where a peer is, by whatever knows it.
pub(crate) trait Peers: Send + Sync {
    /// The peer's QUIC addresses, the likeliest first; empty where nobody knows any.
    fn addresses(&self, peer: PublicKey) -> BoxFuture<'_, Vec<SocketAddr>>;

    /// The same, asked for anew whatever is remembered: those of before did not answer.
    fn newer_addresses(&self, peer: PublicKey) -> BoxFuture<'_, Vec<SocketAddr>>;
}

/// Tells the control plane how transfers are.
pub(crate) trait Reports: Send + Sync {
    /// How far one is; only the newest matters.
    fn progress(&self, report: TransferReport);

    /// Whether an end of this transfer waits to be stored there: a job that is said again is then an old one.
    fn is_ended(&self, transfer: TransferId, role: TransferRole) -> bool;

    /// How one ended; kept until it is stored there.
    fn end(&self, report: TransferReport) -> BoxFuture<'_, ()>;

    /// What a peer opened here was refused, for this reason.
    fn refused(&self, peer: PublicKey, reason: &str);
}

/// The node's part in all transfers. Clones are the same.
#[derive(Clone)]
pub(crate) struct Movers(Arc<Shared>);

struct Shared {
    transfers: Transfers,
    benches: Benches,
    endpoint: Endpoint,
    connector: Arc<dyn Connector>,
    reports: Arc<dyn Reports>,
    tasks: TaskGroup,
    /// How many may send, and how many may receive, at once.
    sending: Turns,
    receiving: Turns,
    /// How many each peer sends here: at most half of all, so that no peer keeps the others away.
    receiving_from: Mutex<HashMap<PublicKey, usize>>,
    /// Senders that run or wait for their turn. The token withdraws one that waits.
    senders: Mutex<HashMap<TransferId, CancellationToken>>,
    /// What arrives, until its end is reported; twice while one attempt takes over from another.
    receivers: Mutex<Vec<TransferId>>,
}

impl Movers {
    /// Begins to take what peers send, and goes on with what was not finished when this node stopped.
    ///
    /// # Errors
    /// What was not finished cannot be read.
    pub(crate) fn start(
        (transfers, benches): (Transfers, Benches),
        endpoint: Endpoint,
        peers: Arc<dyn Peers>,
        reports: Arc<dyn Reports>,
        limits: &Limits,
        tasks: &TaskGroup,
    ) -> io::Result<Self> {
        let unfinished = transfers.unfinished()?;
        let connector = Arc::new(AmstConnector::new(endpoint.clone(), peers));
        let movers = Self(Arc::new(Shared {
            transfers,
            benches,
            endpoint,
            connector,
            reports,
            tasks: tasks.clone(),
            sending: Turns::new(count(limits.sending_transfers)),
            receiving: Turns::new(count(limits.receiving_transfers)),
            receiving_from: Mutex::default(),
            senders: Mutex::default(),
            receivers: Mutex::default(),
        }));
        let accepting = movers.clone();
        tasks.spawn("accept transfers", OnEnd::Fatal, async move { accepting.accept().await });
        for job in unfinished {
            if let Some(transfer) = job.transfer() {
                tracing::info!(component = "transfer", %transfer, "going on with a transfer that was not finished");
                movers.send(transfer, job);
            }
        }
        Ok(movers)
    }

    /// What the control plane wants moved.
    pub(crate) fn take(&self, jobs: Jobs) {
        if jobs.full {
            let wanted: HashSet<_> = jobs.jobs.iter().map(|job| job.transfer).collect();
            let withdrawn: Vec<_> =
                self.senders().iter().filter(|(id, _)| !wanted.contains(id)).map(|(_, t)| t.clone()).collect();
            // Only those that still wait for their turn hear of it: what has begun goes on by its grant.
            withdrawn.iter().for_each(CancellationToken::cancel);
        }
        for job in jobs.jobs {
            self.take_one(job);
        }
    }

    /// Sends without the control plane. The reports end with the transfer.
    pub(crate) fn send_direct(
        &self,
        request: DirectRequest,
        peer: PublicKey,
        traceparent: Option<Traceparent>,
    ) -> watch::Receiver<TransferReport> {
        let transfer = request.transfer;
        let authority = SendAuthority::Direct { request: Box::new(request), peer };
        self.send(transfer, SendJob { authority, traceparent })
    }

    /// How many may be sent and received at once, from now on.
    pub(crate) fn limit(&self, sending: usize, receiving: usize) {
        self.0.sending.set(sending);
        self.0.receiving.set(receiving);
    }

    /// Transfers that run here, at either end.
    pub(crate) fn running(&self) -> usize {
        self.0.transfers.running()
    }

    fn take_one(&self, job: Job) {
        if self.0.reports.is_ended(job.transfer, job.role) {
            return;
        }
        // A server of the previous version says no order: what this end was told before stands.
        if !job.cancel && job.order != 0 {
            let order = Order { number: job.order, pause: job.pause };
            self.0.transfers.order(job.transfer, job.role, order);
        }
        match (job.role, job.cancel) {
            (role, true) => {
                if !self.0.transfers.cancel(job.transfer, role) {
                    self.say_again(job.transfer, role);
                }
                if let (TransferRole::Sender, Some(token)) = (role, self.senders().get(&job.transfer)) {
                    token.cancel();
                }
                self.0.transfers.forget_order(job.transfer, role);
            }
            (TransferRole::Sender, false) => {
                let authority = SendAuthority::Grant(job.grant);
                let traceparent = Traceparent::from_optional_text(&job.traceparent);
                self.send(job.transfer, SendJob { authority, traceparent });
            }
            // The grant comes with the sender's first frame. What has ended here before was kept from being said by a crash.
            (TransferRole::Receiver, false) => self.say_again(job.transfer, TransferRole::Receiver),
        }
    }

    /// Reports the end that is kept of a transfer, where there is one.
    fn say_again(&self, transfer: TransferId, role: TransferRole) {
        // Who still has it in hand says more of it than what is kept.
        if self.receivers().contains(&transfer) || self.senders().contains_key(&transfer) {
            return;
        }
        let movers = self.clone();
        self.0.tasks.spawn("say an end again", OnEnd::Expected, async move {
            let transfers = movers.0.transfers.clone();
            match movers.0.tasks.blocking("read an end", move || transfers.ended(transfer, role)).await {
                Ok(Ok(Some(report))) if !movers.0.reports.is_ended(transfer, role) => {
                    movers.0.reports.end(report).await
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::warn!(component = "transfer", %transfer, %error, "the end of a transfer cannot be read");
                }
            }
        });
    }

    /// Sends as soon as there is room; a transfer that is sent already is left alone.
    fn send(&self, transfer: TransferId, job: SendJob) -> watch::Receiver<TransferReport> {
        let (reports, watched) = watch::channel(TransferReport::new(transfer, TransferRole::Sender));
        let withdrawn = CancellationToken::new();
        {
            let mut senders = self.senders();
            if senders.contains_key(&transfer) {
                // After a restore the control plane has signed another one.
                if let SendAuthority::Grant(grant) = job.authority {
                    self.0.transfers.renew(transfer, grant);
                }
                return watched;
            }
            senders.insert(transfer, withdrawn.clone());
        }
        let movers = self.clone();
        self.0.tasks.spawn("send a transfer", OnEnd::Expected, async move {
            let place = Place { movers: movers.clone(), transfer };
            movers.send_in_turn(job, reports, &withdrawn).await;
            drop(place);
        });
        watched
    }

    async fn send_in_turn(&self, job: SendJob, reports: watch::Sender<TransferReport>, withdrawn: &CancellationToken) {
        let transfer = reports.borrow().transfer;
        let turn = tokio::select! {
            // One that is held has no place, and goes to where it waits to be resumed.
            biased;
            () = self.0.transfers.until_paused(transfer, TransferRole::Sender) => None,
            turn = self.in_turn() => match turn {
                Some(turn) => Some(turn),
                // It is closed by nobody.
                None => return,
            },
            () = withdrawn.cancelled() => return,
            () = self.0.tasks.cancelled() => return,
        };
        let connector = Arc::new(InTurn::new(Arc::clone(&self.0.connector), self.0.sending.clone(), turn));
        // The control plane knows nothing of a direct send, and is told nothing.
        let direct = matches!(job.authority, SendAuthority::Direct { .. });
        if !direct {
            self.forward(reports.subscribe());
        }
        let give_back = async {
            self.0.transfers.until_paused(transfer, TransferRole::Sender).await;
            connector.give_back();
            std::future::pending().await
        };
        let sent = tokio::select! {
            sent = self.0.transfers.send(job, connector.clone(), reports) => sent,
            never = give_back => never,
        };
        match sent {
            Sent::Ended(report) if !direct => self.0.reports.end(report).await,
            Sent::Ended(_) | Sent::Interrupted(_) => {}
        }
    }

    /// Sends one run of a sync: whoever runs it reports it. None where it was withdrawn before it began.
    pub(crate) async fn send_run(
        &self,
        open: OpenSync,
        reports: watch::Sender<TransferReport>,
        withdrawn: &CancellationToken,
    ) -> Option<Sent> {
        let transfer = reports.borrow().transfer;
        let turn = tokio::select! {
            biased;
            () = self.0.transfers.until_paused(transfer, TransferRole::Sender) => None,
            turn = self.in_turn() => Some(turn?),
            () = withdrawn.cancelled() => return None,
            () = self.0.tasks.cancelled() => return None,
        };
        let connector = Arc::new(InTurn::new(Arc::clone(&self.0.connector), self.0.sending.clone(), turn));
        let give_back = async {
            self.0.transfers.until_paused(transfer, TransferRole::Sender).await;
            connector.give_back();
            std::future::pending().await
        };
        let job = SendJob { authority: SendAuthority::Sync(open), traceparent: own_traceparent() };
        tokio::select! {
            sent = self.0.transfers.send(job, connector.clone(), reports) => Some(sent),
            never = give_back => never,
        }
    }

    /// A turn to send; who has to wait for it is counted.
    async fn in_turn(&self) -> Option<Turn> {
        match self.0.sending.try_next() {
            Some(turn) => Some(turn),
            None => {
                limit_hits::hit("limits.sending_transfers");
                metrics::counter!("dwcp_transfers_deferred_total").increment(1);
                self.0.sending.next().await
            }
        }
    }

    /// Takes channels until the endpoint closes.
    async fn accept(&self) {
        loop {
            let incoming = tokio::select! {
                incoming = self.0.endpoint.next_channel() => incoming,
                () = self.0.tasks.cancelled() => return,
            };
            let Some(incoming) = incoming else { return };
            let turn = self.turn_of(incoming.channel.peer);
            let Some(turn) = turn else {
                // Dropped: the sender finds it abandoned, and comes back later.
                tracing::warn!(component = "transfer", "limits.receiving_transfers is reached; a sender has to wait");
                limit_hits::hit("limits.receiving_transfers");
                metrics::counter!("dwcp_transfers_deferred_total").increment(1);
                continue;
            };
            let movers = self.clone();
            self.0.tasks.spawn("receive a transfer", OnEnd::Expected, async move {
                movers.receive(incoming).await;
                drop(turn);
            });
        }
    }

    /// A place to receive in, until it is dropped.
    fn turn_of(&self, peer: PublicKey) -> Option<Receiving> {
        let turn = self.0.receiving.try_next()?;
        let mut from = self.0.receiving_from.lock().unwrap_or_else(PoisonError::into_inner);
        let count = from.entry(peer).or_default();
        if *count >= self.0.receiving.most().div_ceil(2) {
            return None;
        }
        *count += 1;
        drop(from);
        Some(Receiving { movers: self.clone(), peer, _turn: turn })
    }

    /// Takes the first frame, which says what the channel is for.
    async fn receive(&self, mut incoming: IncomingChannel) {
        let peer = incoming.channel.peer;
        let session = self.0.endpoint.present_session(&peer);
        let first = timeout(FIRST_FRAME, incoming.channel.control_rx.recv()).await;
        let Ok(first) = first else {
            tracing::warn!(component = "transfer", peer = %peer.node_id(), "a peer opened a channel and said nothing");
            return;
        };
        // Without one the receiver finds out by itself what is wrong.
        let first = first.ok().flatten();
        match (first.as_ref().and_then(|first| opens_bench(first)), session) {
            (Some(open), Some(session)) => {
                let served = Box::pin(self.0.benches.serve(incoming.channel, session, open)).await;
                if let Err(refused) = served {
                    self.refused(peer, "a bench was refused", &refused);
                }
            }
            // The session ended meanwhile.
            (Some(_), None) => {}
            (None, session) => self.receive_transfer(peer, Link::of_opened(incoming.channel, session, first)).await,
        }
    }

    fn refused(&self, peer: PublicKey, what: &str, error: &TransferError) {
        let (reason, why) = (&error.reason, &error.message);
        tracing::warn!(component = "transfer", peer = %peer.node_id(), reason, why, "{what}");
        self.0.reports.refused(peer, reason);
    }

    async fn receive_transfer(&self, peer: PublicKey, link: Link) {
        let mut begun = Begun { movers: self.clone(), transfer: None };
        let began = |reports: watch::Receiver<TransferReport>| {
            let transfer = reports.borrow().transfer;
            begun.begin(transfer);
            if !self.0.transfers.is_sync_run(transfer) {
                self.forward(reports);
            }
        };
        let received = self.0.transfers.receive(link, began).await;
        match received {
            // Its sender says how it went.
            Received::Ended(report) | Received::Interrupted(report)
                if self.0.transfers.is_sync_run(report.transfer) => {}
            Received::Ended(report) => {
                self.0.transfers.forget_order(report.transfer, TransferRole::Receiver);
                self.0.reports.end(report).await;
            }
            Received::Interrupted(report) => self.0.reports.progress(report),
            // An operator wants it so; that is no attempt to get in.
            Received::Refused(error) if error.reason == TransferError::PAUSED => {}
            Received::Refused(error) => self.refused(peer, "a transfer was refused", &error),
        }
    }

    /// Passes progress on, until the transfer has ended here.
    fn forward(&self, mut reports: watch::Receiver<TransferReport>) {
        let movers = self.clone();
        self.0.tasks.spawn("report a transfer", OnEnd::Expected, async move {
            while reports.changed().await.is_ok() {
                let report = reports.borrow_and_update().clone();
                // The end goes its own way, which forgets nothing.
                if !report.state.is_end() {
                    movers.0.reports.progress(report);
                }
            }
        });
    }

    fn receivers(&self) -> MutexGuard<'_, Vec<TransferId>> {
        self.0.receivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn senders(&self) -> MutexGuard<'_, HashMap<TransferId, CancellationToken>> {
        self.0.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Movers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Movers").field("running", &self.running()).finish_non_exhaustive()
    }
}

/// The present span, for whoever continues it at the other end.
fn own_traceparent() -> Option<Traceparent> {
    let recorded = foundation_telemetry::propagation::traceparent(&tracing::Span::current());
    recorded.and_then(|text| Traceparent::from_optional_text(&text))
}

/// A receiver's entry, from its beginning until its end is reported.
struct Begun {
    movers: Movers,
    transfer: Option<TransferId>,
}

impl Begun {
    fn begin(&mut self, transfer: TransferId) {
        self.transfer = Some(transfer);
        self.movers.receivers().push(transfer);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut receivers = self.movers.receivers();
        if let Some(at) = self.transfer.and_then(|transfer| receivers.iter().position(|one| *one == transfer)) {
            receivers.swap_remove(at);
        }
    }
}

/// A place to receive in, until it is dropped.
struct Receiving {
    movers: Movers,
    peer: PublicKey,
    _turn: Turn,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut from = self.movers.0.receiving_from.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = from.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                from.remove(&self.peer);
            }
        }
    }
}

/// A sender's entry, until it ends, however it ends.
struct Place {
    movers: Movers,
    transfer: TransferId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut senders = self.movers.senders();
        senders.remove(&self.transfer);
        self.movers.0.transfers.forget_renewal(self.transfer);
        self.movers.0.transfers.forget_order(self.transfer, TransferRole::Sender);
    }
}
