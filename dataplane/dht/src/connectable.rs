//! Which peers can be connected to at all (RN-5).

use std::sync::Arc;

use proto_model::NodeId;

use crate::{record::NodeType, resolver::Resolved};

/// Whether, and by what way, a peer can be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectable {
    /// At its addresses.
    Directly,
    /// Through this relay.
    Through(NodeId),
    /// Not: it is behind NAT, and none of its relays is alive.
    No,
}

impl Connectable {
    /// Of one peer. A peer without a record of its own counts by the addresses that the control plane sees.
    #[must_use]
    pub fn of(peer: &Resolved, relay_lives: impl Fn(&NodeId) -> bool) -> Self {
        let private = peer.record.as_ref().filter(|record| record.record().node_type == NodeType::Private);
        match private {
            Some(record) => {
                record.record().relays.iter().copied().find(|relay| relay_lives(relay)).map_or(Self::No, Self::Through)
            }
            None if peer.addresses().is_empty() => Self::No,
            None => Self::Directly,
        }
    }
}

/// Those of `peers` that can be connected to; says in the log which are left out.
#[must_use]
pub fn connectable(peers: Vec<Arc<Resolved>>, relay_lives: impl Fn(&NodeId) -> bool) -> Vec<Arc<Resolved>> {
    let mut kept = Vec::with_capacity(peers.len());
    for peer in peers {
        match Connectable::of(&peer, &relay_lives) {
            Connectable::Directly | Connectable::Through(_) => kept.push(peer),
            Connectable::No => {
                let id = peer.node_id();
                if peer.record.as_ref().is_some_and(|record| record.record().node_type == NodeType::Private) {
                    tracing::info!("NAT peer without relay: {id}");
                }
                tracing::info!("Filtered out non-connectable peer {id}");
            }
        }
    }
    tracing::info!("Filtered {} peers as connectable", kept.len());
    kept
}
