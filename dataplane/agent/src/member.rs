//! What runs once the host has joined: identity, transport, session with the control plane, discovery, transfers.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use dataplane_amst::{BindError, Endpoint, Limits, TcpPort};
use dataplane_content::Baselines;
use dataplane_control_client::{
    self as control_client, Enrolment, Handle, Introduction, Jobs, StartError as SessionError,
};
use dataplane_dht::{MemoryRecords, RecordStore, StartError as DhtError};
use dataplane_hde::Meter;
use dataplane_identity::Identity;
use dataplane_local_store::LocalStore;
use dataplane_transfer::{Benches, Options as TransferOptions, Roots, Transfers};
use foundation_runtime::{Clock, OnEnd, PortsError, RememberedPorts, TaskGroup};
use futures::future::BoxFuture;
use proto_model::{
    HostFacts, PublicKey, SharedRoot, TransferId, TransferReport, TransferRole,
    config::{AgentConfig, Effective},
};
use tokio::sync::{mpsc, watch};

use crate::{
    apply::{count, transfer_settings, transport_settings},
    bandwidth,
    benches::Bencher,
    discovery::{Discovery, Setup},
    health::{Component, Health, Level},
    host, profiles,
    records::LocalRecords,
    socket_buffers,
    syncs::Syncer,
    transfers::{AmstConnector, Movers, Reports},
};

/// Health is said to the control plane at most so often; a part that flaps is not worth more.
const OBSERVE_PAUSE: Duration = Duration::from_secs(1);
/// How often the DHT node is looked at.
const DHT_LOOK: Duration = Duration::from_secs(1);
/// How often interfaces are looked at: one call of the kernel, and a host that moves is found again within seconds.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(5);
/// How long peers are given to hear of the end.
const ENDPOINT_GRACE: Duration = Duration::from_secs(2);

/// What a member is made of.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) dir: PathBuf,
    pub(crate) effective: watch::Receiver<Arc<Effective>>,
    pub(crate) introduction: watch::Sender<Introduction>,
    pub(crate) store: Option<LocalStore>,
    pub(crate) baselines: Option<Baselines>,
    pub(crate) no_bootstrap: bool,
    pub(crate) health: Health,
    pub(crate) meter: Meter,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskGroup,
}

/// The running parts.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) identity: Identity,
    pub(crate) endpoint: Endpoint,
    pub(crate) control: Handle,
    pub(crate) transfers: Transfers,
    pub(crate) movers: Movers,
    pub(crate) bencher: Bencher,
    pub(crate) syncer: Syncer,
    pub(crate) discovery: Discovery,
    /// Of the agent's state.
    dir: PathBuf,
}

