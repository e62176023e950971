//! Keeps one mainline node alive. Its thread may panic, after which every call to it panics too; so calls are made behind a
//! net, and a node that fell is built again, with growing delays.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use foundation_runtime::{Backoff, Clock, OnEnd, TaskGroup};
use futures::FutureExt;
use mainline::{Dht, ServerSettings, async_dht::AsyncDht};
use metrics::gauge;
use tokio::sync::{Notify, watch};

use crate::{
    filter::Filter,
    node::{Mode, NodeOptions, StartError},
};

/// The longest list of ring nodes: mainline asserts that at most 255 answer, and a ring has no use for more than about seven.
const MAX_RING: usize = 32;
/// How often the node is asked whether it lives, and whom it knows.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
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
        let missing = if self.0.ring.borrow().is_empty() { Fallen::NoRing } else { Fallen::Restarting };
        live.ok_or(missing)
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
        let mut ring = self.0.ring.subscribe();
        let mut probe = tokio::time::interval(PROBE_INTERVAL);
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.tasks.cancelled() => break,
                _ = probe.tick() => {
                    if self.probe().await {
                        continue;
                    }
                    tracing::warn!("the DHT node does not answer; starting it again");
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
                }
            }
            self.rebuild(&mut ring).await;
        }
        self.0.live.send_replace(None);
    }

    /// Whether the node lives, or there should be none.
    async fn probe(&self) -> bool {
        let Ok(live) = self.live() else {
            return self.0.ring.borrow().is_empty() && self.0.mode == Mode::Client;
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

/// The IPv4 addresses of the list; what cannot be resolved now is left out.
fn resolve_names(ring: &[String]) -> Vec<SocketAddrV4> {
    let mut addresses = Vec::new();
    // A ring has no use for more, and a name may take seconds to be found out.
    for name in ring.iter().take(8 * MAX_RING) {
        match name.to_socket_addrs() {
            Ok(found) => addresses.extend(found.filter_map(|address| match address {
                SocketAddr::V4(address) => Some(address),
                SocketAddr::V6(_) => None,
            })),
            Err(reason) => tracing::warn!(node = %name, %reason, "a DHT ring node's address is not known"),
        }
    }
    addresses
}

/// Those of a list that a datagram may go to: a list that was poisoned must not make this host send to groups, to all, to itself or to none.
/// Private addresses are where a fleet lives, and stay.
fn usable(mut addresses: Vec<SocketAddrV4>, own: SocketAddrV4) -> Vec<SocketAddrV4> {
    let given = addresses.len();
    addresses.retain(|address| {
        let ip = address.ip();
        let nowhere = ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast() || address.port() == 0;
        !nowhere && *address != own
    });
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MAX_RING {
        tracing::warn!(given, most = MAX_RING, "The list of DHT ring nodes is too long; the first ones are asked");
        addresses.truncate(MAX_RING);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_nonsense_comes_to_those_that_can_be_asked() {
        let own = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 30609);
        let poisoned = [
            "0.0.0.0:1",
            "224.0.0.1:1",
            "239.9.9.9:1",
            "255.255.255.255:1",
            "192.0.2.1:30609",
            "192.0.2.2:0",
            "0.1.2.3:1",
        ];
        let addresses = poisoned.iter().chain(&["192.0.2.3:30610", "192.0.2.3:30610"]);
        let found = usable(addresses.map(|text| text.parse().unwrap()).collect(), own);
        assert_eq!(found, ["192.0.2.3:30610".parse().unwrap()]);
        let many = (1..=10_000_u16).map(|port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 3), port));
        assert_eq!(usable(many.collect(), own).len(), MAX_RING);
    }
}
