//! R32: how a node finds the ring, with a list that is good, bad, dead or missing. Runs in a network of its own, where who is written to can be
//! counted.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dataplane_dht::{
    DhtNode, Directory as _, LookupEvent, NodeOptions, RingLimits, RingNode, RingOptions, SignedRecord,
};
use foundation_runtime::{Clock, TaskGroup};
use serde_json::{Value, json};

use crate::{
    fleet::{fleet, key, signer},
    side::RING_PORT,
};

/// The network that this wants: itself, the ring, and where nobody is.
pub const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The ring.
pub const RING: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(192, 0, 2, 12), Ipv4Addr::new(192, 0, 2, 13)];
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const OWN_PORT: u16 = 30609;

/// Ten thousand entries that no node can be at, and after them those given.
fn poisoned(and: &[String]) -> Vec<String> {
    let kinds = ["224.0.0.{}", "239.1.2.{}", "240.0.0.{}", "0.0.0.{}", "169.254.9.{}", "127.0.0.{}"];
    let nonsense =
        (0..9_990_usize).map(|n| format!("{}:{}", kinds[n % 6].replace("{}", &(n % 250).to_string()), 1 + n % 60_000));
    let own = ["255.255.255.255:1".to_owned(), format!("{OWN}:{OWN_PORT}"), format!("{}:0", RING[0])];
    nonsense.chain(own).chain(and.iter().cloned()).collect()
}

/// What is to be found.
fn record(clock: &Clock) -> Result<SignedRecord> {
    let record = dataplane_dht::Record {
        issued_s: u64::try_from(clock.unix_ms() / 1000)?,
        ttl_s: 9000,
        fleet: fleet(),
        addresses: vec![(OWN, 1).into()],
        node_type: dataplane_dht::NodeType::Public,
        nat: dataplane_dht::Nat::Unknown,
        relays: Vec::new(),
    };
    Ok(SignedRecord::sign(&signer(0), clock.unix_ms(), &record)?)
}

/// From the start of a node to its first good look-up.
async fn first_good(list: Vec<String>, spare: &[String], late: &[String], clock: &Clock) -> Result<Duration> {
    let tasks = TaskGroup::new("begin");
    let listen = SocketAddrV4::new(OWN, OWN_PORT);
    let asked = Instant::now();
    // The node before this one leaves its port within moments.
    while let Err(busy) = UdpSocket::bind(listen) {
        ensure!(asked.elapsed() < Duration::from_secs(5), busy);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    let node = DhtNode::start(NodeOptions::client(listen, list), clock.clone(), &tasks).await?;
    node.set_spare_ring(spare.to_vec());
    if !late.is_empty() {
        node.set_ring(late.to_vec());
    }
    let took = loop {
        if matches!(node.resolve(key(0)).next().await, LookupEvent::Found(_)) {
            break begun.elapsed();
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "nothing was found in 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tasks.shutdown(Duration::from_secs(5)).await?;
    Ok(took)
}

/// Does it; the seconds of each case.
///
/// # Errors
/// Something is not found.
pub async fn run() -> Result<Value> {
    let (tasks, clock) = (TaskGroup::new("ring"), Clock::system());
    let ring: Vec<_> = RING.iter().map(|ip| SocketAddrV4::new(*ip, RING_PORT).to_string()).collect();
    for address in &ring {
        let options = RingOptions { listen: address.parse()?, ring: ring.clone(), limits: RingLimits::default() };
        RingNode::start(options, clock.clone(), &tasks).await?;
    }
    let writer =
        DhtNode::start(NodeOptions::client(SocketAddrV4::new(OWN, 0), ring.clone()), clock.clone(), &tasks).await?;
    writer.publish(record(&clock)?).await?;
    let dead: Vec<_> = (1..=10_000).map(|port| SocketAddrV4::new(NOBODY, port).to_string()).collect();
    let cases = [
        ("warm: the list that was kept", ring.clone(), &[][..], &[][..]),
        ("cold: the list comes from the control plane", Vec::new(), &[], &ring[..]),
        ("10,000 entries of nonsense, and one that is right", poisoned(&ring[..1]), &[], &[]),
        ("10,000 entries of nonsense, then the control plane's", poisoned(&[]), &ring[..], &[]),
        ("10,000 entries where nobody is, then the control plane's", dead, &ring[..], &[]),
    ];
    let mut took = serde_json::Map::new();
    for (name, list, spare, late) in cases {
        took.insert(name.to_owned(), json!(first_good(list, spare, late, &clock).await.context(name)?.as_secs_f64()));
    }
    tasks.shutdown(Duration::from_secs(5)).await?;
    Ok(Value::Object(took))
}
