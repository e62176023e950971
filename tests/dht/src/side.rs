//! One half of a fleet, as a process in a network of its own: ring nodes and agents, each at an address of its own. It does what
//! lines of its standard input say, and answers each by a line of JSON.

use std::{
    collections::HashSet,
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use dataplane_dht::{
    DhtNode, Directory as _, Fallback, FallbackAnswer, FallbackError, LookupEvent, MemoryRecords, NodeOptions,
    Publisher, PublisherOptions, Resolver, ResolverOptions, RingLimits, RingNode, RingOptions,
};
use foundation_runtime::{Clock, TaskGroup};
use futures::future::{BoxFuture, join_all};
use proto_model::PublicKey;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::fleet::{announcement, fleet, key, port_of, signer};

/// Where the ring's nodes listen.
pub const RING_PORT: u16 = 30610;
const AGENT_PORT: u16 = 30609;

/// What a half is made of.
#[derive(Clone, Debug, clap::Args)]
pub struct Side {
    /// The third number of its addresses.
    #[arg(long)]
    pub network: u8,
    /// Agents in it.
    #[arg(long)]
    pub agents: u16,
    /// Agents of the whole fleet.
    #[arg(long)]
    pub all: u16,
    /// The first of its own.
    #[arg(long)]
    pub first: u16,
    /// Ring nodes in it.
    #[arg(long)]
    pub ring: u8,
    /// How often a record that part of the ring lacks is put again, and how long what a part of it said is kept; what all said,
    /// five times as long.
    #[arg(long)]
    pub patience_ms: u64,
}

/// No control plane: the DHT is to come together by itself.
#[derive(Debug)]
struct Nobody;

impl Fallback for Nobody {
    fn look_up(&self, _key: PublicKey) -> BoxFuture<'_, Result<Option<FallbackAnswer>, FallbackError>> {
        Box::pin(async { Err(FallbackError("there is none".into())) })
    }
}

#[derive(Debug)]
struct Agent {
    node: DhtNode,
    publisher: Publisher,
    resolver: Resolver,
}

/// The address of a ring node.
#[must_use]
pub fn ring_address(network: u8, number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 78, network, number), RING_PORT)
}

/// The address of an agent, by its place in its half.
#[must_use]
pub fn agent_address(network: u8, place: u16) -> Ipv4Addr {
    let last = u8::try_from(place + 50).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 78, network, last)
}

/// Runs it, to the end of its input.
///
/// # Errors
/// A node does not start, or a line is not understood.
pub async fn run(side: &Side) -> Result<()> {
    let (tasks, clock) = (TaskGroup::new("side"), Clock::system());
    let ring: Vec<_> =
        [1, 2].into_iter().flat_map(|network| (1..=side.ring).map(move |n| ring_address(network, n))).collect();
    let names: Vec<_> = ring.iter().map(ToString::to_string).collect();
    let known: HashSet<_> =
        [1, 2].into_iter().flat_map(|network| (0..side.all).map(move |place| agent_address(network, place))).collect();
    let mut nodes = Vec::new();
    for number in 1..=side.ring {
        let listen = ring_address(side.network, number);
        let options = RingOptions { listen, ring: names.clone(), limits: RingLimits::default() };
        let node = RingNode::start(options, clock.clone(), &tasks).await.with_context(|| format!("{listen}"))?;
        node.set_known(known.clone());
        nodes.push(node);
    }
    let mut agents = Vec::new();
    for place in 0..side.agents {
        agents.push(agent(side, place, &names, &clock, &tasks).await?);
    }
    say(&json!("ready"))?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<_> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["announce", place, port] => announce(&agents[place.parse::<usize>()?], port.parse()?).await?,
            ["look", how] => look(&agents, side.all, *how == "anew").await,
            ["copies"] => copies(&agents, side.all).await,
            _ => bail!("{line}"),
        };
        say(&answer)?;
    }
    tasks.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

async fn agent(side: &Side, place: u16, ring: &[String], clock: &Clock, tasks: &TaskGroup) -> Result<Agent> {
    let listen = SocketAddrV4::new(agent_address(side.network, place), AGENT_PORT);
    let node = DhtNode::start(NodeOptions::client(listen, ring.to_vec()), clock.clone(), tasks).await?;
    let patience = Duration::from_millis(side.patience_ms);
    let (directory, store) = (Arc::new(node.clone()), Arc::new(MemoryRecords::default()));
    let publisher = Publisher::start(
        PublisherOptions { repeat_interval: patience, ..PublisherOptions::new(fleet()) },
        Arc::new(signer(side.first + place)),
        directory.clone(),
        store.clone(),
        clock.clone(),
        tasks,
    );
    let options = ResolverOptions { partial_ttl: patience, ttl: 5 * patience, ..ResolverOptions::new(fleet()) };
    let resolver = Resolver::start(options, directory, Arc::new(Nobody), store, clock.clone(), tasks);
    Ok(Agent { node, publisher, resolver })
}

fn say(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

/// Says something new; its `seq` is the answer.
async fn announce(agent: &Agent, port: u16) -> Result<Value> {
    let mut signed = agent.publisher.signed();
    agent.publisher.announce(announcement(port));
    let said = signed.wait_for(|record| record.as_ref().and_then(port_of) == Some(port)).await?;
    Ok(json!(said.as_ref().map(|record| record.seq)))
}

/// What each agent here finds of each of the fleet: `[number, seq, port]`, where it finds something.
async fn look(agents: &[Agent], all: u16, anew: bool) -> Value {
    let views = join_all(agents.iter().map(|agent| async move {
        let mut found = Vec::new();
        for number in 0..all {
            let resolved = if anew {
                agent.resolver.refresh(key(number)).await
            } else {
                agent.resolver.resolve(key(number)).await
            };
            let record = resolved.ok().and_then(|resolved| resolved.record.clone());
            let port = record.as_ref().and_then(|record| port_of(record.signed()));
            found.push(json!([number, record.as_ref().map(dataplane_dht::VerifiedRecord::seq), port]));
        }
        found
    }));
    json!(views.await)
}

/// What the nodes of the ring hold of each agent: all the `seq`s that answer.
async fn copies(agents: &[Agent], all: u16) -> Value {
    let mut copies = Vec::new();
    for number in 0..all {
        let mut lookup = agents[usize::from(number) % agents.len()].node.resolve(key(number));
        let mut seqs = Vec::new();
        while let LookupEvent::Found(record) = lookup.next().await {
            seqs.push(record.seq);
        }
        copies.push(json!(seqs));
    }
    json!(copies)
}
