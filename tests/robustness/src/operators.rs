//! Operators who write all the time, and know of each call what became of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use proto_rpc::v1;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tests_harness::Api;
use tokio::runtime::Handle;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::history::History;

/// What a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(6);

/// What is written.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteKind {
    /// A revision of a configuration, which names its request in a comment.
    Config {
        /// `configs/…`.
        name: String,
        /// Whether there is none yet.
        create: bool,
        /// Of the revision that was read.
        etag: String,
        /// A level of compression.
        level: u8,
    },
    /// A node's label `write`, which is the request.
    Label {
        /// `nodes/…`.
        node: String,
    },
    /// A join token with the label `write`.
    Token,
    /// A transfer that excludes a name with the request in it.
    Transfer {
        /// `nodes/…` and `ROOT:/path`.
        from: (String, String),
        /// The same.
        to: (String, String),
    },
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was said to be done, and what it made.
    Acknowledged(String),
    /// It was said not to be done.
    Failed,
    /// Nobody knows, and nobody asked again.
    Unknown,
}

/// A write.
#[derive(Clone, Debug)]
pub struct Write {
    /// What.
    pub kind: WriteKind,
    /// The same in each repeat.
    pub request: Uuid,
    /// What became of it.
    pub outcome: Outcome,
    /// How often it was asked for.
    pub calls: u32,
    /// Since the history's beginning, when it was over.
    pub ended: Duration,
}

/// Calls the API, and keeps what became of it.
#[derive(Debug)]
pub struct Operators {
    runtime: Handle,
    apis: Vec<Api>,
    history: Arc<History>,
    writes: Mutex<Vec<Write>>,
    /// Workers that are to stand still.
    pub paused: AtomicBool,
    /// Workers that are to end.
    pub stopped: AtomicBool,
    /// Workers that do something.
    busy: AtomicU64,
}

/// Somebody does something, until dropped.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Operators);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, SeqCst);
    }
}

impl Operators {
    /// Over these servers.
    #[must_use]
    pub fn new(runtime: Handle, apis: Vec<Api>, history: Arc<History>) -> Self {
        Self {
            runtime,
            apis,
            history,
            writes: Mutex::default(),
            paused: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            busy: AtomicU64::new(0),
        }
    }

    /// The history.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Waits while all are paused; none where all is over.
    pub(crate) fn turn(&self) -> Option<Busy<'_>> {
        loop {
            if self.stopped.load(SeqCst) {
                return None;
            }
            self.busy.fetch_add(1, SeqCst);
            let busy = Busy(self);
            if !self.paused.load(SeqCst) {
                return Some(busy);
            }
            drop(busy);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether nobody does anything.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.busy.load(SeqCst) == 0
    }