/// Why the parts did not come to run; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// QUIC.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The ports that were chosen before.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The DHT.
    #[error("the DHT node cannot start")]
    Dht(#[from] DhtError),
    /// What is kept of the session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// What is kept of transfers.
    #[error("cannot use {path}", path = .path.display())]
    Transfers {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Member {
    /// Starts everything that a member of a fleet runs.
    pub(crate) async fn start(
        context: &Context,
        identity: Identity,
        enrolment: Enrolment,
    ) -> Result<Arc<Self>, MemberError> {
        let effective = context.effective.borrow().clone();
        let config = &effective.config;
        let tasks = context.tasks.child("member");
        let endpoint = bind(context, config, &identity, &tasks).await?;
        profiles::keep(&endpoint, &context.dir, &tasks);
        watch_tcp(&endpoint, context.health.clone(), &tasks);
        context.introduction.send_modify(|said| said.facts = facts(config));
        let clock = context.clock.clone();
        bandwidth::keep(endpoint.clone(), identity.clone(), context.effective.clone(), clock, &tasks);
        let (control, jobs) = control_client::start(
            control_client::Options {
                dir: context.dir.clone(),
                enrolment,
                identity: identity.clone(),
                introduction: context.introduction.subscribe(),
            },
            context.clock.clone(),
            &tasks,
        )?;
        let discovery = discover(context, config, &identity, &control, &tasks).await?;
        let folder = context.dir.join("transfers");
        let unusable = |source| MemberError::Transfers { path: folder.clone(), source };
        let transfers = Transfers::open(
            TransferOptions {
                folder: folder.clone(),
                trust: identity.trust().clone(),
                key: identity.public_key(),
                roots: Roots::new(config.roots.clone()),
                own: Some(context.dir.clone()),
                settings: transfer_settings(config),
                meter: Some(context.meter.clone()),
                baselines: context.baselines.clone(),
            },
            context.clock.clone(),
            tasks.clone(),
        )
        .map_err(unusable)?;
        let benches = Benches::new(&transfers, count(config.limits.benches), Arc::new(socket_buffers::advice));
        let connector = AmstConnector::new(endpoint.clone(), Arc::new(discovery.clone()));
        let bencher = Bencher::new(benches.clone(), endpoint.clone(), connector, &tasks);
        let movers = Movers::start(
            (transfers.clone(), benches),
            endpoint.clone(),
            Arc::new(discovery.clone()),
            Arc::new(ToControlPlane {
                control: control.clone(),
                identity: identity.clone(),
                store: context.store.clone(),
                clock: context.clock.clone(),
            }),
            &config.limits,
            &tasks,
        )
        .map_err(unusable)?;
        let syncer = Syncer::start(
            &context.dir,
            (transfers.clone(), movers.clone()),
            control.clone(),
            context.health.clone(),
            (context.clock.clone(), count(config.limits.sync_looks)),
            &tasks,
        );
        let syncer = syncer.map_err(|source| MemberError::Transfers { path: context.dir.join("syncs"), source })?;
        context.health.healthy(Component::Transfers);
        context.health.healthy(Component::Identity);
        let dir = context.dir.clone();
        let member = Arc::new(Self { identity, endpoint, control, transfers, movers, bencher, syncer, discovery, dir });
        member.take_jobs(jobs, &tasks);
        member.bencher.follow(&member.control);
        member.keep_known(context, &tasks);
        member.watch_session(context, &tasks);
        member.watch_dht(context, &tasks);
        observe(member.control.clone(), context.health.clone(), &tasks);
        // Without what these parts do the agent is of no use: it ends, and whoever keeps it starts it anew.
        context.tasks.spawn("member", OnEnd::Fatal, async move {
            tokio::select! {
                part = tasks.failed() => tracing::error!(component = "agent", part, "A part of the member ended"),
                () = tasks.cancelled() => {}
            }
        });
        Ok(member)
    }

    /// Closes sessions with peers, so that they need not wait for a time-out.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.endpoint.shutdown(ENDPOINT_GRACE).await {
            tracing::info!(component = "amst", %error, "Not every peer was told of the end");
        }
        profiles::keep_last(&self.endpoint, &self.dir).await;
    }

    fn take_jobs(&self, mut jobs: mpsc::Receiver<Jobs>, tasks: &TaskGroup) {
        let (movers, group) = (self.movers.clone(), tasks.clone());
        tasks.spawn("take jobs", OnEnd::Expected, async move {
            loop {
                tokio::select! {
                    next = jobs.recv() => match next {
                        Some(jobs) => movers.take(jobs),
                        None => return,
                    },
                    () = group.cancelled() => return,
                }
            }
        });
    }

    /// Keeps the addresses that are published, and what the control plane knows of the host, true.
    fn keep_known(self: &Arc<Self>, context: &Context, tasks: &TaskGroup) {
        let (member, context, group) = (Arc::clone(self), context.clone(), tasks.clone());
        tasks.spawn("addresses", OnEnd::Expected, async move {
            let mut connection = member.control.connection();
            let mut effective = context.effective.clone();
            let mut roster = member.identity.membership().changes();
            let mut interval = tokio::time::interval(ADDRESSES_INTERVAL);
            loop {
                let config = effective.borrow_and_update().config.clone();
                let observed = observed_ip(&connection.borrow_and_update());
                member.announce(&context, &config, observed);
                tokio::select! {
                    changed = connection.changed() => if changed.is_err() { return },
                    changed = effective.changed() => if changed.is_err() { return },
                    changed = roster.changed() => if changed.is_err() { return },
                    _tick = interval.tick() => {}
                    () = group.cancelled() => return,
                }
            }
        });
    }

    fn announce(&self, context: &Context, config: &AgentConfig, observed: Option<IpAddr>) {
        let interfaces = host::interface_addresses();
        let listen = self.endpoint.local_addr();
        let quic = host::published(listen, &config.network.advertise, &interfaces, observed);
        let dht = self.discovery.listen.map(SocketAddr::V4);
        let advertised: Vec<_> = config.network.advertise.iter().filter(|one| one.ip.is_ipv4()).copied().collect();
        let without_ports: Vec<_> =
            advertised.iter().map(|one| proto_model::config::Advertised { port: None, ..*one }).collect();
        let dht = dht.map(|listen| host::published(listen, &without_ports, &interfaces, observed)).unwrap_or_default();
        self.discovery.announce(quic.clone(), config.network.reach);
        context.introduction.send_if_modified(|said| {
            let facts = HostFacts { quic_addresses: quic, dht_addresses: dht, ..facts(config) };
            let changed = said.facts != facts;
            said.facts = facts;
            changed
        });
    }

    /// Says how the DHT is: looking is cheap, and what a restart of its node changes is over in a second.
    fn watch_dht(&self, context: &Context, tasks: &TaskGroup) {
        let (discovery, health, group) = (self.discovery.clone(), context.health.clone(), tasks.clone());
        tasks.spawn("health of the DHT", OnEnd::Expected, async move {
            loop {
                dht_health(&discovery, &health);
                dht_records_health(&discovery, &health);
                tokio::select! {
                    () = tokio::time::sleep(DHT_LOOK) => {}
                    () = group.cancelled() => return,
                }
            }
        });
    }

    /// Says how the session and what depends on it are.
    fn watch_session(&self, context: &Context, tasks: &TaskGroup) {
        let (control, identity) = (self.control.clone(), self.identity.clone());
        let (health, clock, group) = (context.health.clone(), context.clock.clone(), tasks.clone());
        let (effective, transfers) = (context.effective.clone(), self.transfers.clone());
        tasks.spawn("health of the session", OnEnd::Expected, async move {
            let mut connection = control.connection();
            let mut since = None;
            loop {
                let now = connection.borrow_and_update().clone();
                // Once for each session: it is true of the time when it was measured.
                if let Some(standing) = now.standing.as_ref().filter(|standing| since != Some(standing.since)) {
                    since = Some(standing.since);
                    if let Some(ahead) = standing.skew_ms.and_then(TimeDelta::try_milliseconds) {
                        transfers.is_ahead_of_control_plane(ahead);
                    }
                }
                match (&now.standing, &now.trouble) {
                    (Some(_), _) => health.healthy(Component::ControlPlane),
                    (None, Some(trouble)) => health.degraded(Component::ControlPlane, trouble.clone()),
                    (None, None) => health.degraded(Component::ControlPlane, "no session yet"),
                }
                match now.audit_trouble {
                    Some(trouble) => health.unhealthy(Component::AuditLog, trouble),
                    None => health.healthy(Component::AuditLog),
                }
                if identity.certificate().not_after() <= clock.utc() {
                    let why = "the node's certificate has ended; it is renewed as soon as the control plane answers";
                    health.unhealthy(Component::Identity, why);
                } else {
                    health.healthy(Component::Identity);
                }
                let interval = effective.borrow().config.monitoring.health_check_interval;
                tokio::select! {
                    changed = connection.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(interval) => {}
                    () = group.cancelled() => return,
                }
            }
        });
    }
}

