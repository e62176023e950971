//! Records on real mainline nodes on 127.0.0.1. Every wait is a poll with a deadline; all of it is over in seconds, long before
//! mainline's 15 minutes after which tables thin out.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use crate::{
    Announcement, DhtNode, Directory, Fallback, FallbackAnswer, FallbackError, FleetTag, LookupEvent, MAX_RECORD_BYTES,
    MemoryRecords, NodeOptions, PublishError, Publisher, PublisherOptions, RecordSigner, ResolveError, Resolver,
    ResolverOptions, RingLimits, RingNode, RingOptions, SignedRecord, Source,
};
use ed25519_dalek::SigningKey;
use foundation_runtime::{Clock, TaskGroup};
use futures::future::BoxFuture;
use proto_model::{FleetId, PublicKey};

use super::Fallen;

mod lying;

const LOCALHOST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

#[derive(Debug)]
struct NoControlPlane;

impl Fallback for NoControlPlane {
    fn look_up(&self, _key: PublicKey) -> BoxFuture<'_, Result<Option<FallbackAnswer>, FallbackError>> {
        Box::pin(async { Err(FallbackError("there is none".into())) })
    }
}

fn fleet() -> FleetTag {
    FleetTag::of(&FleetId::new(uuid::Uuid::from_u128(1)))
}

fn signer(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<String> {
    let sockets: Vec<_> = (0..count).map(|_| std::net::UdpSocket::bind(LOCALHOST).unwrap()).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect()
}

async fn ring_of(count: usize, tasks: &TaskGroup) -> Vec<String> {
    let ports = free_ports(count);
    for port in &ports {
        ring_node(port, &ports, tasks).await;
    }
    ports
}

async fn ring_node(listen: &str, ring: &[String], tasks: &TaskGroup) -> RingNode {
    let options = RingOptions { listen: listen.parse().unwrap(), ring: ring.to_vec(), limits: RingLimits::default() };
    RingNode::start(options, Clock::system(), tasks).await.unwrap()
}

async fn client(ring: &[String], tasks: &TaskGroup) -> DhtNode {
    DhtNode::start(NodeOptions::client(LOCALHOST, ring.to_vec()), Clock::system(), tasks).await.unwrap()
}

fn announcement(port: u16) -> Announcement {
    Announcement { addresses: vec![SocketAddr::from(([192, 0, 2, 1], port))], ..Announcement::default() }
}

fn publisher(number: u8, node: &DhtNode, store: &Arc<MemoryRecords>, tasks: &TaskGroup) -> Publisher {
    Publisher::start(
        PublisherOptions { debounce: Duration::from_millis(1), ..PublisherOptions::new(fleet()) },
        Arc::new(signer(number)),
        Arc::new(node.clone()),
        store.clone(),
        Clock::system(),
        tasks,
    )
}

fn resolver(node: &DhtNode, tasks: &TaskGroup) -> Resolver {
    Resolver::start(
        ResolverOptions { negative_ttl: Duration::ZERO, ..ResolverOptions::new(fleet()) },
        Arc::new(node.clone()),
        Arc::new(NoControlPlane),
        Arc::new(MemoryRecords::default()),
        Clock::system(),
        tasks,
    )
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let poll = async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), poll).await.unwrap_or_else(|_| panic!("not within 60 s: {what}"))
}

async fn sees(resolver: &Resolver, number: u8, port: u16) -> Option<()> {
    let found = resolver.refresh(signer(number).public_key()).await.ok()?;
    (found.source == Source::Dht && found.addresses().first()?.port() == port).then_some(())
}

