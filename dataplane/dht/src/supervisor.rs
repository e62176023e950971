//! Keeps one mainline node alive. Its thread may panic, after which every call to it panics too; so calls are made behind a
//! net, and a node that fell is built again, with growing delays.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use foundation_runtime::{Backoff, Clock, OnEnd, TaskGroup};
use futures::FutureExt;
use mainline::{Dht, ServerSettings, async_dht::AsyncDht};
use metrics::gauge;
use tokio::sync::{Notify, watch};

use crate::{
    addresses::{resolve_names, usable},
    filter::Filter,
    node::{Mode, NodeOptions, StartError},
};

/// How often the node is asked whether it lives, and whom it knows.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// So long a client's list has to answer at first: a node of it needs some 60 ms. Then the spare list is asked.
const FIRST_PROBE: Duration = Duration::from_millis(1500);
/// Where nobody of the spare list is known at so many probes, the client goes back to its own.
const SPARE_PATIENCE: u32 = 6;
/// A live node answers within 50 ms; one that does not for this long is taken for dead.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Delays between attempts to build the node again.
const REBUILD_FIRST: Duration = Duration::from_millis(100);
const REBUILD_MAX: Duration = Duration::from_secs(60);
/// How long a call waits for a node that is being built again: that takes some 100 ms.
const REBUILD_PATIENCE: Duration = Duration::from_secs(2);
/// A ring node asks others only to fill its own table, so it can wait; alone it only asks itself, in vain, at this pace.
const RING_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A node that is up.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) dht: AsyncDht,
    pub(crate) local: SocketAddrV4,
    pub(crate) ring: usize,
}

/// The node fell, or is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallen {
    NoRing,
    Restarting,
}

#[derive(Clone)]
pub(crate) struct Supervisor(Arc<Inner>);

struct Inner {
    mode: Mode,
    listen: SocketAddrV4,
    request_timeout: Duration,
    records: usize,
    /// What 0 became at first.
    port: AtomicU16,
    ring: watch::Sender<Vec<String>>,
    /// Asked where nobody of `ring` answers.
    spare: watch::Sender<Vec<String>>,
    spare_in_use: AtomicBool,
    live: watch::Sender<Option<Live>>,
    known: watch::Sender<usize>,
    fallen: Notify,
    filter: Filter,
    tasks: TaskGroup,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Supervisor")
            .field("mode", &self.0.mode)
            .field("listen", &self.0.listen)
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    pub(crate) async fn start(options: NodeOptions, clock: Clock, tasks: &TaskGroup) -> Result<Self, StartError> {
        let filter = Filter::new(clock, options.limits.requests_per_second);
        filter.set_ring(&options.ring);
        let this = Self(Arc::new(Inner {
            mode: options.mode,
            listen: options.listen,
            request_timeout: options.request_timeout,
            records: options.limits.records,
            port: AtomicU16::new(options.listen.port()),
            ring: watch::Sender::new(options.ring),
            spare: watch::Sender::new(Vec::new()),
            spare_in_use: AtomicBool::new(false),
            live: watch::Sender::new(None),
            known: watch::Sender::new(0),
            fallen: Notify::new(),
            filter,
            tasks: tasks.clone(),
        }));
        match this.build().await {
            Ok(live) => drop(this.0.live.send_replace(Some(live))),
            // A client without a ring waits for one.
            Err(BuildError::NoRing) => {}
            Err(BuildError::Bind(error)) => return Err(StartError::Bind { listen: this.0.listen, source: error }),
            Err(BuildError::Panicked) => return Err(StartError::Panicked),
            Err(BuildError::ShuttingDown) => return Err(StartError::ShuttingDown),
        }
        let supervised = this.clone();
        tasks.spawn("dht supervisor", OnEnd::Expected, async move { supervised.supervise().await });
        Ok(this)
    }

    pub(crate) fn live(&self) -> Result<Live, Fallen> {
        let live = self.0.live.borrow().clone();
        let missing = if self.has_no_ring() { Fallen::NoRing } else { Fallen::Restarting };
        live.ok_or(missing)
    }

    fn has_no_ring(&self) -> bool {
        self.0.ring.borrow().is_empty() && self.0.spare.borrow().is_empty()
    }

    /// Another list, for when nobody of the first one answers, or nobody of it can be asked at all.
    pub(crate) fn set_spare(&self, spare: Vec<String>) {
        self.0.spare.send_if_modified(|now| {
            let changed = *now != spare;
            *now = spare;
            changed
        });
    }

    pub(crate) fn ring(&self) -> Vec<String> {
        self.0.ring.borrow().clone()
    }