fn observed_ip(connection: &control_client::Connection) -> Option<IpAddr> {
    connection
        .standing
        .as_ref()
        .and_then(|standing| standing.observed_address)
        .map(|address| address.ip().to_canonical())
}

/// What the DHT says, beside what is known otherwise; only said where they differ.
fn dht_records_health(discovery: &Discovery, health: &Health) {
    let disagreements = discovery.disagreements();
    let Some(first) = disagreements.first() else { return health.absent(Component::DhtRecords) };
    let (peer, known) = (first.key.node_id(), first.known);
    let says = match first.dht {
        Some(older) => format!("an older record of {peer} (seq {older} where {known} is known)"),
        None => format!("nothing of {peer} (where seq {known} is known)"),
    };
    health.degraded(
        Component::DhtRecords,
        format!(
            "the DHT goes on to say less than is known of {} nodes, for example {says}; its word is not taken for these",
            disagreements.len()
        ),
    );
}

fn dht_health(discovery: &Discovery, health: &Health) {
    match discovery.dht_status() {
        None => health.absent(Component::Dht),
        Some(status) if status.local.is_none() => {
            health.degraded(
                Component::Dht,
                "no node of the DHT ring answers; peers are found by the control plane, or where they last were",
            );
        }
        Some(status) if status.ring.is_empty() => {
            health.degraded(
                Component::Dht,
                "no DHT ring is known yet; peers are found by the control plane, or where they last were",
            );
        }
        Some(_) => health.healthy(Component::Dht),
    }
}

