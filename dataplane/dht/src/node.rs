//! A mainline node of this process as a [`Directory`].

use std::{
    collections::HashSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use foundation_runtime::{Clock, OnEnd, TaskGroup};
use futures::{StreamExt, future::BoxFuture};
use mainline::{MutableItem, async_dht::AsyncDht, errors};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};
use proto_model::PublicKey;
use tokio::sync::Semaphore;

use crate::{
    directory::{Directory, Lookup, LookupEvent, LookupSender, MOST_ASKED, PublishError, Stored, lookup_channel},
    record::MAX_RECORD_BYTES,
    ring::RingLimits,
    signed::SignedRecord,
    supervisor::{Fallen, Supervisor},
};

/// A query ends by itself after its requests have timed out; this is for the case that it does not.
const QUERY_LIMIT: Duration = Duration::from_secs(10);

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Asks and stores; nobody asks it.
    Client,
    /// Stores what others bring.
    Ring,
}

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// What it is for.
    pub mode: Mode,
    /// Where it listens; port 0 is chosen once and kept as long as the node lives.
    pub listen: SocketAddrV4,
    /// The ring, `HOST:PORT` each: always explicit, never the public one. A client with an empty list waits for a ring.
    pub ring: Vec<String>,
    /// When a request of a client is given up: 300 to 500 ms in a private network.
    pub request_timeout: Duration,
    /// Queries under way at once: with more than two, the answers overflow the socket's receive buffer of 208 KiB (measured).
    pub queries: usize,
    /// What bounds a ring node.
    pub limits: RingLimits,
}

impl NodeOptions {
    /// A client.
    #[must_use]
    pub fn client(listen: SocketAddrV4, ring: Vec<String>) -> Self {
        Self {
            mode: Mode::Client,
            listen,
            ring,
            request_timeout: Duration::from_millis(400),
            queries: 2,
            limits: RingLimits::default(),
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be used.
    #[error("cannot listen on {listen}/udp for the DHT")]
    Bind {
        /// Asked for.
        listen: SocketAddrV4,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The DHT is IPv4 only.
    #[error("the DHT is IPv4 only and cannot listen on {0}")]
    NoIpv4(SocketAddr),
    /// The node's thread fell at once.
    #[error("the DHT node did not start")]
    Panicked,
    /// The program is going down.
    #[error("the program is shutting down")]
    ShuttingDown,
}

/// The IPv4 address that the DHT listens on, for an address of either family: all addresses stay all addresses.
///
/// # Errors
/// For an address that only IPv6 has.
pub fn ipv4_listen(listen: SocketAddr) -> Result<SocketAddrV4, StartError> {
    let ip = match listen.ip().to_canonical() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST,
        IpAddr::V6(_) => return Err(StartError::NoIpv4(listen)),
    };
    Ok(SocketAddrV4::new(ip, listen.port()))
}

/// What a node sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Where it listens, while it is up.
    pub local: Option<SocketAddrV4>,
    /// The ring as it was given.
    pub ring: Vec<String>,
    /// How many nodes are in its routing table.
    pub known_nodes: usize,
}

/// A mainline node, kept alive. Clones are the same node; it ends with its task group.
#[derive(Clone)]
pub struct DhtNode {
    supervisor: Supervisor,
    queries: Arc<Semaphore>,
    clock: Clock,
    tasks: TaskGroup,
}

impl fmt::Debug for DhtNode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DhtNode").field("supervisor", &self.supervisor).finish_non_exhaustive()
    }
}

impl DhtNode {
    /// Starts a node.
    ///
    /// # Errors
    /// Where its port cannot be used.
    pub async fn start(options: NodeOptions, clock: Clock, tasks: &TaskGroup) -> Result<Self, StartError> {
        describe();
        let tasks = tasks.child("dht");
        let queries = Arc::new(Semaphore::new(options.queries.max(1)));
        let supervisor = Supervisor::start(options, clock.clone(), &tasks).await?;
        Ok(Self { supervisor, queries, clock, tasks })
    }

    /// What it sees.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            local: self.supervisor.live().ok().map(|live| live.local),
            ring: self.supervisor.ring(),
            known_nodes: self.supervisor.known(),
        }
    }

    /// Replaces the list of ring nodes. A client is built anew at once, on the same port; a ring node keeps what it stores (its
    /// list only fills its own table) and uses the new list when it starts again.
    pub fn set_ring(&self, ring: Vec<String>) {
        self.supervisor.set_ring(ring);
    }

    /// Another list of ring nodes, which a client asks where nobody of the first one answers.
    pub fn set_spare_ring(&self, spare: Vec<String>) {
        self.supervisor.set_spare(spare);
    }

    pub(crate) fn set_known(&self, known: HashSet<Ipv4Addr>) {
        self.supervisor.set_known(known);
    }

    async fn put(&self, record: SignedRecord) -> Result<Stored, PublishError> {
        if record.value.len() > MAX_RECORD_BYTES {
            return Err(PublishError::TooLong(record.value.len()));
        }
        let _permit = self.queries.acquire().await.map_err(|_closed| PublishError::ShuttingDown)?;
        let live = self.supervisor.wait_live().await?;
        let started = self.clock.now();
        let item =
            MutableItem::new_signed_unchecked(record.key.to_bytes(), record.signature, &record.value, record.seq, None);
        let work = self.supervisor.call(put_twice(&live.dht, item, live.ring));
        let result = match tokio::time::timeout(QUERY_LIMIT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(fallen)) => Err(fallen.into()),
            Err(_elapsed) => Err(PublishError::Unreachable),
        };
        let outcome = match &result {
            Ok(stored) if stored.is_enough() => "stored",
            Ok(_) => "stored_in_part",
            Err(PublishError::NotMostRecent) => "superseded",
            Err(_) => "no_answer",
        };
        self.count("put", outcome, started);
        result
    }

    async fn look_up(self, key: PublicKey, sender: LookupSender) {
        let Ok(_permit) = self.queries.acquire().await else { return };
        let Ok(live) = self.supervisor.wait_live().await else { return };
        let started = self.clock.now();
        let mut found = 0_usize;
        let work = async {
            let query = live.dht.get_mutable_detailed(key.as_bytes(), None, None);
            let mut items = query.items;
            while let Some(item) = items.next().await {
                found += 1;
                if let Some(record) = signed(&item) {
                    sender.send(LookupEvent::Found(Box::new(record)));
                }
            }
            query.outcome.recv().await.valid_responses()
        };
        let done = tokio::time::timeout(QUERY_LIMIT, self.supervisor.call(work)).await;
        let responses = match done {
            Ok(Ok(responses)) => usize::try_from(responses).unwrap_or(usize::MAX),
            Ok(Err(_)) | Err(_) => 0,
        };
        let whole = responses >= live.ring.min(MOST_ASKED);
        sender.send(LookupEvent::Done { responses, whole });
        let outcome = match (found, responses) {
            (0, 0) => "no_answer",
            (0, _) => "absent",
            (_, _) => "found",
        };
        self.count("get", outcome, started);
    }

    fn count(&self, op: &'static str, result: &'static str, started: std::time::Instant) {
        let took = self.clock.now().saturating_duration_since(started);
        counter!("dwcp_dht_queries_total", "op" => op, "result" => result).increment(1);
        histogram!("dwcp_dht_query_duration_seconds", "op" => op).record(took);
    }
}

