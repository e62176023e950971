//! Keeps a session with the control plane standing, and nothing that depends on one waiting.
//!
//! One task dials, speaks and dials again: several endpoints in turn, with full jitter, later when the control plane says
//! so. What is to be said waits in [`Outgoing`](crate::outgoing), what must not be lost in the outbox on disk.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use dataplane_identity::{Identity, RosterUpdate, TrustStoreError};
use foundation_merkle::VerifierKey;
use foundation_runtime::{Backoff, Clock, OnEnd, TaskGroup};
use proto_model::TrustBundle;
use proto_rpc::agent as rpc;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use crate::{
    endpoint::{Endpoint, Rotation},
    enrolment::{Enrolment, EnrolmentError},
    handle::{Connection, Handle, Introduction, Shared},
    incoming::{Desired, Jobs},
    outbox::Outbox,
    outgoing::Outgoing,
    renew,
    session::{Ended, Session, chain},
    witness::{Witness, WitnessError},
};

/// The first wait after a failure; with full jitter, so that a fleet does not come back at once.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait after failures: 10,000 agents then come back at over a thousand a second, which sheds load by `ComeBack`,
/// and nobody looks at an offline host for long.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A session that stood so long was a good one: its end is not held against the endpoint.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// At most so long is waited when the control plane asks to come back later.
const LONGEST_COME_BACK: Duration = Duration::from_secs(600);
/// Revocations in one message (agent.proto); the rest is told when these are in the roster.
const MAX_REPLAYED: usize = 500;
/// Jobs wait for the agent in so many messages; it takes them at once.
const JOBS_QUEUE: usize = 16;

/// What the session needs.
#[derive(Debug)]
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// The node's place in the fleet.
    pub enrolment: Enrolment,
    /// Key, certificate, what is trusted, who is in the fleet.
    pub identity: Identity,
    /// How the agent introduces itself.
    pub introduction: watch::Receiver<Introduction>,
}

/// Why the session cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What an earlier run left cannot be read.
    #[error("cannot read what is kept of the session with the control plane: {0}")]
    Io(#[from] io::Error),
}

/// Starts the session's task in `tasks`. The receiver gives the jobs; it must be read.
///
/// # Errors
/// What an earlier run left on disk cannot be read.
pub fn start(options: Options, clock: Clock, tasks: &TaskGroup) -> Result<(Handle, mpsc::Receiver<Jobs>), StartError> {
    let connection = Connection { name: Some(options.enrolment.name.clone()), ..Connection::default() };
    let handle = Handle(Arc::new(Shared {
        outgoing: Outgoing::default(),
        outbox: Mutex::new(Outbox::open(&options.dir)?),
        desired: watch::Sender::new(None),
        ring: watch::Sender::new(Vec::new()),
        benches: watch::Sender::new(Vec::new()),
        syncs: watch::Sender::new(None),
        connection: watch::Sender::new(connection),
        questions: Mutex::new(HashMap::new()),
        next_question: AtomicU64::new(1),
        tasks: tasks.clone(),
    }));
    let (jobs, received) = mpsc::channel(JOBS_QUEUE);
    let driver = Driver {
        shared: Arc::clone(&handle.0),
        rotation: Rotation::new(options.enrolment.endpoints.iter().cloned()),
        witness: Witness::load(&options.dir)?,
        roster_from_start: false,
        layers_from_start: false,
        proof_asked_anew: false,
        renewal_trouble: None,
        options,
        clock,
        jobs,
    };
    let group = tasks.clone();
    tasks.spawn("control session", OnEnd::Expected, async move {
        tokio::select! {
            () = group.cancelled() => {}
            () = driver.run() => {}
        }
    });
    Ok((handle, received))
}

pub(crate) struct Driver {
    pub shared: Arc<Shared>,
    pub options: Options,
    pub rotation: Rotation,
    pub witness: Witness,
    /// The roster that is held does not fit what came: the next session asks for all of it.
    pub roster_from_start: bool,
    /// The layers that are held are not those that the control plane meant: the next session asks for all of them.
    pub layers_from_start: bool,
    /// A session was opened for a proof from the head that is held; none came since.
    pub proof_asked_anew: bool,
    /// Why the last renewal failed: said once.
    pub renewal_trouble: Option<String>,
    pub clock: Clock,
    pub jobs: mpsc::Sender<Jobs>,
}

