//! R30: a ring with made-up nodes close to one key; what comes of looking for it.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use dataplane_dht::{
    DhtNode, Directory as _, Fallback, FallbackAnswer, FallbackError, LookupEvent, MemoryRecords, Nat, NodeOptions,
    NodeType, Record, RecordStore as _, Resolver, ResolverOptions, RingLimits, RingNode, RingOptions, SignedRecord,
    Source,
};
use foundation_runtime::{Clock, TaskGroup};
use futures::future::{BoxFuture, try_join_all};
use proto_model::PublicKey;
use rand::{SeedableRng as _, rngs::StdRng};

use crate::{
    fleet::{fleet, key, port_of, signer},
    side::RING_PORT,
    sybils::{Lie, Sybils},
};

const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
/// The port that the newest record says, and the one that an older says.
const NEWEST: u16 = 2222;
const OLDER: u16 = 1111;

/// How it is done.
#[derive(Clone, Debug, clap::Args)]
pub struct Eclipse {
    /// Honest nodes.
    #[arg(long, default_value_t = 50)]
    pub ring: u16,
    /// Of them, how many stand in the list that everybody begins with; one made-up node stands there too.
    #[arg(long, default_value_t = 5)]
    pub listed: usize,
    /// Made-up nodes, one world after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 10, 20, 50, 100, 200])]
    pub sybils: Vec<u16>,
    /// What they say.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Lie::Silent, Lie::Empty, Lie::Old, Lie::Junk])]
    pub lies: Vec<Lie>,
    /// Look-ups of each kind.
    #[arg(long, default_value_t = 40)]
    pub lookups: usize,
    /// Nodes that look, in turn.
    #[arg(long, default_value_t = 4)]
    pub lookers: usize,
    /// What each of them has looked for before: a node that has just started asks more nodes than one that knows its way.
    #[arg(long, default_value_t = 30)]
    pub before: u16,
    /// Of the made-up ids.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What comes of look-ups of one kind.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many found the newest record.
    pub right: usize,
    /// How many found an older one.
    pub older: usize,
    /// How many there were.
    pub of: usize,
    took: Vec<Duration>,
}

impl Tally {
    /// The time that 99 of 100 need at most.
    #[must_use]
    pub fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get((took.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }

    fn add(&mut self, port: Option<u16>, took: Duration) {
        self.of += 1;
        self.right += usize::from(port == Some(NEWEST));
        self.older += usize::from(port == Some(OLDER));
        self.took.push(took);
    }
}

/// One world.
#[derive(Debug)]
pub struct Row {
    /// Made-up nodes.
    pub sybils: u16,
    /// What they say.
    pub lie: Lie,
    /// At how many nodes the newest record lies, by their word.
    pub stored_at: usize,
    /// By the DHT alone, of a node that was never met.
    pub alone: Tally,
    /// With a control plane.
    pub with_control_plane: Tally,
    /// Without one, having known it.
    pub with_kept: Tally,
    /// Whether the alarm is raised, of those with a control plane.
    pub alarms: usize,
    /// Questions that the made-up nodes got.
    pub asked: usize,
}

#[derive(Debug)]
struct ControlPlane(Option<SignedRecord>);

impl Fallback for ControlPlane {
    fn look_up(&self, _key: PublicKey) -> BoxFuture<'_, Result<Option<FallbackAnswer>, FallbackError>> {
        let record = self.0.clone();
        Box::pin(async {
            let record = record.ok_or_else(|| FallbackError("away".into()))?;
            Ok(Some(FallbackAnswer { record: Some(record), observed: Vec::new() }))
        })
    }
}

/// What there is beside the DHT.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sources {
    Nothing,
    ControlPlane,
    Kept,
}

struct World {
    list: Vec<String>,
    old: SignedRecord,
    newest: SignedRecord,
    sybils: Sybils,
    tasks: TaskGroup,
}

fn signed(seq: i64, port: u16) -> Result<SignedRecord> {
    let record = Record {
        issued_s: u64::try_from(seq / 1000)?,
        ttl_s: 9000,
        fleet: fleet(),
        addresses: vec![(Ipv4Addr::new(192, 0, 2, 1), port).into()],
        node_type: NodeType::Public,
        nat: Nat::Unknown,
        relays: Vec::new(),
    };
    Ok(SignedRecord::sign(&signer(0), seq, &record)?)
}