/// What the host reports of itself, but for its addresses.
fn facts(config: &AgentConfig) -> HostFacts {
    HostFacts {
        agent_version: crate::VERSION.to_owned(),
        os: host::operating_system(),
        hostname: host::hostname(),
        roots: config
            .roots
            .iter()
            .map(|(name, root)| SharedRoot { name: name.clone(), read_only: root.read_only })
            .collect(),
        offers_relay: config.network.relay,
        ..HostFacts::default()
    }
}

async fn bind(
    context: &Context,
    config: &AgentConfig,
    identity: &Identity,
    tasks: &TaskGroup,
) -> Result<Endpoint, MemberError> {
    let asked = config.network.quic_listen;
    let mut ports = RememberedPorts::load(&context.dir)?;
    let options = dataplane_amst::Options {
        listen: SocketAddr::new(asked.ip(), ports.wanted("quic", asked.port())),
        sockets: usize::try_from(config.transport.sockets).unwrap_or(0),
        identity: identity.clone(),
        settings: transport_settings(config),
        limits: Limits {
            receive_budget: config.limits.receive_budget,
            send_budget: config.limits.send_budget,
            incoming_sessions: count(config.limits.incoming_sessions),
            sessions_per_peer: count(config.limits.sessions_per_peer),
            channels_per_session: config.limits.channels_per_session,
            waiting_channels: count(config.limits.waiting_channels),
            handshakes: count(config.limits.quic_handshakes),
            retry_from: count(config.limits.quic_retry_from),
            first_packets_per_second: config.limits.quic_first_packets_per_second,
            idle_timeout: config.transport.idle_timeout,
            keep_alive: config.transport.keep_alive_interval,
        },
    };
    let endpoint = Endpoint::bind(options, context.clock.clone(), tasks.clone()).await?;
    ports.keep("quic", asked.port(), endpoint.local_addr().port())?;
    Ok(endpoint)
}

async fn discover(
    context: &Context,
    config: &AgentConfig,
    identity: &Identity,
    control: &Handle,
    tasks: &TaskGroup,
) -> Result<Discovery, MemberError> {
    let records: Arc<dyn RecordStore> = match &context.store {
        Some(store) => Arc::new(LocalRecords::new(store.clone(), identity.trust().bundle().fleet.to_string())),
        None => Arc::new(MemoryRecords::default()),
    };
    let given: Vec<_> = config.dht.bootstrap.iter().map(ToString::to_string).collect();
    let bootstrap = if context.no_bootstrap { Some(Vec::new()) } else { Some(given).filter(|given| !given.is_empty()) };
    let mut ports = RememberedPorts::load(&context.dir)?;
    let asked = config.network.dht_listen;
    let discovery = Discovery::start(
        Setup {
            dir: context.dir.clone(),
            identity: identity.clone(),
            records,
            control: control.clone(),
            listen: asked.map(|asked| SocketAddr::new(asked.ip(), ports.wanted("dht", asked.port()))),
            bootstrap,
            offers_relay: config.network.relay,
            dht: config.dht.clone(),
            cache: config.metadata_cache,
            peers: config.peer_discovery,
            limits: config.limits,
        },
        &context.clock,
        tasks,
    )
    .await?;
    if let (Some(asked), Some(bound)) = (asked, discovery.listen) {
        ports.keep("dht", asked.port(), bound.port())?;
    }
    Ok(discovery)
}

