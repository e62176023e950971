//! A host that has joined: the session of the real agent, and a simple mind behind it.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dataplane_control_client::{Desired, Endpoint, Enrolment, Handle, Introduction, Options, PeerRecord, start};
use dataplane_identity::Identity;
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use proto_model::{AppliedConfig, ApplyStatus, ComponentHealth, Digest, HealthStatus, HostFacts};
use tokio::sync::watch;

/// One change of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Stood {
    pub(crate) at: Instant,
    /// With whom; none where it ended.
    pub(crate) with: Option<Endpoint>,
}

/// A configuration that came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) at: Instant,
    /// The first line of its first document.
    pub(crate) line: String,
}

#[derive(Debug, Default)]
struct Seen {
    stood: Vec<Stood>,
    came: Vec<Came>,
}

/// It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) handle: Handle,
    seen: Arc<Mutex<Seen>>,
    tasks: TaskGroup,
    /// Dropped, it ends the session.
    _introduction: watch::Sender<Introduction>,
}

impl Member {
    /// Starts one in a folder of [`crate::Bed::join`]. Within a runtime.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        Self::start_as(folder, "flags")
    }

    /// As above, with what its Hello says of where its configuration comes from.
    pub(crate) fn start_as(folder: &Path, host_layer_origin: &str) -> Result<Self> {
        let tasks = TaskGroup::new("member");
        let identity = Identity::open(folder)?.context("it has joined")?;
        let enrolment = Enrolment::load(folder)?.context("it has joined")?;
        let facts = HostFacts {
            agent_version: "0.1.0".to_owned(),
            os: "simulated".to_owned(),
            hostname: enrolment.name.to_string(),
            quic_addresses: vec!["192.0.2.1:30906".parse()?],
            ..HostFacts::default()
        };
        let host_layer = "roots:\n  data:\n    path: /srv/data\n".to_owned();
        let introduction =
            watch::Sender::new(Introduction { facts, host_layer, host_layer_origin: host_layer_origin.to_owned() });
        let key = identity.public_key();
        let options =
            Options { dir: folder.to_path_buf(), enrolment, identity, introduction: introduction.subscribe() };
        let clock = Clock::system();
        let (handle, mut jobs) = start(options, clock.clone(), &tasks)?;
        handle.publish(&PeerRecord {
            public_key: key,
            seq: 1,
            value: vec![0xa0],
            signature: vec![0; 64],
            observed: vec![],
        });
        let member = Self { handle, seen: Arc::default(), tasks, _introduction: introduction };
        member.observe("");
        member.tasks.spawn("jobs", OnEnd::Expected, async move { while jobs.recv().await.is_some() {} });
        let (seen, mut connection, ticks) = (Arc::clone(&member.seen), member.handle.connection(), clock.clone());
        member.tasks.spawn("connection", OnEnd::Expected, async move {
            while connection.changed().await.is_ok() {
                let with = connection.borrow_and_update().standing.as_ref().map(|standing| standing.endpoint.clone());
                locked(&seen).stood.push(Stood { at: ticks.now(), with });
            }
        });
        let (seen, mut desired, handle) = (Arc::clone(&member.seen), member.handle.desired(), member.handle.clone());
        member.tasks.spawn("answers", OnEnd::Expected, async move {
            while desired.changed().await.is_ok() {
                let Some(newest) = desired.borrow_and_update().clone() else { continue };
                locked(&seen).came.push(Came { at: clock.now(), line: first_line(&newest) });
                handle.answer(newest.nonce, applied(&newest), Vec::new());
            }
        });
        Ok(member)
    }

    /// Says how it is, with a word of its own.
    pub(crate) fn observe(&self, word: &str) {
        let message = word.to_owned();
        self.handle.observe(vec![ComponentHealth {
            component: "dht".to_owned(),
            status: HealthStatus::Healthy,
            message,
        }]);
    }

    /// Whether its session stands.
    pub(crate) fn stands(&self) -> bool {
        self.handle.connection().borrow().standing.is_some()
    }

    /// With whom it stands.
    pub(crate) fn stands_with(&self) -> Option<Endpoint> {
        self.handle.connection().borrow().standing.as_ref().map(|standing| standing.endpoint.clone())
    }

    /// Ends it, whoever else holds it.
    pub(crate) fn cut(&self) {
        self.tasks.cancel();
    }

    /// When a session stood, after that time, for the first time; and how often since.
    pub(crate) fn stood_after(&self, begun: Instant) -> (Option<Instant>, usize) {
        let seen = locked(&self.seen);
        let mut after = seen.stood.iter().filter(|stood| stood.at >= begun && stood.with.is_some());
        let first = after.next().map(|stood| stood.at);
        (first, after.count() + usize::from(first.is_some()))
    }

    /// What came until now.
    pub(crate) fn came(&self) -> Vec<Came> {
        locked(&self.seen).came.clone()
    }

    /// Ends it, as a kill does.
    pub(crate) async fn stop(self) {
        // What is left of it is cut.
        drop(self.tasks.shutdown(Duration::ZERO).await);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn first_line(desired: &Desired) -> String {
    let first = desired.layers.first().and_then(|layer| layer.document.lines().next());
    first.unwrap_or_default().to_owned()
}

fn applied(desired: &Desired) -> AppliedConfig {
    let digest = desired.digest.as_slice().try_into().unwrap_or_else(|_length| Digest::sha256(b""));
    AppliedConfig {
        status: ApplyStatus::Applied,
        generation: desired.generation.number,
        digest: Some(digest),
        errors: Vec::new(),
    }
}
