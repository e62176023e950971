//! Nodes of a fleet on loopback, for tests.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test that cannot go on fails here; not every program uses all of it"
)]

pub(crate) mod path;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use dataplane_amst::{Channel, DialError, Endpoint, IncomingChannel, Limits, Options, Session, TransportSettings};
use dataplane_identity::{Identity, testing::TestFleet};
use foundation_runtime::{Clock, TaskGroup};

/// Far longer than anything here takes; only a test that fails waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Node {
    _dir: tempfile::TempDir,
    pub(crate) identity: Identity,
    pub(crate) endpoint: Endpoint,
    pub(crate) tasks: TaskGroup,
}

pub(crate) struct Fleet {
    pub(crate) fleet: TestFleet,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) fn options(identity: &Identity) -> Options {
    Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        sockets: 1,
        identity: identity.clone(),
        settings: TransportSettings::default(),
        limits: Limits::default(),
    }
}

pub(crate) async fn fleet(count: usize, change: impl Fn(usize, &mut Options)) -> Fleet {
    // A second one finds it installed.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let fleet = TestFleet::new();
    let mut nodes = Vec::new();
    for index in 0..count {
        let dir = tempfile::tempdir().unwrap();
        let identity = fleet.node(dir.path(), &format!("node-{index}"));
        let mut options = options(&identity);
        change(index, &mut options);
        let tasks = TaskGroup::new("test");
        let endpoint = Endpoint::bind(options, Clock::system(), tasks.clone()).await.unwrap();
        nodes.push(Node { _dir: dir, identity, endpoint, tasks });
    }
    fleet.share(nodes.iter().map(|node| &node.identity));
    Fleet { fleet, nodes }
}

impl Node {
    pub(crate) fn address(&self) -> SocketAddr {
        let address = self.endpoint.local_addr();
        if address.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())) } else { address }
    }

    pub(crate) async fn dial(&self, other: &Self) -> Result<Session, DialError> {
        soon(self.endpoint.session(other.identity.public_key(), &[other.address()])).await
    }
}

impl Fleet {
    pub(crate) async fn channel(&self) -> (Session, Channel, IncomingChannel) {
        let session = self.nodes[0].dial(&self.nodes[1]).await.unwrap();
        let (ours, theirs) = open(&session, &self.nodes[1]).await;
        (session, ours, theirs)
    }
}

pub(crate) async fn open(session: &Session, acceptor: &Node) -> (Channel, IncomingChannel) {
    let (ours, theirs) = soon(async { tokio::join!(session.open_channel(), acceptor.endpoint.next_channel()) }).await;
    (ours.unwrap(), theirs.unwrap())
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

/// Bytes that differ from piece to piece and along each.
pub(crate) fn contents(number: u64, length: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    Bytes::from(bytes)
}