fn describe() {
    describe_gauge!("dwcp_dht_nodes", "DHT nodes in this node's routing table.");
    describe_gauge!("dwcp_dht_ring_peers", "Other ring nodes in this ring node's routing table.");
    describe_counter!("dwcp_dht_queries_total", "DHT queries by operation and result.");
    describe_counter!("dwcp_dht_cache_lookups_total", "Look-ups in the cache of peers' metadata by result.");
    describe_counter!("dwcp_dht_rejected_records_total", "Records of peers that were not believed, by reason.");
    describe_counter!(
        "dwcp_dht_refused_addresses_total",
        "Addresses in lists of ring nodes that nothing is sent to, by reason."
    );
    describe_counter!(
        "dwcp_dht_disagreements_total",
        "Look-ups in which the DHT said less than is known otherwise, by kind."
    );
    describe_gauge!(
        "dwcp_dht_disagreeing_nodes",
        "Nodes of which the DHT goes on to say less than is known otherwise."
    );
    describe_histogram!("dwcp_dht_query_duration_seconds", Unit::Seconds, "How long DHT queries took.");
}

impl Directory for DhtNode {
    fn publish(&self, record: SignedRecord) -> BoxFuture<'_, Result<Stored, PublishError>> {
        let node = self.clone();
        // A put that was begun is ended, also when nobody waits for it any more.
        let task = self.tasks.run("dht put", async move { node.put(record).await });
        Box::pin(async move { task.await.unwrap_or(Err(PublishError::ShuttingDown)) })
    }

    fn resolve(&self, key: PublicKey) -> Lookup {
        let (sender, lookup) = lookup_channel();
        let (node, tasks) = (self.clone(), self.tasks.clone());
        self.tasks.spawn("dht get", OnEnd::Expected, async move {
            tokio::select! {
                () = tasks.cancelled() => {}
                () = node.look_up(key, sender) => {}
            }
        });
        lookup
    }
}

impl From<Fallen> for PublishError {
    fn from(fallen: Fallen) -> Self {
        match fallen {
            Fallen::NoRing => Self::NoRing,
            Fallen::Restarting => Self::Restarting,
        }
    }
}

/// A put; where it failed or did not reach all, a get and a put again. mainline keeps whom it found for a key, and their tokens, for
/// up to 5 minutes and puts to these alone: tokens that ring nodes forgot by a restart, and a node that was missed once, stay
/// wrong all that time, until a get of the same key.
async fn put_twice(dht: &AsyncDht, item: MutableItem, ring: usize) -> Result<Stored, PublishError> {
    let first = put_once(dht, item.clone(), ring).await;
    match first {
        Ok(stored) if stored.is_everywhere() => return first,
        Ok(_) | Err(PublishError::Unreachable) => {}
        Err(_) => return first,
    }
    let mut again = dht.get_mutable(item.key(), None, None);
    while again.next().await.is_some() {}
    let second = put_once(dht, item, ring).await;
    match (&first, &second) {
        (Ok(before), Ok(after)) if before.stored_at > after.stored_at => first,
        (Ok(_), Err(PublishError::Unreachable)) => first,
        (_, _) => second,
    }
}

async fn put_once(dht: &AsyncDht, item: MutableItem, ring: usize) -> Result<Stored, PublishError> {
    match dht.put_mutable(item, None).await {
        Ok(outcome) => Ok(Stored { stored_at: usize::try_from(outcome.stored_at).unwrap_or(usize::MAX), ring }),
        Err(errors::PutMutableError::Query(_)) => Err(PublishError::Unreachable),
        Err(errors::PutMutableError::Concurrency(_)) => Err(PublishError::NotMostRecent),
    }
}

/// mainline has checked the signature; the reader checks it again, since it may come from elsewhere too.
fn signed(item: &MutableItem) -> Option<SignedRecord> {
    let key = PublicKey::from_bytes(item.key()).ok()?;
    Some(SignedRecord { key, seq: item.seq(), value: item.value().to_vec(), signature: *item.signature() })
}

#[cfg(test)]
mod tests;