    pub(crate) fn known(&self) -> usize {
        *self.0.known.borrow()
    }

    pub(crate) fn set_known(&self, known: HashSet<Ipv4Addr>) {
        self.0.filter.set_known(known);
    }

    /// Replaces the list; a client is built anew, a ring node keeps what it stores and uses the list when it starts again.
    pub(crate) fn set_ring(&self, ring: Vec<String>) {
        self.0.filter.set_ring(&ring);
        let changed = self.0.ring.send_if_modified(|now| {
            let changed = *now != ring;
            *now = ring;
            changed
        });
        if changed && self.0.mode == Mode::Client {
            // From here on nothing goes to the old ring: a put there would pass for done.
            self.0.live.send_replace(None);
        }
    }

    /// The node, also when it is just being built again.
    pub(crate) async fn wait_live(&self) -> Result<Live, Fallen> {
        if let Err(Fallen::Restarting) = self.live() {
            let mut live = self.0.live.subscribe();
            // Whether it came or not, is asked again below.
            drop(tokio::time::timeout(REBUILD_PATIENCE, live.wait_for(Option::is_some)).await);
        }
        self.live()
    }

    /// Makes a call that may panic; if it does, the node is built again.
    pub(crate) async fn call<T>(&self, call: impl Future<Output = T>) -> Result<T, Fallen> {
        AssertUnwindSafe(call).catch_unwind().await.map_err(|_panic| {
            self.0.fallen.notify_one();
            Fallen::Restarting
        })
    }

    async fn supervise(self) {
        let (mut ring, mut spare) = (self.0.ring.subscribe(), self.0.spare.subscribe());
        let (mut pause, mut silent) = (Duration::ZERO, 0);
        loop {
            tokio::select! {
                () = self.0.tasks.cancelled() => break,
                () = tokio::time::sleep(pause) => {
                    pause = if pause.is_zero() { FIRST_PROBE } else { PROBE_INTERVAL };
                    if self.probe().await {
                        silent = if self.known() == 0 { silent + 1 } else { 0 };
                        if !self.wants_other_list(silent) {
                            continue;
                        }
                        let spare = !self.0.spare_in_use.fetch_xor(true, Ordering::Relaxed);
                        tracing::warn!(spare, "No node of the list of DHT ring nodes answers; the other list is tried");
                    } else {
                        tracing::warn!("the DHT node does not answer; starting it again");
                    }
                }
                () = self.0.fallen.notified() => tracing::warn!("the DHT node fell; starting it again"),
                changed = ring.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    if self.0.mode == Mode::Ring && self.live().is_ok() {
                        continue;
                    }
                    tracing::info!(nodes = ring.borrow().len(), "the ring of DHT nodes changed");
                    self.0.spare_in_use.store(false, Ordering::Relaxed);
                }
                changed = spare.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let in_use = self.0.spare_in_use.load(Ordering::Relaxed);
                    if self.0.mode == Mode::Ring || (self.live().is_ok() && !in_use) {
                        continue;
                    }
                }
            }
            self.rebuild(&mut ring).await;
            (pause, silent) = (Duration::ZERO, 0);
        }
        self.0.live.send_replace(None);
    }

    /// Whether the list has had its time, nobody of it was known at so many probes, and there is another.
    fn wants_other_list(&self, silent: u32) -> bool {
        // The first probe is made at once.
        let patience = if self.0.spare_in_use.load(Ordering::Relaxed) { SPARE_PATIENCE } else { 2 };
        let other = {
            let (ring, spare) = (self.0.ring.borrow(), self.0.spare.borrow());
            !spare.is_empty() && *spare != *ring
        };
        self.0.mode == Mode::Client && other && silent >= patience
    }

    /// Whether the node lives, or there should be none.
    async fn probe(&self) -> bool {
        let Ok(live) = self.live() else {
            return self.has_no_ring() && self.0.mode == Mode::Client;
        };
        let ask = async { (live.dht.to_bootstrap().await.len(), *live.dht.info().await.id()) };
        let answer = tokio::time::timeout(PROBE_LIMIT, AssertUnwindSafe(ask).catch_unwind()).await;
        let Ok(Ok((known, id))) = answer else { return false };
        self.0.filter.set_own(id);
        self.0.known.send_replace(known);
        let count = f64::from(u32::try_from(known).unwrap_or(u32::MAX));
        match self.0.mode {
            Mode::Client => gauge!("dwcp_dht_nodes").set(count),
            Mode::Ring => gauge!("dwcp_dht_ring_peers").set(count),
        }
        true
    }

    async fn rebuild(&self, ring: &mut watch::Receiver<Vec<String>>) {
        let mut backoff = Backoff::new(REBUILD_FIRST, REBUILD_MAX);
        // Dropping the last handle ends the old node's thread and frees its port.
        self.0.live.send_replace(None);
        self.0.known.send_replace(0);
        loop {
            ring.mark_unchanged();
            match self.build().await {
                // The list changed meanwhile: this node would serve the old ring.
                Ok(_) if self.0.mode == Mode::Client && ring.has_changed().unwrap_or(false) => continue,
                Ok(live) => return drop(self.0.live.send_replace(Some(live))),
                Err(BuildError::NoRing | BuildError::ShuttingDown) => return,
                Err(BuildError::Bind(reason)) => tracing::debug!(%reason, "the DHT port is not free yet"),
                Err(BuildError::Panicked) => tracing::warn!("the DHT node did not start"),
            }
            tokio::select! {
                () = self.0.tasks.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
                // A new list may be better than the old one: at once.
                _ = ring.changed() => {}
            }
        }
    }

    async fn build(&self) -> Result<Live, BuildError> {
        let plan = Plan {
            mode: self.0.mode,
            listen: SocketAddrV4::new(*self.0.listen.ip(), self.0.port.load(Ordering::Relaxed)),
            ring: self.0.ring.borrow().clone(),
            spare: self.0.spare.borrow().clone(),
            spare_in_use: self.0.spare_in_use.load(Ordering::Relaxed),
            request_timeout: self.0.request_timeout,
            records: self.0.records,
            filter: self.0.filter.clone(),
        };
        let built = self.0.tasks.blocking("dht node", move || plan.build()).await;
        let (dht, ring) = built.map_err(|_ended| BuildError::ShuttingDown)??;
        let dht = dht.as_async();
        let info = AssertUnwindSafe(dht.info()).catch_unwind().await.map_err(|_panic| BuildError::Panicked)?;
        self.0.filter.set_own(*info.id());
        let local = SocketAddrV4::new(*self.0.listen.ip(), info.local_addr().port());
        self.0.port.store(local.port(), Ordering::Relaxed);
        Ok(Live { dht, local, ring })
    }
}

