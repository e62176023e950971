//! Where this node is, for others; and where others are, for this node.
//!
//! The node's signed record is kept on the fleet's ring and given to the control plane. Others are found by the ring first, by
//! the control plane a moment later, by what is kept here last, so that neither being away is noticed. A node that an operator
//! lets relay, and that offers to, is a node of the ring itself.

mod control_plane;
mod no_directory;

use std::{
    fs, io,
    net::{SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dataplane_control_client::{Handle, PeerRecord};
use dataplane_dht::{
    Announcement, DhtNode, Directory, Disagreement, FleetTag, Nat, NodeOptions, NodeStatus, NodeType, Publisher,
    PublisherOptions, RecordStore, Resolver, ResolverOptions, RingLimits, RingNode, RingOptions, StartError,
    connectable, ipv4_listen,
};
use dataplane_identity::Identity;
use foundation_runtime::{Clock, OnEnd, TaskGroup, checked, durable};
use futures::future::BoxFuture;
use proto_model::{
    PublicKey,
    config::{Dht, Limits, MetadataCache, PeerDiscovery, Reach},
};
use tokio::sync::watch;

use crate::{apply::count, transfers::Peers};
use control_plane::ControlPlaneRecords;
use no_directory::NoDirectory;

/// Members that are looked for at each round of peer discovery; more is a fleet whose members are found when they are needed.
const MAX_DISCOVERED: usize = 1000;

/// The ring, in the data directory.
const RING_FILE: &str = "dht-ring.json";
/// After a change of the roster further ones are waited for: hosts often join together.
const ROSTER_SETTLES: Duration = Duration::from_secs(2);

/// What discovery needs.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The data directory, which keeps the ring for a start without a control plane.
    pub(crate) dir: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) records: Arc<dyn RecordStore>,
    pub(crate) control: Handle,
    /// Where the DHT listens; none where it is switched off.
    pub(crate) listen: Option<SocketAddr>,
    /// The ring as the host's owner gave it, instead of the control plane's.
    pub(crate) bootstrap: Option<Vec<String>>,
    /// Whether this host offers to relay.
    pub(crate) offers_relay: bool,
    pub(crate) dht: Dht,
    pub(crate) cache: MetadataCache,
    pub(crate) peers: PeerDiscovery,
    pub(crate) limits: Limits,
}

/// The node's part in the directory of the fleet. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    identity: Identity,
    publisher: Publisher,
    resolver: Resolver,
    client: Option<DhtNode>,
    ring_node: watch::Receiver<Option<RingNode>>,
    offers_relay: bool,
    /// Where the DHT listens, with the port that was chosen.
    pub(crate) listen: Option<SocketAddrV4>,
}