/// Says where QUIC serves alone because the TCP port of the same number is not to be had: that is no want, only slower on a fast network.
fn watch_tcp(endpoint: &Endpoint, health: Health, tasks: &TaskGroup) {
    let mut port = endpoint.tcp_port();
    let say = move |port: &TcpPort| {
        let message = match port {
            TcpPort::Failed(reason) => format!("{reason}; QUIC serves alone"),
            TcpPort::Off | TcpPort::Open(_) => String::new(),
        };
        health.set(Component::AmstTransport, Level::Healthy, message);
    };
    say(&port.borrow_and_update());
    let group = tasks.clone();
    tasks.spawn("watch the TCP port", OnEnd::Expected, async move {
        loop {
            tokio::select! {
                changed = port.changed() => if changed.is_err() { return },
                () = group.cancelled() => return,
            }
            say(&port.borrow_and_update());
        }
    });
}

/// Tells the control plane how the parts are, on change.
fn observe(control: Handle, health: Health, tasks: &TaskGroup) {
    let group = tasks.clone();
    tasks.spawn("observe", OnEnd::Expected, async move {
        let mut board = health.watch();
        loop {
            board.borrow_and_update();
            control.observe(health.report());
            tokio::select! {
                changed = board.changed() => if changed.is_err() { return },
                () = group.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(OBSERVE_PAUSE) => {}
                () = group.cancelled() => return,
            }
        }
    });
}

/// Reports of transfers, to the control plane and into the local store.
struct ToControlPlane {
    control: Handle,
    identity: Identity,
    store: Option<LocalStore>,
    clock: Clock,
}

impl Reports for ToControlPlane {
    fn progress(&self, report: TransferReport) {
        self.control.progress(report);
    }

    fn is_ended(&self, transfer: TransferId, role: TransferRole) -> bool {
        self.control.keeps_end(transfer, role)
    }

    fn end(&self, report: TransferReport) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(store) = &self.store
                && let Err(error) = store.put_transfer(stored(&report, &self.clock)).await
            {
                tracing::warn!(component = "local_store", %error, "A transfer's row is not written");
            }
            if let Err(error) = self.control.end(report).await {
                tracing::error!(component = "transfer", %error, "The end of a transfer is not reported");
            }
        })
    }

    fn refused(&self, peer: PublicKey, reason: &str) {
        // Only what it had no right to: a full disk is no refusal of somebody.
        const OF_RIGHT: [&str; 4] = ["GRANT_INVALID", "GRANT_NOT_YET_VALID", "GRANT_EXPIRED", "NOT_ACCEPTED"];
        let member = self.identity.membership().by_key(&peer).filter(|_| OF_RIGHT.contains(&reason));
        if let Some(member) = member {
            self.control.refused_peer(member.uid, reason);
        }
    }
}

/// A transfer's row, for people to look at.
fn stored(report: &TransferReport, clock: &Clock) -> dataplane_local_store::StoredTransfer {
    let message = report.error.as_ref().map(|error| format!("{}: {}", error.reason, error.message));
    let address = report.path.as_ref().and_then(|path| path.remote_address);
    dataplane_local_store::StoredTransfer {
        transfer_id: report.transfer,
        role: match report.role {
            TransferRole::Sender => "sender".to_owned(),
            TransferRole::Receiver => "receiver".to_owned(),
        },
        state: report.state.as_str().to_owned(),
        peer_id: address.map(|address| address.to_string()).unwrap_or_default(),
        path: String::new(),
        bytes_total: report.progress.bytes_total.bytes(),
        bytes_done: report.progress.bytes_done.bytes(),
        message: proto_model::escape(message.unwrap_or_default().as_bytes()),
        started_at: report.start_time.unwrap_or_else(|| clock.utc()).timestamp(),
        finished_at: report.end_time.map(|end| end.timestamp()),
    }
}