async fn copies(node: &DhtNode, number: u8) -> usize {
    let mut lookup = node.resolve(signer(number).public_key());
    let mut copies = 0;
    loop {
        match lookup.next().await {
            LookupEvent::Found(_) => copies += 1,
            LookupEvent::Done { .. } => return copies,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_found_follows_changes_and_survives_the_loss_of_ring_nodes() {
    let tasks = TaskGroup::new("test");
    let parts: Vec<_> = (0..3).map(|_| tasks.child("ring")).collect();
    let ports = free_ports(3);
    for (part, port) in parts.iter().zip(&ports) {
        ring_node(port, &ports, part).await;
    }
    let (writer, reader) = (client(&ports, &tasks).await, client(&ports, &tasks).await);
    let store = Arc::new(MemoryRecords::default());
    let publisher = publisher(1, &writer, &store, &tasks);
    let resolver = resolver(&reader, &tasks);

    publisher.announce(announcement(1000));
    until("the first record", || sees(&resolver, 1, 1000)).await;
    publisher.announce(announcement(1001));
    until("the changed record", || sees(&resolver, 1, 1001)).await;
    until("copies", || async { (copies(&reader, 1).await >= 2).then_some(()) }).await;

    // Two of three are lost.
    for part in &parts[..2] {
        part.shutdown(Duration::from_secs(5)).await.unwrap();
    }
    until("the record after the loss", || sees(&resolver, 1, 1001)).await;

    // The third as well: nothing answers, and it is said so.
    parts[2].shutdown(Duration::from_secs(5)).await.unwrap();
    let gone = || async {
        let found = resolver.refresh(signer(2).public_key()).await;
        (found == Err(ResolveError::Unreachable)).then_some(())
    };
    until("silence", gone).await;

    // They come back empty; the owner's next put is found, although it holds tokens of before.
    for port in &ports {
        ring_node(port, &ports, &tasks).await;
    }
    publisher.announce(announcement(1002));
    until("the record after the restart", || sees(&resolver, 1, 1002)).await;
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_one_serves_and_a_new_list_is_taken_live() {
    let tasks = TaskGroup::new("test");
    let alone = ring_node("127.0.0.1:0", &[], &tasks).await;
    let first = alone.local_addr().unwrap().to_string();
    let (writer, reader) = (client(&[], &tasks).await, client(&[], &tasks).await);
    let store = Arc::new(MemoryRecords::default());
    let publisher = publisher(1, &writer, &store, &tasks);
    let resolver = resolver(&reader, &tasks);
    publisher.announce(announcement(1000));
    let record = until("a signed record", || async { publisher.signed().borrow().clone() }).await;
    assert_eq!(writer.publish(record).await, Err(PublishError::NoRing));

    for node in [&writer, &reader] {
        node.set_ring(vec![first.clone()]);
    }
    publisher.republish();
    until("the record in a ring of one", || sees(&resolver, 1, 1000)).await;

    // Another ring altogether: the clients go over to it, on the port they had.
    let before = writer.status().local;
    let second = ring_of(2, &tasks).await;
    for node in [&writer, &reader] {
        node.set_ring(second.clone());
    }
    publisher.republish();
    until("the record in the new ring", || sees(&resolver, 1, 1000)).await;
    until("two copies", || async { (copies(&reader, 1).await == 2).then_some(()) }).await;
    assert_eq!(writer.status().local, before);
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_seq_and_an_oversize_value_are_refused() {
    let tasks = TaskGroup::new("test");
    let ring = ring_of(2, &tasks).await;
    let node = client(&ring, &tasks).await;
    let store = Arc::new(MemoryRecords::default());
    let publisher = publisher(3, &node, &store, &tasks);
    publisher.announce(announcement(1000));
    until("two copies", || async { (copies(&node, 3).await == 2).then_some(()) }).await;
    let newest = publisher.signed().borrow().clone().unwrap();

    let value = newest.value.clone();
    let old = mainline_item(3, newest.seq - 1, &value);
    until("the refusal of the older seq", || async {
        (node.publish(old.clone()).await == Err(PublishError::NotMostRecent)).then_some(())
    })
    .await;
    let long = mainline_item(3, newest.seq + 1, &[0; MAX_RECORD_BYTES + 1]);
    assert_eq!(node.publish(long).await, Err(PublishError::TooLong(MAX_RECORD_BYTES + 1)));
    // The longest that is allowed passes the ring.
    let full = mainline_item(4, newest.seq, &[0; MAX_RECORD_BYTES]);
    until("the longest value", || async { node.publish(full.clone()).await.ok() }).await;
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_a_clear_error() {
    let tasks = TaskGroup::new("test");
    let taken = std::net::UdpSocket::bind(LOCALHOST).unwrap();
    let SocketAddr::V4(listen) = taken.local_addr().unwrap() else { panic!("IPv4 was asked for") };
    let refused = RingNode::start(
        RingOptions { listen, ring: Vec::new(), limits: RingLimits::default() },
        Clock::system(),
        &tasks,
    )
    .await;
    assert_eq!(refused.unwrap_err().to_string(), format!("cannot listen on {listen}/udp for the DHT"));
}

/// Signed by BEP 44's rules, whatever the value.
fn mainline_item(number: u8, seq: i64, value: &[u8]) -> SignedRecord {
    let mut message = format!("3:seqi{seq}e1:v{}:", value.len()).into_bytes();
    message.extend_from_slice(value);
    let signature = RecordSigner::sign(&signer(number), &message);
    SignedRecord { key: signer(number).public_key(), seq, value: value.to_vec(), signature }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_fell_is_built_again_on_its_port() {
    let tasks = TaskGroup::new("test");
    let ring = ring_of(1, &tasks).await;
    let node = client(&ring, &tasks).await;
    let before = node.status().local;
    let fallen = node.supervisor.call(async { panic!("as every call does once the node's thread is gone") }).await;
    assert_eq!(fallen, Err::<(), _>(Fallen::Restarting));
    let record = mainline_item(5, 1, b"value");
    // The supervisor may be at any point between the fall and the new node.
    until("a put after the fall, from the port of before", || async {
        let stored = node.publish(record.clone()).await.ok()?;
        (stored.stored_at == 1 && node.status().local == before).then_some(())
    })
    .await;
    tasks.shutdown(Duration::from_secs(5)).await.unwrap();
}