impl World {
    async fn new(options: &Eclipse, sybils: u16, lie: &Lie, clock: &Clock) -> Result<Self> {
        let tasks = TaskGroup::new("eclipse");
        let mut random = StdRng::seed_from_u64(options.seed ^ (u64::from(sybils) << 32));
        // Both still hold; the older one is not even overdue.
        let (old, newest) = (signed(clock.unix_ms() - 1_200_000, OLDER)?, signed(clock.unix_ms() - 600_000, NEWEST)?);
        let sybils = Sybils::start(sybils, lie, newest.target(), &old, &mut random).await?;
        // Addresses that no other world on this host has, so that a port is free as long as its list is of use.
        let (second, third) = (rand::random_range(128..=250), rand::random_range(1..=250));
        let address = |number: u16| {
            let last = u8::try_from(number + 1).unwrap_or(u8::MAX);
            SocketAddrV4::new(Ipv4Addr::new(127, second, third, last), RING_PORT).to_string()
        };
        let honest: Vec<_> = (0..options.ring.min(250)).map(address).collect();
        let first = sybils.nodes.first().map(|(_, address)| address.to_string());
        let list: Vec<_> = first.into_iter().chain(honest.iter().take(options.listed).cloned()).collect();
        for address in &honest {
            let limits = RingLimits { requests_per_second: 1_000_000, ..RingLimits::default() };
            let options = RingOptions { listen: address.parse()?, ring: list.clone(), limits };
            RingNode::start(options, clock.clone(), &tasks).await?;
        }
        Ok(Self { list, old, newest, sybils, tasks })
    }

    async fn client(&self, clock: &Clock, tasks: &TaskGroup) -> Result<DhtNode> {
        Ok(DhtNode::start(NodeOptions::client(ANYWHERE, self.list.clone()), clock.clone(), tasks).await?)
    }

    /// A node that has looked for other things before.
    async fn looker(&self, before: u16, clock: &Clock) -> Result<DhtNode> {
        let node = self.client(clock, &self.tasks).await?;
        for number in 1..=before {
            let mut lookup = node.resolve(key(number));
            while let LookupEvent::Found(_) = lookup.next().await {}
        }
        Ok(node)
    }

    /// One look-up of who knows nothing else; whether it raised the alarm, where that is waited for.
    async fn look(&self, node: &DhtNode, tally: &mut Tally, sources: Sources, clock: &Clock) -> Result<bool> {
        let tasks = self.tasks.child("client");
        let (control, kept) = (sources == Sources::ControlPlane, sources == Sources::Kept);
        let store = Arc::new(MemoryRecords::default());
        if kept {
            store.keep(self.newest.clone().verify_signature()?).await?;
        }
        let fallback = Arc::new(ControlPlane(control.then(|| self.newest.clone())));
        let pause = Duration::from_millis(200);
        let options =
            ResolverOptions { ask_again_after: pause, ask_again_every: pause, ..ResolverOptions::new(fleet()) };
        let resolver = Resolver::start(options, Arc::new(node.clone()), fallback, store, clock.clone(), &tasks);
        let begun = Instant::now();
        let found = resolver.resolve(key(0)).await.ok();
        let took = begun.elapsed();
        tally.add(found.as_ref().and_then(|found| port_of(found.record.as_ref()?.signed())), took);
        // What the DHT says by itself comes first where it says the newest; else there is something to be alarmed of.
        let suspicious = found.is_none_or(|found| found.source != Source::Dht);
        let deadline = Instant::now() + Duration::from_secs(if control && suspicious { 2 } else { 0 });
        while resolver.disagreements().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let alarmed = !resolver.disagreements().is_empty();
        tasks.shutdown(Duration::from_secs(5)).await?;
        Ok(alarmed)
    }
}

/// One world: made-up nodes of one number, and one lie.
///
/// # Errors
/// A node does not start.
pub async fn row(options: &Eclipse, sybils: u16, lie: &Lie) -> Result<Row> {
    let clock = Clock::system();
    let world = World::new(options, sybils, lie, &clock).await?;
    let writer = world.client(&clock, &world.tasks).await?;
    let mut stored_at = 0;
    for record in [&world.old, &world.newest] {
        // Its own nodes may be slow to find each other.
        for _ in 0..10 {
            match writer.publish(record.clone()).await {
                Ok(stored) => {
                    stored_at = stored.stored_at;
                    break;
                }
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
    let mut row = Row {
        sybils,
        lie: lie.clone(),
        stored_at,
        alone: Tally::default(),
        with_control_plane: Tally::default(),
        with_kept: Tally::default(),
        alarms: 0,
        asked: 0,
    };
    let lookers = (0..options.lookers).map(|_| world.looker(options.before, &clock));
    let lookers: Vec<_> = try_join_all(lookers).await?;
    for node in lookers.iter().cycle().take(options.lookups) {
        world.look(node, &mut row.alone, Sources::Nothing, &clock).await?;
        world.look(node, &mut row.with_kept, Sources::Kept, &clock).await?;
        row.alarms += usize::from(world.look(node, &mut row.with_control_plane, Sources::ControlPlane, &clock).await?);
    }
    row.asked = world.sybils.asked.load(std::sync::atomic::Ordering::Relaxed);
    world.tasks.shutdown(Duration::from_secs(10)).await?;
    Ok(row)
}