impl Discovery {
    /// Starts it; nothing is published before [`Self::announce`].
    ///
    /// # Errors
    /// The DHT's port cannot be used.
    pub(crate) async fn start(setup: Setup, clock: &Clock, tasks: &TaskGroup) -> Result<Self, StartError> {
        let fleet = FleetTag::of(&setup.identity.trust().bundle().fleet);
        let given = setup.bootstrap.clone();
        let ring = given.clone().unwrap_or_else(|| kept_ring(&setup.dir));
        let listen = match setup.listen.filter(|_| setup.dht.enabled) {
            Some(listen) => Some(with_port(ipv4_listen(listen)?)?),
            None => None,
        };
        // The ring node has the port that is published; its own record needs a client beside it.
        let client_listen =
            listen.map(|listen| if setup.offers_relay { SocketAddrV4::new(*listen.ip(), 0) } else { listen });
        let client = match client_listen {
            Some(listen) => Some(
                DhtNode::start(
                    NodeOptions {
                        queries: count(setup.limits.dht_queries),
                        ..NodeOptions::client(listen, ring.clone())
                    },
                    clock.clone(),
                    tasks,
                )
                .await?,
            ),
            None => None,
        };
        let directory: Arc<dyn Directory> = match &client {
            Some(client) => Arc::new(client.clone()),
            None => Arc::new(NoDirectory),
        };
        let publishing = PublisherOptions {
            republish_interval: setup.dht.metadata_republish_interval,
            ..PublisherOptions::new(fleet)
        };
        let resolving = ResolverOptions {
            ttl: setup.cache.ttl_seconds,
            cleanup_interval: setup.cache.cleanup_interval,
            capacity: usize::try_from(setup.cache.max_entries).unwrap_or(usize::MAX),
            hedge_after: setup.dht.hedge_delay,
            lookups: count(setup.limits.dht_lookups),
            ..ResolverOptions::new(fleet)
        };
        let signer = Arc::new(setup.identity.key().signing_key().clone());
        let (ring_sender, ring_node) = watch::channel(None);
        let discovery = Self {
            publisher: Publisher::start(
                publishing,
                signer,
                Arc::clone(&directory),
                Arc::clone(&setup.records),
                clock.clone(),
                tasks,
            ),
            resolver: Resolver::start(
                resolving,
                directory,
                Arc::new(ControlPlaneRecords(setup.control.clone())),
                setup.records,
                clock.clone(),
                tasks,
            ),
            identity: setup.identity,
            client,
            ring_node,
            offers_relay: setup.offers_relay,
            listen,
        };
        match &given {
            None => discovery.follow_ring(setup.dir.clone(), &setup.control, tasks),
            Some(given) if !given.is_empty() => discovery.keep_spare_ring(&setup.control, tasks),
            // No DHT at all, as its owner wants it.
            Some(_none) => {}
        }
        discovery.tell_control_plane(&setup.control, tasks);
        discovery.discover_peers(setup.peers, tasks);
        if let Some(listen) = listen.filter(|_| setup.offers_relay) {
            let limits = RingLimits {
                records: count(setup.limits.dht_records),
                requests_per_second: setup.limits.dht_requests_per_second,
            };
            discovery.serve_ring(ring_sender, (listen, limits), given, (setup.dir, &setup.control), clock, tasks);
        }
        Ok(discovery)
    }

    /// Says where this node is reached.
    pub(crate) fn announce(&self, addresses: Vec<SocketAddr>, reach: Reach) {
        let node_type = match (self.may_relay(), reach) {
            (true, _) => NodeType::Relay,
            (false, Reach::Private) => NodeType::Private,
            (false, Reach::Auto | Reach::Public) => NodeType::Public,
        };
        self.publisher.announce(Announcement { addresses, node_type, nat: Nat::Unknown, relays: Vec::new() });
    }

    /// Whether this node offers to relay and an operator allows it.
    pub(crate) fn may_relay(&self) -> bool {
        let member = self.identity.membership().by_uid(&self.identity.uid());
        self.offers_relay && member.is_some_and(|member| member.relay)
    }

    /// Other intervals, from now on.
    pub(crate) fn retune(&self, dht: &Dht) {
        self.publisher.set_republish_interval(dht.metadata_republish_interval);
    }

    /// What the DHT client sees; none where the DHT is switched off.
    pub(crate) fn dht_status(&self) -> Option<NodeStatus> {
        self.client.as_ref().map(DhtNode::status)
    }

    /// Where the DHT says less than is known otherwise.
    pub(crate) fn disagreements(&self) -> Vec<Disagreement> {
        self.resolver.disagreements()
    }

    /// Whether this node stores records for others now.
    pub(crate) fn serves_ring(&self) -> bool {
        self.ring_node.borrow().is_some()
    }

    /// How many records are cached.
    pub(crate) fn cached(&self) -> usize {
        self.resolver.cached()
    }