    /// All writes so far.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the first write after that time was acknowledged, if one was.
    #[must_use]
    pub fn acknowledged_after(&self, time: Duration) -> Option<Duration> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let acknowledged = writes.iter().rev().take_while(|write| write.ended > time);
        acknowledged.filter(|write| matches!(write.outcome, Outcome::Acknowledged(_))).map(|write| write.ended).min()
    }

    /// Writes configurations, labels or tokens until all is over.
    pub fn write_on(&self, worker: u64, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed ^ (worker << 32));
        loop {
            let Some(busy) = self.turn() else { return };
            let kind = match worker % 3 {
                0 => self.config(&mut random),
                1 => Some(WriteKind::Label {
                    node: format!("nodes/site-{}", ["a", "b", "c"][random.random_range(0..3)]),
                }),
                _ => Some(WriteKind::Token),
            };
            if let Some(kind) = kind {
                let gives_up = random.random_bool(0.3);
                self.write(kind, gives_up, &mut random);
            }
            drop(busy);
            thread::sleep(Duration::from_millis(random.random_range(30..150)));
        }
    }

    /// The next revision of some configuration.
    fn config(&self, random: &mut StdRng) -> Option<WriteKind> {
        let name = ["configs/fleet", "configs/node.site-a", "configs/node.site-b", "configs/node.site-c"]
            [random.random_range(0..4)];
        let level = random.random_range(1..=4);
        let api = &self.apis[random.random_range(0..self.apis.len())];
        let request = v1::GetConfigRequest { name: name.to_owned() };
        let found = self.ask(async { api.configs().get_config(request).await });
        let (create, etag) = match found {
            Ok(found) => (false, found.etag),
            Err(status) if status.code() == Code::NotFound => (true, String::new()),
            Err(_unavailable) => return None,
        };
        Some(WriteKind::Config { name: name.to_owned(), create, etag, level })
    }

    /// Asks for a write until somebody answers; who gives up leaves it unknown. What it made, where it is acknowledged.
    pub fn write(&self, kind: WriteKind, gives_up: bool, random: &mut StdRng) -> Option<String> {
        let mut write = Write {
            kind,
            request: Uuid::from_bytes(random.random()),
            outcome: Outcome::Unknown,
            calls: 0,
            ended: Duration::ZERO,
        };
        let mut server = random.random_range(0..self.apis.len());
        let made = loop {
            write.calls += 1;
            match self.call(server, &write) {
                Ok(made) => {
                    write.outcome = Outcome::Acknowledged(made.clone());
                    break Some(made);
                }
                Err(status) if is_definite(status.code()) => {
                    write.outcome = Outcome::Failed;
                    break None;
                }
                Err(_unknown) if gives_up || self.stopped.load(SeqCst) => break None,
                Err(_unknown) => {
                    server = (server + 1) % self.apis.len();
                    thread::sleep(Duration::from_millis(random.random_range(50..400)));
                }
            }
        };
        write.ended = self.history.elapsed();
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).push(write);
        made
    }

    /// Asks again for what is unknown, with the same request; then for all that is acknowledged, which must answer the same.
    pub fn repeat_all(&self) {
        let writes = self.writes();
        for (index, write) in writes.iter().enumerate() {
            let server = index % self.apis.len();
            let outcome = match (self.call(server, write), &write.outcome) {
                (Ok(made), Outcome::Acknowledged(before)) if made != *before => {
                    self.history.violation(format!("a repeat of {write:?} made {made}"));
                    continue;
                }
                (Err(status), Outcome::Acknowledged(_)) => {
                    self.history.violation(format!("a repeat of {write:?} was answered {status}"));
                    continue;
                }
                (Ok(made), Outcome::Unknown) => Outcome::Acknowledged(made),
                (Err(status), Outcome::Unknown) if is_definite(status.code()) => Outcome::Failed,
                (Err(status), Outcome::Unknown) => {
                    self.history.violation(format!("{write:?} is answered {status} by a healthy fleet"));
                    continue;
                }
                // What failed may be asked for again, and then done: it is not.
                (_, Outcome::Failed) | (Ok(_), Outcome::Acknowledged(_)) => continue,
            };
            let mut all = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(write) = all.get_mut(index) {
                write.outcome = outcome;
                write.calls += 1;
            }
        }
    }

    /// Calls a server, with a bound of patience.
    pub fn ask<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
        let bounded = async { tokio::time::timeout(PATIENCE, call).await };
        let answer = self.runtime.block_on(bounded);
        answer
            .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("the caller lost patience")))
            .map(tonic::Response::into_inner)
    }

    /// The API of a server.
    #[must_use]
    pub fn api(&self, server: usize) -> &Api {
        &self.apis[server % self.apis.len()]
    }

    fn call(&self, server: usize, write: &Write) -> Result<String, Status> {
        if matches!(write.outcome, Outcome::Failed) {
            return Err(Status::failed_precondition("not asked for again"));
        }
        let (request_id, api) = (write.request.to_string(), self.api(server));
        let answer = match &write.kind {
            WriteKind::Config { name, create, etag, level } => {
                let document = format!("# write {request_id}\ncompression:\n  level: {level}\n");
                let (name, etag) = (name.clone(), etag.clone());
                let made = if *create {
                    let config_id = name.trim_start_matches("configs/").to_owned();
                    let request = v1::CreateConfigRequest { config_id, document, request_id, ..Default::default() };
                    self.ask(async { api.configs().create_config(request).await })
                } else {
                    let request = v1::UpdateConfigRequest { name, document, etag, request_id, ..Default::default() };
                    self.ask(async { api.configs().update_config(request).await })
                };
                // A repeat answers with what is newest now.
                made.map(|config| config.name)
            }
            WriteKind::Label { node } => {
                let labels = BTreeMap::from([("write".to_owned(), write.request.simple().to_string())]);
                let node = v1::Node { name: node.clone(), labels: labels.into_iter().collect(), ..Default::default() };
                let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".to_owned()] });
                let request = v1::UpdateNodeRequest { node: Some(node), update_mask, request_id, validate_only: false };
                self.ask(async { api.nodes().update_node(request).await }).map(|node| node.name)
            }
            WriteKind::Token => {
                let labels = BTreeMap::from([("write".to_owned(), write.request.simple().to_string())]);
                let node_labels = labels.into_iter().collect();
                let request = v1::CreateJoinTokenRequest { node_labels, request_id, ..Default::default() };
                let made = self.ask(async { api.join_tokens().create_join_token(request).await });
                made.map(|made| made.join_token.unwrap_or_default().name)
            }
            WriteKind::Transfer { from, to } => {
                let spec = v1::TransferSpec {
                    source_node: from.0.clone(),
                    source_paths: vec![from.1.clone()],
                    destination_node: to.0.clone(),
                    destination_path: to.1.clone(),
                    delete: true,
                    exclude: vec![format!("write-{}", write.request.simple())],
                    ..Default::default()
                };
                let request = v1::CreateTransferRequest { spec: Some(spec), request_id, ..Default::default() };
                self.ask(async { api.transfers().create_transfer(request).await }).map(|transfer| transfer.name)
            }
        };
        let said =
            answer.as_ref().map_or_else(|status| format!("{:?}: {}", status.code(), status.message()), Clone::clone);
        let detail = json!({"kind": format!("{:?}", write.kind), "request": write.request, "call": write.calls, "server": server, "answer": said});
        self.history.note("write", detail);
        answer
    }
}

/// Whether a refusal says that nothing was done.
fn is_definite(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}
