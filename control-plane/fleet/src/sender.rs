//! Turns an outbox into messages, each made from the newest state at the moment the agent is ready to take it.

use std::{sync::PoisonError, time::Duration};

use control_plane_store::{Error, benches, node_records, syncs, transfers};
use foundation_runtime::Backoff;
use proto_model::{Digest, Generation, NodeId, Revision};
use tokio::sync::mpsc;

use crate::{
    hub::{Across, HeldHead, Hub},
    message::{HeldConfig, Hello, RosterPosition, SyncJob, ToAgent},
    outbox::{Due, Kind},
    session::{Outgoing, Session},
};

/// Jobs in one message: a grant is below 2 KiB but for very many paths, and gRPC's default limit is 4 MiB.
const MAX_JOBS_A_PART: usize = 500;

/// How long a message that needs the database rests after it refused: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How long the answer to a desired configuration is waited for before a newer one is sent all the same: applying one takes a second.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// The connection is gone.
struct Gone;

/// What one agent has been told.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    hub: &'a Hub,
    session: &'a Session,
    out: &'a mpsc::Sender<Outgoing>,
    nonce: u64,
    desired: Option<(Generation, Digest)>,
    /// What the agent said it holds, until it is told its first.
    held: Option<HeldConfig>,
    held_trust: Option<Digest>,
    /// A newer configuration waits for the answer to the one that was sent.
    held_back: bool,
    roster: RosterPosition,
    /// Jobs that changed after this revision are not told yet; none before the first, full list.
    jobs: Option<Revision>,
    /// The last list of benches that it was told had any.
    told_benches: bool,
    /// The syncs that it was told of last; none before the first, which is said even where there are none.
    syncs: Option<Vec<SyncJob>>,
    ring: Option<std::sync::Arc<[String]>>,
    checkpoint_size: u64,
    /// The head that the agent holds, of an earlier epoch.
    checkpoint_of_before: Option<HeldHead>,
    checkpoint_sent: Option<std::sync::Arc<str>>,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(hub: &'a Hub, session: &'a Session, hello: &Hello, out: &'a mpsc::Sender<Outgoing>) -> Self {
        let held = hello.audit_checkpoint.as_deref().and_then(|text| hub.held_head(text));
        Self {
            hub,
            session,
            out,
            nonce: 0,
            desired: None,
            held: hello.held_config,
            held_trust: hello.held_trust,
            held_back: false,
            roster: hello.roster,
            jobs: None,
            // What it runs of an earlier session may have ended meanwhile.
            told_benches: true,
            syncs: None,
            ring: None,
            checkpoint_size: held.filter(|held| !held.is_of_before).map_or(0, |held| held.size),
            checkpoint_of_before: held.filter(|held| held.is_of_before),
            checkpoint_sent: None,
        }
    }

    /// Says welcome and everything the agent should know, then each change; ends when the connection does.
    pub(crate) async fn run(&mut self, remote: String) {
        let welcome = self.hub.welcome(&self.session.name, remote, self.held_trust);
        if self.send(ToAgent::Welcome(Box::new(welcome))).await.is_err() {
            return;
        }
        for kind in [Kind::Roster, Kind::Desired, Kind::Jobs, Kind::Benches, Kind::Syncs, Kind::Ring, Kind::Checkpoint]
        {
            self.session.outbox.mark(kind);
        }
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            while let Some(due) = self.session.outbox.next_due() {
                match self.tell(&due).await {
                    Ok(Ok(())) => backoff.reset(),
                    Ok(Err(Gone)) => return,
                    Err(error) => {
                        error.log(&self.session.name, "Could not read what an agent is to be told");
                        tokio::time::sleep(backoff.next_delay()).await;
                        self.put_back(due);
                    }
                }
            }
            tokio::select! {
                () = self.session.outbox.filled() => {}
                () = self.out.closed() => return,
                () = tokio::time::sleep(ANSWER_PATIENCE), if self.held_back => self.session.outbox.mark(Kind::Desired),
            }
        }
    }

    /// Makes and sends the message of one kind. The outer error is the database's, the inner one the connection's.
    async fn tell(&mut self, due: &Due) -> Result<Result<(), Gone>, Error> {
        Ok(match due {
            Due::Roster => self.tell_roster().await,
            Due::Desired => self.tell_desired().await,
            Due::Jobs => return self.tell_jobs().await,
            Due::Benches => return self.tell_benches().await,
            Due::Syncs => return self.tell_syncs().await,
            Due::Ack(transfer, role) => self.send(ToAgent::TransferAck { transfer: *transfer, role: *role }).await,
            Due::Lookup { request_id, node_ids } => return self.tell_records(*request_id, node_ids).await,
            Due::Ring => self.tell_ring().await,
            Due::Checkpoint => return self.tell_checkpoint().await,
        })
    }

    fn put_back(&self, due: Due) {
        let outbox = &self.session.outbox;
        match due {
            Due::Roster => outbox.mark(Kind::Roster),
            Due::Desired => outbox.mark(Kind::Desired),
            Due::Jobs => outbox.mark(Kind::Jobs),
            Due::Benches => outbox.mark(Kind::Benches),
            Due::Syncs => outbox.mark(Kind::Syncs),
            Due::Ring => outbox.mark(Kind::Ring),
            Due::Checkpoint => outbox.mark(Kind::Checkpoint),
            Due::Ack(transfer, role) => outbox.ack(transfer, role),
            Due::Lookup { request_id, node_ids } => outbox.lookup(request_id, node_ids),
        }
    }

    async fn tell_roster(&mut self) -> Result<(), Gone> {
        let roster = self.hub.view().roster;
        for part in roster.update(self.roster) {
            self.send(part).await?;
        }
        self.roster = roster.position();
        Ok(())
    }

    async fn tell_desired(&mut self) -> Result<(), Gone> {
        let snapshot = self.hub.view().snapshots.of(&self.session.name);
        let wanted = (snapshot.generation, snapshot.digest);
        self.held_back = false;
        if self.desired == Some(wanted) {
            return Ok(());
        }
        // One at a time: an agent that reads nothing costs one, and gets the newest when it reads again.
        let now = self.hub.clock().now();
        let unanswered = self.session.unanswered_since();
        if unanswered.is_some_and(|since| now.saturating_duration_since(since) < ANSWER_PATIENCE) {
            self.held_back = true;
            return Ok(());
        }
        self.desired = Some(wanted);
        self.nonce += 1;
        self.session.send_desired(self.nonce, snapshot.generation, now);
        let nonce = self.nonce;
        // Whoever reconnects costs no more than this, however large its configuration is.
        match self.held.take().filter(|held| (held.generation, held.digest) == wanted) {
            Some(held) => self.send(ToAgent::UnchangedConfig { nonce, held }).await,
            None => self.send(ToAgent::DesiredConfig { nonce, snapshot }).await,
        }
    }

    async fn tell_jobs(&mut self) -> Result<Result<(), Gone>, Error> {
        let full = self.jobs.is_none();
        let found = transfers::jobs(self.hub.db(), self.session.node, self.jobs).await?;
        self.jobs = Some(found.until);
        if found.more {
            self.session.outbox.mark(Kind::Jobs);
        }
        if found.jobs.is_empty() && !full {
            return Ok(Ok(()));
        }
        let mut jobs = found.jobs.into_iter().peekable();
        let mut first = true;
        while first || jobs.peek().is_some() {
            let part = jobs.by_ref().take(MAX_JOBS_A_PART).collect();
            if self.send(ToAgent::TransferJobs { full: full && first, jobs: part }).await.is_err() {
                return Ok(Err(Gone));
            }
            first = false;
        }
        Ok(Ok(()))
    }

    /// All of them, always: they are few, and one that is missing is to be stopped.
    async fn tell_benches(&mut self) -> Result<Result<(), Gone>, Error> {
        let jobs = benches::jobs(self.hub.db(), self.session.node).await?;
        if jobs.is_empty() && !self.told_benches {
            return Ok(Ok(()));
        }
        self.told_benches = !jobs.is_empty();
        Ok(self.send(ToAgent::BenchJobs(jobs)).await)
    }

    /// All of them, always: one that is missing was deleted.
    async fn tell_syncs(&mut self) -> Result<Result<(), Gone>, Error> {
        let jobs = syncs::jobs(self.hub.db(), self.session.node).await?;
        if self.syncs.as_ref() == Some(&jobs) {
            return Ok(Ok(()));
        }
        self.syncs = Some(jobs.clone());
        Ok(self.send(ToAgent::SyncJobs(jobs)).await)
    }

    async fn tell_records(&mut self, request_id: u64, node_ids: &[NodeId]) -> Result<Result<(), Gone>, Error> {
        let records = node_records::get(self.hub.db(), node_ids).await?;
        Ok(self.send(ToAgent::NodeRecords { request_id, records }).await)
    }

    async fn tell_ring(&mut self) -> Result<(), Gone> {
        let ring = self.hub.view().ring;
        if self.ring.as_ref() == Some(&ring) {
            return Ok(());
        }
        self.ring = Some(std::sync::Arc::clone(&ring));
        self.send(ToAgent::DhtRing(ring)).await
    }

    async fn tell_checkpoint(&mut self) -> Result<Result<(), Gone>, Error> {
        let Some(head) = self.hub.view().checkpoint else { return Ok(Ok(())) };
        if self.checkpoint_sent.as_ref() == Some(&head.text) {
            return Ok(Ok(()));
        }
        // Who refused a head still holds the one before: the next proof starts there too.
        let held = self.session.held_head.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match held.and_then(|text| self.hub.held_head(&text)) {
            Some(held) if held.is_of_before => self.checkpoint_of_before = Some(held),
            Some(held) => self.checkpoint_size = held.size,
            None => {}
        }
        let mut restore = None;
        if let Some(held) = self.checkpoint_of_before.take() {
            match self.hub.across_restore(held, &head).await? {
                Across::Whole => self.checkpoint_size = held.size,
                Across::Lost(proof) => (self.checkpoint_size, restore) = (0, Some(proof)),
                Across::Unexplained => self.checkpoint_size = 0,
            }
        }
        let consistency = self.hub.consistency(self.checkpoint_size, &head).await?;
        let from_size = std::mem::replace(&mut self.checkpoint_size, head.size);
        self.checkpoint_sent = Some(std::sync::Arc::clone(&head.text));
        Ok(self.send(ToAgent::AuditCheckpoint { checkpoint: head.text, consistency, from_size, restore }).await)
    }

    async fn send(&self, message: ToAgent) -> Result<(), Gone> {
        self.out.send(Ok(message)).await.map_err(|_closed| Gone)
    }
}