    /// Takes the ring that the control plane names, and keeps it for a start without one.
    fn follow_ring(&self, dir: PathBuf, control: &Handle, tasks: &TaskGroup) {
        let Some(client) = self.client.clone() else { return };
        let (publisher, mut ring, group) = (self.publisher.clone(), control.ring(), tasks.clone());
        tasks.spawn("follow the DHT ring", OnEnd::Expected, async move {
            loop {
                let nodes = texts(&ring.borrow_and_update());
                if !nodes.is_empty() && client.status().ring != nodes {
                    let kept = (dir.clone(), nodes.clone());
                    if let Ok(Err(error)) = group.blocking("keep the ring", move || keep_ring(&kept.0, &kept.1)).await {
                        tracing::warn!(component = "dht", %error, "The ring of DHT nodes cannot be kept on disk");
                    }
                    client.set_ring(nodes);
                    publisher.republish();
                }
                tokio::select! {
                    changed = ring.changed() => if changed.is_err() { return },
                    () = group.cancelled() => return,
                }
            }
        });
    }

    /// The host's owner named the ring: the control plane's serves where nobody of that answers.
    fn keep_spare_ring(&self, control: &Handle, tasks: &TaskGroup) {
        let Some(client) = self.client.clone() else { return };
        let (mut ring, group) = (control.ring(), tasks.clone());
        tasks.spawn("follow the DHT ring", OnEnd::Expected, async move {
            loop {
                client.set_spare_ring(texts(&ring.borrow_and_update()));
                tokio::select! {
                    changed = ring.changed() => if changed.is_err() { return },
                    () = group.cancelled() => return,
                }
            }
        });
    }

    /// Gives each new record to the control plane too, and again when a session begins.
    fn tell_control_plane(&self, control: &Handle, tasks: &TaskGroup) {
        let (control, publisher, group) = (control.clone(), self.publisher.clone(), tasks.clone());
        let (mut signed, mut connection) = (self.publisher.signed(), control.connection());
        tasks.spawn("give the record to the control plane", OnEnd::Expected, async move {
            let mut stood = true;
            loop {
                let record = signed.borrow_and_update().clone();
                let standing = connection.borrow_and_update().standing.is_some();
                if standing && !std::mem::replace(&mut stood, standing) {
                    // A server that was restarted was perhaps a node of the ring, which forgot all.
                    publisher.put_again();
                }
                stood = standing;
                if let (Some(record), true) = (record, standing) {
                    control.publish(&PeerRecord {
                        public_key: record.key,
                        seq: record.seq,
                        value: record.value,
                        signature: record.signature.to_vec(),
                        observed: Vec::new(),
                    });
                }
                tokio::select! {
                    changed = signed.changed() => if changed.is_err() { return },
                    changed = connection.changed() => if changed.is_err() { return },
                    () = group.cancelled() => return,
                }
            }
        });
    }

    /// Looks for every member now and then, so that it is known before it is needed (RN-5).
    fn discover_peers(&self, peers: PeerDiscovery, tasks: &TaskGroup) {
        let (discovery, group) = (self.clone(), tasks.clone());
        tasks.spawn("discover peers", OnEnd::Expected, async move {
            let mut interval = tokio::time::interval(peers.discovery_interval);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut roster = discovery.identity.membership().changes();
            loop {
                tokio::select! {
                    _ = interval.tick() => {}
                    changed = roster.changed() => {
                        if changed.is_err() { return }
                        tokio::time::sleep(ROSTER_SETTLES).await;
                        roster.mark_unchanged();
                    }
                    () = group.cancelled() => return,
                }
                tokio::select! {
                    () = discovery.discover_once() => {}
                    () = group.cancelled() => return,
                }
            }
        });
    }

    async fn discover_once(&self) {
        let own = self.identity.uid();
        let mut found = Vec::new();
        for member in self.identity.membership().members().into_iter().filter(|m| m.uid != own).take(MAX_DISCOVERED) {
            // The resolver has said what went wrong.
            if let Ok(resolved) = self.resolver.resolve(member.public_key).await {
                found.push(resolved);
            }
        }
        // There are no relayed paths yet, so no relay counts as alive.
        drop(connectable(found, |_relay| false));
    }

