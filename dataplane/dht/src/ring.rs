//! A node of the ring: a control-plane replica or a relay that stores the fleet's records.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddrV4},
};

use foundation_runtime::{Clock, TaskGroup};

use crate::node::{DhtNode, Mode, NodeOptions, NodeStatus, StartError};

/// How to start a ring node.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// Where it listens; port 0 is chosen once. See [`crate::ipv4_listen`].
    pub listen: SocketAddrV4,
    /// All nodes of the ring, `HOST:PORT` each, the same list on each of them; this one may stand in it. Empty: alone so far.
    pub ring: Vec<String>,
    /// What bounds it.
    pub limits: RingLimits,
}

/// What bounds a ring node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Records that it keeps; the one that was not asked for longest goes first. Some 1 KB each.
    pub records: usize,
    /// Requests of one address that it answers in a second; five times as many of one that is known.
    pub requests_per_second: u32,
}

impl Default for RingLimits {
    /// Four times the 25,000 records after which a fleet should have several rings. A look-up is some ten requests to all of a ring
    /// together; an answer is up to 14 times as long as its request, so an address that was forged gets 60 KB a second at most.
    fn default() -> Self {
        Self { records: 100_000, requests_per_second: 50 }
    }
}

/// Stores records for the fleet, in memory: what a restart loses, their owners bring again. A relay agent runs a client
/// ([`DhtNode`]) beside it for its own record, since a ring node does not store at itself.
#[derive(Clone, Debug)]
pub struct RingNode(DhtNode);

impl RingNode {
    /// Starts it; it ends with its task group.
    ///
    /// # Errors
    /// Where its port cannot be used.
    pub async fn start(options: RingOptions, clock: Clock, tasks: &TaskGroup) -> Result<Self, StartError> {
        // A ring node's own time-out is set by its mode.
        let RingOptions { listen, ring, limits } = options;
        let options = NodeOptions { mode: Mode::Ring, limits, ..NodeOptions::client(listen, ring) };
        DhtNode::start(options, clock, tasks).await.map(Self)
    }

    /// Where it listens, while it is up.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddrV4> {
        self.0.status().local
    }

    /// What it sees.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.0.status()
    }

    /// Addresses that are known to be the fleet's, beside the ring's own: they may ask more.
    pub fn set_known(&self, known: HashSet<Ipv4Addr>) {
        self.0.set_known(known);
    }

    /// The new list; in force when the node starts again, so that it keeps what it stores.
    pub fn set_ring(&self, ring: Vec<String>) {
        self.0.set_ring(ring);
    }
}
