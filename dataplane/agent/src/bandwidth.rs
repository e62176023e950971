//! Keeps the bounds of what is sent as the configuration has them for the time of day and the present members.

use std::{collections::HashMap, sync::Arc, time::Duration};

use dataplane_amst::{Endpoint, Rates};
use dataplane_identity::Identity;
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use proto_model::config::Effective;
use tokio::sync::watch;

/// How often the time of day is looked at; a line of a schedule begins so late at most.
const LOOK: Duration = Duration::from_secs(2);

/// Follows the configuration, the roster and the clock.
pub(crate) fn keep(
    endpoint: Endpoint,
    identity: Identity,
    mut effective: watch::Receiver<Arc<Effective>>,
    clock: Clock,
    tasks: &TaskGroup,
) {
    let group = tasks.clone();
    tasks.spawn("bandwidth", OnEnd::Fatal, async move {
        let mut roster = identity.membership().changes();
        let mut before = None;
        loop {
            let rates = rates(&effective.borrow_and_update(), &identity, &clock);
            if before.as_ref() != Some(&rates) {
                endpoint.set_rates(&rates);
                tracing::info!(total = rates.total, peers = rates.peers.len(), "What is sent is bounded anew");
                before = Some(rates);
            }
            tokio::select! {
                changed = effective.changed() => if changed.is_err() { return },
                changed = roster.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
                () = group.cancelled() => return,
            }
        }
    });
}

/// In bits a second. A peer that is no member has no key, and no session.
fn rates(effective: &Effective, identity: &Identity, clock: &Clock) -> Rates {
    let bandwidth = &effective.config.bandwidth;
    let members = identity.membership();
    let of_peers = bandwidth.peers.iter().filter_map(|peer| Some((members.by_name(&peer.node)?, peer.rate.bits())));
    let mut peers = HashMap::new();
    for (entry, bits) in of_peers {
        // Who is named twice has the lower one.
        let lowest = peers.entry(entry.public_key).or_insert(bits);
        *lowest = bits.min(*lowest);
    }
    Rates { total: bandwidth.total_at(clock.utc()).map(proto_model::BitRate::bits), peers }
}