    /// Serves the ring while an operator allows it; once begun it goes on until this process ends.
    fn serve_ring(
        &self,
        ring_node: watch::Sender<Option<RingNode>>,
        (listen, limits): (SocketAddrV4, RingLimits),
        given: Option<Vec<String>>,
        (dir, control): (PathBuf, &Handle),
        clock: &Clock,
        tasks: &TaskGroup,
    ) {
        let (discovery, control, clock, group) = (self.clone(), control.clone(), clock.clone(), tasks.clone());
        tasks.spawn("serve the DHT ring", OnEnd::Expected, async move {
            let mut roster = discovery.identity.membership().changes();
            while !discovery.may_relay() {
                tokio::select! {
                    changed = roster.changed() => if changed.is_err() { return },
                    () = group.cancelled() => return,
                }
            }
            let mut ring = control.ring();
            let nodes = match given {
                Some(given) => given,
                None if ring.borrow_and_update().is_empty() => kept_ring(&dir),
                None => texts(&ring.borrow_and_update()),
            };
            match RingNode::start(RingOptions { listen, ring: nodes, limits }, clock, &group).await {
                Ok(node) => {
                    tracing::info!(component = "dht", %listen, "Successfully initialized: this node stores DHT records");
                    ring_node.send_replace(Some(node.clone()));
                    loop {
                        tokio::select! {
                            changed = ring.changed() => if changed.is_err() { return },
                            () = group.cancelled() => return,
                        }
                        node.set_ring(texts(&ring.borrow_and_update()));
                    }
                }
                Err(error) => {
                    tracing::warn!(component = "dht", reason = %error, "this node cannot store DHT records");
                }
            }
        });
    }
}

impl Peers for Discovery {
    fn addresses(&self, peer: PublicKey) -> BoxFuture<'_, Vec<SocketAddr>> {
        Box::pin(async move {
            match self.resolver.resolve(peer).await {
                Ok(resolved) => resolved.addresses(),
                Err(_said_by_the_resolver) => Vec::new(),
            }
        })
    }

    fn newer_addresses(&self, peer: PublicKey) -> BoxFuture<'_, Vec<SocketAddr>> {
        Box::pin(async move {
            let resolved = self.resolver.refresh(peer).await;
            resolved.map(|resolved| resolved.addresses()).unwrap_or_default()
        })
    }
}

/// The ring, as the control plane last named it.
fn kept_ring(dir: &Path) -> Vec<String> {
    let path = dir.join(RING_FILE);
    let Ok(bytes) = fs::read(&path) else { return Vec::new() };
    let nodes = checked::open_json(&bytes).map_err(|damage| damage.to_string());
    let nodes = nodes.and_then(|mut value| {
        serde_json::from_value::<Vec<SocketAddr>>(value["nodes"].take()).map_err(|error| error.to_string())
    });
    match nodes {
        Ok(nodes) => texts(&nodes),
        Err(reason) => {
            tracing::warn!(component = "dht", path = %path.display(), reason, "The kept ring of DHT nodes is damaged and not used; the control plane names it again");
            Vec::new()
        }
    }
}

fn keep_ring(dir: &Path, nodes: &[String]) -> io::Result<()> {
    durable::replace(&dir.join(RING_FILE), &checked::seal_json(serde_json::json!({ "nodes": nodes })), 0o600)
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// A port in place of 0, so that it is known before a ring node is allowed to begin.
fn with_port(listen: SocketAddrV4) -> Result<SocketAddrV4, StartError> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    let chosen = std::net::UdpSocket::bind(listen).and_then(|socket| socket.local_addr());
    let chosen = chosen.map_err(|source| StartError::Bind { listen, source })?;
    Ok(SocketAddrV4::new(*listen.ip(), chosen.port()))
}