impl Driver {
    async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let began = self.clock.now();
            let ended = self.session().await;
            self.shared.questions().clear();
            if self.clock.now().saturating_duration_since(began) >= GOOD_SESSION {
                backoff.reset();
            }
            let wait = match ended {
                Ended::Again => Duration::ZERO,
                Ended::AgentStops => return,
                Ended::ComeBack { after, reason } => {
                    tracing::info!(reason, seconds = after.as_secs(), "The control plane asks to come back later");
                    self.down(format!("the control plane asked to come back later: {reason}"));
                    // Another server may have room, and takes no notice of one that waits as long as it was told.
                    self.rotation.failed();
                    // Half as much again at most, so that those who were sent away together do not return together.
                    after.min(LONGEST_COME_BACK).mul_f64(1.0 + rand::random::<f64>() / 2.0)
                }
                Ended::Failed(reason) => {
                    self.down(reason);
                    self.rotation.failed();
                    self.look_for_endpoints().await;
                    backoff.next_delay()
                }
                Ended::Broke(reason) => {
                    self.broke(reason);
                    self.rotation.failed();
                    backoff.next_delay()
                }
            };
            sleep(wait).await;
        }
    }

    /// One session, from dialling to its end.
    async fn session(&mut self) -> Ended {
        let Some(endpoint) = self.rotation.current().cloned() else {
            return Ended::Failed("no endpoint of the control plane is known".to_owned());
        };
        if self.clock.utc() >= self.options.identity.certificate().renew_at() {
            self.renew(&endpoint).await;
        }
        match Session::open(self, &endpoint).await {
            Ok(session) => session.run(self).await,
            Err(ended) => ended,
        }
    }

    pub(crate) async fn renew(&mut self, endpoint: &Endpoint) {
        let identity = &self.options.identity;
        match renew::renew(endpoint, identity, &self.clock, &self.shared.tasks).await {
            Ok(()) => {
                let not_after = identity.certificate().not_after();
                self.renewal_trouble = None;
                tracing::info!(component = "control_plane", %not_after, "The node's certificate was renewed");
            }
            // An old certificate that still holds opens the session all the same.
            Err(error) => {
                let not_after = identity.certificate().not_after();
                let error = error.to_string();
                if self.renewal_trouble.as_ref() != Some(&error) {
                    tracing::warn!(component = "control_plane", error, %not_after, "The node's certificate is not renewed yet");
                }
                self.renewal_trouble = Some(error);
            }
        }
    }

    /// A refusal reaches this side, or the end of the connection does, whichever is faster: what was said once stands until something
    /// else is said.
    fn broke(&self, reason: String) {
        let known = self.shared.connection.borrow().clone();
        match known.trouble {
            Some(trouble) if known.standing.is_none() => {
                tracing::debug!(component = "control_plane", reason, trouble, "No session with the control plane");
            }
            Some(_) | None => self.down(reason),
        }
    }

    fn down(&self, reason: String) {
        let before = self.shared.connection.borrow().clone();
        if before.standing.is_some() || before.trouble.as_ref() != Some(&reason) {
            tracing::warn!(
                component = "control_plane",
                reason,
                "No session with the control plane; the agent works on without it"
            );
        }
        self.shared.connection.send_modify(|connection| {
            connection.standing = None;
            connection.trouble = Some(reason);
        });
    }

    /// Takes endpoints that `dwcp-agent join` has written down meanwhile: a control plane that has moved is found again without a restart.
    async fn look_for_endpoints(&mut self) {
        let dir = self.options.dir.clone();
        let read = self.shared.tasks.blocking("read the enrolment", move || Enrolment::load(&dir));
        let Ok(Ok(Some(stored))) = read.await else { return };
        if stored.uid != self.options.enrolment.uid {
            tracing::error!(component = "control_plane", "This host has joined again meanwhile: restart the agent");
        } else if stored.endpoints != self.options.enrolment.endpoints {
            tracing::info!(
                component = "control_plane",
                "Other endpoints of the control plane were written down; they are tried"
            );
            self.rotation = Rotation::new(stored.endpoints.iter().cloned());
            self.options.enrolment = stored;
        }
    }

    /// What the control plane says of itself, kept for the next start.
    pub(crate) async fn learn(&mut self, endpoints: Vec<Endpoint>, name: Option<proto_model::NodeName>) {
        // One that does not know its own addresses is no reason to forget those that are known.
        if !endpoints.is_empty() {
            self.rotation.learn(endpoints);
        }
        let mut enrolment = self.options.enrolment.clone();
        enrolment.endpoints = self.rotation.all().cloned().collect();
        if let Some(name) = name {
            enrolment.name = name;
        }
        if enrolment == self.options.enrolment {
            return;
        }
        let dir = self.options.dir.clone();
        let stored = enrolment.clone();
        match self.shared.tasks.blocking("keep the enrolment", move || stored.store(&dir)).await {
            Ok(Ok(())) => self.options.enrolment = enrolment,
            Ok(Err(error)) => warn_kept(&error),
            Err(_stopping) => {}
        }
    }

    /// The control plane stored this end.
    pub(crate) async fn acknowledged(&self, transfer: String, role: i32) {
        let shared = Arc::clone(&self.shared);
        let done = self.shared.tasks.blocking("forget a report", move || {
            shared.outbox.lock().unwrap_or_else(PoisonError::into_inner).acknowledged(&(transfer, role))
        });
        if let Ok(Err(error)) = done.await {
            tracing::warn!(%error, "An acknowledged report cannot be removed; it will be reported again");
        }
    }
}

impl Driver {
    /// What should be in force.
    pub(crate) fn desired(&mut self, desired: Desired) {
        self.layers_from_start = false;
        self.shared.desired.send_replace(Some(Arc::new(desired)));
    }