enum BuildError {
    NoRing,
    Bind(io::Error),
    Panicked,
    ShuttingDown,
}

struct Plan {
    mode: Mode,
    listen: SocketAddrV4,
    ring: Vec<String>,
    spare: Vec<String>,
    spare_in_use: bool,
    request_timeout: Duration,
    records: usize,
    filter: Filter,
}

impl Plan {
    /// Builds the node; blocks on the names in the list and on the node's first answer.
    fn build(self) -> Result<(Dht, usize), BuildError> {
        // mainline panics now and then when the port is taken, so it is tried first.
        let socket = UdpSocket::bind(self.listen).map_err(BuildError::Bind)?;
        let listen = match socket.local_addr() {
            Ok(SocketAddr::V4(listen)) => listen,
            Ok(SocketAddr::V6(_)) | Err(_) => self.listen,
        };
        drop(socket);
        let mut ring = usable(resolve_names(&self.ring), listen);
        if (self.spare_in_use || ring.is_empty()) && self.mode == Mode::Client {
            ring = usable(resolve_names(&self.spare), listen);
        }
        let ring_nodes = ring.len();
        if ring.is_empty() {
            match self.mode {
                Mode::Client => return Err(BuildError::NoRing),
                // Never an empty list: a node without one puts whoever asks into its table. The filter leaves its questions
                // to itself unanswered.
                Mode::Ring => ring.push(SocketAddrV4::new(Ipv4Addr::LOCALHOST, listen.port())),
            }
        }
        let mut builder = Dht::builder();
        builder.bootstrap(&ring).bind_address(*listen.ip()).port(listen.port());
        match self.mode {
            Mode::Client => builder.request_timeout(self.request_timeout),
            Mode::Ring => builder.request_timeout(RING_REQUEST_TIMEOUT).server_mode().server_settings(ServerSettings {
                max_mutable_values: self.records,
                // The fleet stores records and nothing else: what strangers bring stays small.
                max_info_hashes: 1,
                max_peers_per_info_hash: 1,
                max_immutable_values: 1,
                filter: Box::new(self.filter.clone()),
            }),
        };
        match catch_unwind(AssertUnwindSafe(|| builder.build())) {
            Ok(Ok(dht)) => Ok((dht, ring_nodes.max(1))),
            Ok(Err(error)) => Err(BuildError::Bind(error)),
            Err(_panic) => Err(BuildError::Panicked),
        }
    }
}
