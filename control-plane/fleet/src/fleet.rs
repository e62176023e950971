//! The handle on the hub, and its two standing tasks: one reads on every bell, one keeps this server's row alive.

use std::{fmt, sync::Arc, time::Duration};

use control_plane_store::{Db, Error, Keys, Refusals, node_records, rollouts, servers, transfers};
use foundation_runtime::{Backoff, Clock, OnEnd, TaskGroup};
use futures::Stream;
use proto_model::{NodeId, NodeName, NodeUid};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    hub::{Hub, Marks},
    message::{FromAgent, NodeRecord, SessionEnd},
    options::Options,
    session::{self, OUTGOING, Outgoing},
    strangers::{AheadOfUs, UnknownMember},
};

/// How often a server says that it lives; [`control_plane_store::servers::GONE_AFTER`] is four times as long.
const SERVER_HEARTBEAT: Duration = Duration::from_secs(5);

/// Transfers whose grant is over are looked for every so many heartbeats: a minute is nothing beside the days that a grant lasts.
const SWEEP_EVERY: u32 = 12;

/// Refreshing rests so long after the database refused, at most.
const REFRESH_RETRY_MAX: Duration = Duration::from_secs(5);

/// The agents that are connected to this server, and what they are told. Clones are the same.
#[derive(Clone, Debug)]
pub struct Fleet {
    hub: Hub,
    sessions: TaskGroup,
}

impl Fleet {
    /// Starts the hub: its tasks run in `tasks`, and its end is theirs.
    #[must_use]
    pub fn new(db: Db, keys: Arc<Keys>, refusals: Refusals, options: Options, clock: Clock, tasks: &TaskGroup) -> Self {
        let tasks = tasks.child("fleet");
        describe();
        let hub = Hub::new(db, keys, refusals, clock, tasks.clone(), options);
        tasks.spawn("fleet.refresh", OnEnd::Fatal, refresh(hub.clone()));
        tasks.spawn("fleet.heartbeat", OnEnd::Fatal, heartbeat(hub.clone()));
        Self { hub, sessions: tasks.child("sessions") }
    }

    /// Serves one agent's session. What is returned ends with the session; dropping it ends the session.
    pub fn session<S, E>(&self, node: NodeUid, remote: String, incoming: S) -> ReceiverStream<Outgoing>
    where
        S: Stream<Item = Result<FromAgent, E>> + Send + Unpin + 'static,
        E: fmt::Display + Send + 'static,
    {
        let (out, receiver) = mpsc::channel(OUTGOING);
        let serve = session::run(self.hub.clone(), node, remote, incoming, out);
        self.sessions.spawn("fleet.session", OnEnd::Expected, serve);
        ReceiverStream::new(receiver)
    }

    /// How many agents are connected to this server.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.hub.connected()
    }

    /// The agents that are connected to this server.
    #[must_use]
    pub fn connected_nodes(&self) -> Vec<(NodeUid, NodeName)> {
        self.hub.connected_nodes()
    }

    /// Cuts a revoked node's session at once; other servers learn of it by the bell.
    pub fn cut(&self, node: NodeUid) {
        self.hub.cut(node, SessionEnd::Revoked);
    }

    /// Hosts with a certificate of this fleet that its database does not know.
    #[must_use]
    pub fn unknown_members(&self) -> Vec<UnknownMember> {
        self.hub.unknown_members()
    }

    /// Agents that hold a newer roster than the database.
    #[must_use]
    pub fn agents_ahead(&self) -> Vec<AheadOfUs> {
        self.hub.agents_ahead()
    }

    /// The ring of nodes that store DHT records, as this server last read it.
    #[must_use]
    pub fn ring(&self) -> Vec<String> {
        self.hub.view().ring.to_vec()
    }

    /// The records of those nodes that are known.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn lookup(&self, node_ids: &[NodeId]) -> Result<Vec<NodeRecord>, Error> {
        node_records::get(self.hub.db(), node_ids).await
    }
}

/// What the metrics of this crate and of its rows mean.
fn describe() {
    metrics::describe_gauge!("dwcp_agents_connected", "Agents that are connected to this server");
    metrics::describe_counter!(
        "dwcp_agents_sent_away_total",
        "Sessions that were refused because this server has, or begins, as many as it may"
    );
    metrics::describe_gauge!("dwcp_agents_ahead_of_database", "Agents that hold a newer roster than the database");
    metrics::describe_gauge!("dwcp_backup_last_success_timestamp_seconds", "When the newest backup was made");
    metrics::gauge!("dwcp_agents_ahead_of_database").set(0);
    metrics::describe_gauge!("dwcp_transfers_active", "Transfers of the fleet that have not ended, by state");
    metrics::describe_gauge!("dwcp_syncs", "Standing syncs of the fleet, by state");
    metrics::describe_counter!("dwcp_transfers_total", "Transfers whose end this server stored, by outcome");
    metrics::describe_histogram!(
        "dwcp_transfer_duration_seconds",
        metrics::Unit::Seconds,
        "From a transfer's beginning to its end"
    );
    metrics::describe_counter!("dwcp_rollouts_total", "Rollouts that ended on this server, by outcome");
    metrics::describe_gauge!("dwcp_rollout_targets", "Nodes of the newest rollouts, by what they answered");
    metrics::describe_counter!(
        "dwcp_audit_verify_failures_total",
        "Audit heads that an agent found not to continue the one before"
    );
    metrics::describe_counter!(
        "dwcp_fenced_writes_total",
        "Reports of sessions that were refused because a newer session had their node's place"
    );
    metrics::counter!("dwcp_fenced_writes_total").increment(0);
    metrics::counter!("dwcp_agents_sent_away_total").increment(0);
    metrics::counter!("dwcp_audit_verify_failures_total").increment(0);
    transfers::show_counters();
    rollouts::show_counters();
}

/// Reads on every bell until the group ends.
async fn refresh(hub: Hub) {
    let mut bell = hub.db().bell();
    let mut marks = Marks::default();
    let mut backoff = Backoff::new(Duration::from_millis(100), REFRESH_RETRY_MAX);
    loop {
        bell.mark_unchanged();
        match hub.refresh(&mut marks).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                error.log("fleet", "The fleet's state could not be read; agents keep what they have");
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_delay()) => continue,
                    () = hub.stopping() => return,
                }
            }
        }
        tokio::select! {
            changed = bell.changed() => if changed.is_err() { return },
            () = hub.stopping() => return,
        }
    }
}

/// Keeps this server's row alive, and tidies up after others, until the group ends; then takes the row away.
async fn heartbeat(hub: Hub) {
    let mut beats = 0_u32;
    loop {
        let beat = hub.beat().await;
        let swept = if beats.is_multiple_of(SWEEP_EVERY) { hub.sweep().await } else { hub.end_overdue().await };
        if let Err(error) = beat.and(swept) {
            error.log("fleet", "This server's heartbeat could not be stored");
        }
        beats = beats.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(SERVER_HEARTBEAT) => {}
            () = hub.stopping() => break,
        }
    }
    if let Err(error) = servers::retire(hub.db(), hub.server()).await {
        error.log("fleet", "This server's row could not be taken away; it goes by itself");
    }
}