    /// What is held still should be in force.
    pub(crate) fn unchanged(&mut self, said: Desired) -> Result<(), Ended> {
        let held = self.shared.desired.borrow().clone();
        let held = held.filter(|held| (held.generation, &held.digest) == (said.generation, &said.digest));
        let Some(held) = held else {
            self.layers_from_start = true;
            return Err(Ended::Failed("the control plane left out a configuration that is not held here".to_owned()));
        };
        self.desired(Desired { layers: held.layers.clone(), ..said });
        Ok(())
    }

    /// A part of the roster; kept before it counts.
    pub(crate) async fn roster(&mut self, update: rpc::RosterUpdate) -> Result<(), Ended> {
        let complete = update.head.is_some();
        let trust = self.options.identity.trust().clone();
        let applied = self.shared.tasks.blocking("keep the roster", move || {
            trust.apply(&RosterUpdate::try_from(update).map_err(TrustStoreError::from)?)
        });
        match applied.await {
            Ok(Ok(())) => {
                self.roster_from_start &= !complete;
                if complete {
                    self.replay_revocations();
                }
                Ok(())
            }
            Ok(Err(error @ TrustStoreError::Roster(_))) => {
                self.roster_from_start = true;
                Err(Ended::Failed(chain(&error)))
            }
            Ok(Err(error)) => Err(Ended::Failed(chain(&error))),
            Err(_stopping) => Err(Ended::AgentStops),
        }
    }

    /// Gives the control plane what it has forgotten by a restore (D12).
    pub(crate) fn replay_revocations(&self) {
        let entries = self.options.identity.trust().revocations_to_replay();
        if entries.is_empty() {
            return;
        }
        tracing::warn!(
            component = "control_plane",
            revocations = entries.len(),
            "The restored control plane does not know of nodes that were revoked; it is told"
        );
        let entries = entries.into_iter().take(MAX_REPLAYED).map(Into::into).collect();
        self.shared.outgoing.replay(rpc::RevocationReplay { entries });
    }

    /// What is trusted, from an authenticated session.
    pub(crate) async fn trust(&self, bundle: TrustBundle) -> Result<(), Ended> {
        let seen = self.options.identity.trust().bundle().epoch;
        if bundle.epoch > seen {
            tracing::warn!(
                component = "control_plane",
                epoch = %bundle.epoch,
                before = %seen,
                "The control plane was restored from a backup: what was decided after that was made is void"
            );
        }
        let trust = self.options.identity.trust().clone();
        match self.shared.tasks.blocking("keep the trust bundle", move || trust.replace_bundle(bundle)).await {
            Ok(kept) => kept.map_err(|error| Ended::Failed(chain(&error))),
            Err(_stopping) => Err(Ended::AgentStops),
        }
    }

    /// Somebody tampered with the log: said with every new way in which it shows, and shown until a head is right again.
    fn alarm(&self, reason: String) {
        self.shared.connection.send_if_modified(|known| {
            if known.audit_trouble.as_ref() == Some(&reason) {
                return false;
            }
            tracing::error!(component = "audit", reason, "The audit log is not what this agent saw before");
            known.audit_trouble = Some(reason);
            true
        });
    }

    fn no_alarm(&self) {
        let ended = self.shared.connection.send_if_modified(|known| known.audit_trouble.take().is_some());
        if ended {
            tracing::warn!(component = "audit", "The audit log is again what this agent saw before");
        }
        #[allow(clippy::cast_precision_loss, reason = "a metric; exact up to 2^53 events")]
        metrics::gauge!("dwcp_audit_witnessed_events").set(self.witness.size() as f64);
    }

    /// A head of the audit log.
    pub(crate) fn witnessed(&mut self, offered: &rpc::AuditCheckpoint) -> Result<(), Ended> {
        let bundle = self.options.identity.trust().bundle();
        let accepted = bundle
            .audit_verifier_key
            .parse::<VerifierKey>()
            .map_err(WitnessError::from)
            .and_then(|key| self.witness.offer(offered, &key, bundle.epoch.value()));
        let consistent = accepted.is_ok();
        match accepted {
            Ok(()) => {
                self.proof_asked_anew = false;
                self.no_alarm();
            }
            // Asked for anew with the Hello of the next session, which says where the proof must start; once, and then with the next head.
            Err(WitnessError::OtherStart { .. }) if !self.proof_asked_anew => {
                self.proof_asked_anew = true;
                return Err(Ended::Again);
            }
            Err(error) if error.is_tampering() => {
                metrics::counter!("dwcp_audit_verify_failures_total").increment(1);
                self.alarm(chain(&error));
            }
            Err(error) => {
                tracing::warn!(component = "audit", %error, "A head of the audit log is not accepted");
                return Ok(());
            }
        }
        let checkpoint = self.witness.checkpoint().unwrap_or_default().to_owned();
        self.shared.outgoing.witness(rpc::AuditWitness { checkpoint, consistent });
        Ok(())
    }
}

fn warn_kept(error: &EnrolmentError) {
    tracing::warn!(%error, "What the control plane said of itself cannot be kept");
}

#[cfg(test)]
mod tests;
