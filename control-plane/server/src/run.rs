//! Puts the server together, in the order in which its parts need one another, and takes it apart again.

mod bound;
mod error;
mod open_database;

pub use error::RunError;

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use control_plane_api::{
    DatabaseKind, HostFindings, ServerFacts, ServerLimit, State, Watches,
    auth::{AuthLayer, Authenticator},
};
use control_plane_console::Limits as Rates;
use control_plane_fleet::Fleet;
use control_plane_pki::SealKey;
use control_plane_store::{Db, Keys, KeysError, Refusals};
use dataplane_dht::{RingLimits, RingNode, RingOptions, ipv4_listen};
use foundation_runtime::{
    Clock, Hangups, LocalSocket, OnEnd, RememberedPorts, SocketAccess, Stop, Stops, TaskGroup, service_manager,
};
use foundation_telemetry::{Telemetry, TraceLayer};
use nix::unistd::Uid;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use self::{bound::Bound, open_database::OpenDatabase};
use crate::{
    admin_files,
    advertise::{self, Reach},
    anchor::Anchor,
    backend::{Parts, ServerBackend},
    connections::NodeConnections,
    data_dir::DataDir,
    grpc_listener::{self, GrpcListener},
    grpc_services,
    host_checks::HostChecks,
    http_ports,
    limits::{Limits, count},
    listen, measures,
    options::{Database, DhtListen, Options},
    postgres::Postgres,
    ready::{Ready, ReadyFile},
    revocations,
    tls::{Revoked, ServerIdentity},
};

/// How long calls that are being answered may take once the server is told to stop; then their connections are cut. Streams never end by
/// themselves.
const FINISH_CALLS: Duration = Duration::from_secs(4);

/// How long tasks may take then: transactions that were begun.
const FINISH_TASKS: Duration = Duration::from_secs(6);

/// How often the server's certificate is looked at, and how long one is used. It lives 90 days.
const CERTIFICATE_CHECK: Duration = Duration::from_hours(1);
const CERTIFICATE_USE: Duration = Duration::from_hours(30 * 24);

/// The commit that the program was built from, where the build said so.
const COMMIT: &str = match option_env!("DWCP_COMMIT") {
    Some(commit) => commit,
    None => "",
};

/// HTTP/2 pings find agents whose host has gone.
const GRPC_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Runs the server until it is told to stop.
///
/// # Errors
/// See [`RunError`].
pub async fn run(options: Options, telemetry: &Telemetry) -> Result<(), RunError> {
    if Uid::effective().is_root() {
        tracing::warn!(
            component = "server",
            "This server runs as root; a user of its own is enough: deploy/install control-plane"
        );
    }
    let clock = Clock::system();
    foundation_listener::raise_open_files();
    telemetry.set_log_lines(options.limits.log_lines_per_second);
    let tasks = TaskGroup::new("server");
    // One listener for all of its life: no wish to stop is lost between two places that wait for one.
    let mut stops = Stops::listen().map_err(RunError::Signals)?;
    let dir = DataDir::open(&options.data_dir, &clock, &tasks).await?;
    let bound = Bound::bind(&options, &dir)?;
    let database = tokio::select! {
        opened = OpenDatabase::open(&options, &dir, &clock, &tasks) => opened?,
        // PostgreSQL, where it was begun, ends with its handle.
        _stop = stops.next() => return Ok(()),
    };
    let parts = Ground { options: &options, dir: &dir, database: &database, telemetry, clock: &clock, tasks: &tasks };
    let ended = tokio::select! {
        started = Server::start(&parts, bound) => match started {
            Ok(server) => {
                let ended = server.serve(&mut stops, &tasks).await;
                server.stop().await;
                ended
            }
            Err(error) => Err(error),
        },
        _stop = stops.next() => Ok(()),
    };
    if let Err(unfinished) = tasks.shutdown(FINISH_TASKS).await {
        tracing::warn!(component = "server", tasks = unfinished.names.join(", "), "Some tasks had to be cut short");
    }
    database.close().await;
    if ended.is_ok() {
        tracing::info!(component = "server", "Server has stopped");
    }
    ended
}

/// What a server is built on.
struct Ground<'a> {
    options: &'a Options,
    dir: &'a DataDir,
    database: &'a OpenDatabase,
    telemetry: &'a Telemetry,
    clock: &'a Clock,
    tasks: &'a TaskGroup,
}

/// A server whose parts all run.
struct Server {
    ready: ReadyFile,
    front: TaskGroup,
    /// Cutting it cuts every connection of gRPC.
    cut: CancellationToken,
    health: HealthReporter,
}

impl Server {
    async fn start(ground: &Ground<'_>, mut bound: Bound) -> Result<Self, RunError> {
        let Ground { options, dir, clock, tasks, telemetry, database: OpenDatabase { db, .. } } = *ground;
        let keys = open_keys(dir, db).await?;
        let host = advertise::hostname();
        admin_files::write(dir, db, &keys, &host).await?;
        let reach = Reach::new(&options.advertise, bound.address, &host, &advertise::interfaces());
        let dht = start_dht(options, &mut bound.ports, db, clock, tasks).await?;
        let dht_address = dht.as_ref().and_then(RingNode::local_addr);
        bound.ready.dht = dht_address.map(|local| listen::reachable_here(SocketAddr::V4(local)));

        // Sessions and listeners end first; what they use ends after them.
        let front = tasks.child("front");
        let state = ground.state(&keys, &reach, dht_address, &front);
        let backend = ground.backend(&state, dht).await?;
        let connections = NodeConnections::default();
        follow_ring(&backend, db, connections.clone(), &front);
        let ready = bound.ready.clone();
        let (health, cut) = ground.listen(bound, &state, &backend, &reach, connections, &front).await?;
        grpc_services::follow_health(&health, &backend, db, &front).await;
        reopen_logs_on_hangup(telemetry, serving(&ready), &front)?;

        let announced = ready.announce(dir.path());
        let announced = announced.map_err(|source| RunError::Io { path: dir.file("ready.json"), source })?;
        measures::describe(crate::VERSION, COMMIT);
        service_manager::ready(&serving(&ready));
        service_manager::keep_alive(&front);
        tracing::info!(
            component = "server", version = crate::VERSION, grpc = %ready.grpc, http = %ready.http, metrics = %ready.metrics,
            fleet = %keys.fleet(), "Server is ready"
        );
        if !options.logging.shows_info() {
            eprintln!("Server is ready");
        }
        Ok(Self { ready: announced, front, cut, health })
    }

    /// Until it is told to stop, or cannot go on.
    async fn serve(&self, stops: &mut Stops, tasks: &TaskGroup) -> Result<(), RunError> {
        tokio::select! {
            stop = stops.next() => {
                let signal = match stop { Stop::Interrupt => "SIGINT", Stop::Terminate => "SIGTERM" };
                tracing::info!(component = "server", signal, "Stopping");
                Ok(())
            }
            task = self.front.failed() => Err(RunError::Task(task)),
            task = tasks.failed() => Err(RunError::Task(task)),
        }
    }

    /// Nobody new, then the calls in flight.
    async fn stop(self) {
        service_manager::stopping();
        drop(self.ready);
        grpc_services::stop_serving(&self.health).await;
        // Watches never end by themselves: their connections are cut after the grace.
        if let Err(unfinished) = self.front.shutdown(FINISH_CALLS).await {
            tracing::debug!(component = "server", tasks = unfinished.names.join(", "), "Some calls were cut short");
        }
        self.cut.cancel();
    }
}

impl Ground<'_> {
    /// What the API works with.
    fn state(&self, keys: &Arc<Keys>, reach: &Reach, dht: Option<SocketAddrV4>, front: &TaskGroup) -> State {
        let (db, limits) = (&self.database.db, &self.options.limits);
        let fleet_options = control_plane_fleet::Options {
            version: crate::VERSION.to_owned(),
            endpoints: reach.endpoints.clone(),
            ring_address: dht.map(|local| reach.ring_address(local)),
            max_sessions: count(self.options.limits.agent_sessions),
            max_new_sessions: self.options.limits.new_sessions_per_second,
        };
        let refusals = Refusals::start(db.clone(), self.tasks);
        let fleet =
            Fleet::new(db.clone(), Arc::clone(keys), refusals.clone(), fleet_options, self.clock.clone(), front);
        State {
            db: db.clone(),
            keys: Arc::clone(keys),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            refusals,
            advertised: reach.endpoints.clone().into(),
            fleet,
            server: Arc::new(ServerFacts {
                version: crate::VERSION,
                commit: COMMIT,
                database: match self.options.database {
                    Database::Embedded { .. } => DatabaseKind::Embedded,
                    Database::External { .. } => DatabaseKind::External,
                },
                start_time: self.clock.utc(),
                max_sessions: count(limits.agent_sessions),
                max_request_bytes: count(limits.request_bytes),
                max_watches: count(limits.watches_per_caller),
                max_entries: limits.entries_per_minute,
                sync_bounds: control_plane_store::syncs::Bounds { fleet: limits.syncs, node: limits.syncs_of_a_node },
                limits: limit_rows(self.options),
                host: HostFindings::default(),
            }),
            watches: Watches::default(),
        }
    }

    /// What stands behind the HTTP paths.
    async fn backend(&self, state: &State, dht: Option<RingNode>) -> Result<ServerBackend, RunError> {
        let path = self.dir.file("audit.checkpoint");
        let anchor = Anchor::follow(path, &state.db, &state.keys, self.tasks).await?;
        let log_file = self.telemetry.log_file_trouble();
        let checks = HostChecks {
            data_dir: self.dir.path().to_path_buf(),
            embedded: self.database.postgres.is_some(),
            anchor: anchor.clone(),
            log_file: log_file.clone(),
        };
        state.server.host.look_by(move || checks.findings());
        Ok(ServerBackend(Arc::new(Parts {
            db: state.db.clone(),
            keys: Arc::clone(&state.keys),
            fleet: state.fleet.clone(),
            authenticator: self.authenticator(state),
            anchor,
            log_file,
            postgres: self.database.postgres.as_ref().map(Postgres::state),
            database: self.options.database.clone(),
            dht,
            metrics: self.telemetry.metrics().clone(),
            metrics_token: read_metrics_token(self.options)?,
            clock: self.clock.clone(),
            begun: self.clock.now(),
        })))
    }

    fn authenticator(&self, state: &State) -> Authenticator {
        Authenticator::new(self.database.db.clone(), state.refusals.clone(), Uid::effective().as_raw())
    }

    /// Serves on all ports and on the socket.
    async fn listen(
        &self,
        bound: Bound,
        state: &State,
        backend: &ServerBackend,
        reach: &Reach,
        connections: NodeConnections,
        front: &TaskGroup,
    ) -> Result<(HealthReporter, CancellationToken), RunError> {
        let identity = ServerIdentity::issue(state.keys.ca(), &reach.names, self.clock.utc())?;
        keep_certificate_fresh(&identity, &state.keys, reach, self.clock, self.tasks);
        let revoked = Revoked::default();
        revocations::follow(&state.db, revoked.clone(), connections.clone(), self.tasks).await?;

        let http_tls = Arc::new(identity.http_config()?);
        let rates = Rates::new(self.options.http_api_limit, self.options.http_limit);
        let limits = &self.options.limits;
        let router = control_plane_console::router(backend.clone(), rates.clone());
        http_ports::serve(self.clock, front, limits, ("http", bound.http), Arc::clone(&http_tls), router);
        let router = control_plane_console::metrics_only(backend.clone(), rates);
        http_ports::serve(self.clock, front, limits, ("metrics", bound.metrics), http_tls, router);

        let (routes, health) = grpc_services::routes(state)?;
        let (grpc, incoming) = GrpcListener::new(front, connections, state.refusals.clone(), *limits);
        grpc.accept_tls(bound.grpc, Arc::new(identity.grpc_config(state.keys.ca(), revoked)?));
        let socket = self.dir.file("admin.sock");
        let local =
            LocalSocket::bind(&socket, SocketAccess::Owner).map_err(|source| RunError::Io { path: socket, source })?;
        grpc.accept_local(local);
        serve_grpc(front, routes, limits, self.authenticator(state), ReceiverStream::new(incoming));
        Ok((health, grpc.cut))
    }
}

/// The fleet's keys. A seal key that was made just now and opens nothing is not left behind: it would look like the right one.
async fn open_keys(dir: &DataDir, db: &Db) -> Result<Arc<Keys>, RunError> {
    let path = dir.file("seal.key");
    let is_new = !path.exists();
    let seal = Arc::new(SealKey::load_or_create(&path)?);
    let opened = Keys::load_or_create(db, &seal).await;
    if is_new && matches!(opened, Err(KeysError::Sealed(_))) {
        foundation_runtime::durable::remove(&path).map_err(|source| RunError::Io { path, source })?;
    }
    Ok(opened?)
}

async fn start_dht(
    options: &Options,
    ports: &mut RememberedPorts,
    db: &Db,
    clock: &Clock,
    tasks: &TaskGroup,
) -> Result<Option<RingNode>, RunError> {
    let DhtListen::At(asked) = options.dht_listen else { return Ok(None) };
    let mut address = ipv4_listen(asked)?;
    address.set_port(ports.wanted("dht", asked.port()));
    let ring = control_plane_store::servers::ring(db).await?;
    let node = RingNode::start(
        RingOptions { listen: address, ring, limits: dht_limits(&options.limits) },
        clock.clone(),
        tasks,
    )
    .await?;
    if let Some(local) = node.local_addr() {
        ports.keep("dht", asked.port(), local.port())?;
    }
    Ok(Some(node))
}

fn dht_limits(limits: &Limits) -> RingLimits {
    RingLimits { records: count(limits.dht_records), requests_per_second: limits.dht_requests_per_second }
}

/// Tells the DHT node who else is in the ring, and where the fleet's nodes are, when that changes.
fn follow_ring(backend: &ServerBackend, db: &Db, connections: NodeConnections, tasks: &TaskGroup) {
    let Some(node) = backend.0.dht.clone() else { return };
    let (fleet, mut bell, token) = (backend.0.fleet.clone(), db.bell(), tasks.token().clone());
    let follow = async move {
        let mut known = node.status().ring;
        while bell.changed().await.is_ok() {
            node.set_known(connections.ipv4_addresses());
            let ring = fleet.ring();
            if ring != known && !ring.is_empty() {
                node.set_ring(ring.clone());
                known = ring;
            }
        }
    };
    tasks.spawn("dht-ring", OnEnd::Fatal, async move {
        token.run_until_cancelled(follow).await;
    });
}

/// Everything that bounds the server, the rates of its HTTP port among them.
fn limit_rows(options: &Options) -> Vec<ServerLimit> {
    let rate = |name, value: control_plane_console::Rate, default: &str, meaning| ServerLimit {
        name,
        value: value.to_string(),
        default: default.to_owned(),
        meaning,
    };
    let mut rows = options.limits.rows();
    rows.push(rate("http_api_limit", options.http_api_limit, "100/s", "HTTP requests of one address to /api/."));
    rows.push(rate("http_limit", options.http_limit, "100/min", "HTTP requests of one address to what is not free."));
    rows
}

fn read_metrics_token(options: &Options) -> Result<Option<String>, RunError> {
    let Some(path) = &options.metrics_token_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|source| RunError::Io { path: path.clone(), source })?;
    Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty()))
}

fn keep_certificate_fresh(
    identity: &ServerIdentity,
    keys: &Arc<Keys>,
    reach: &Reach,
    clock: &Clock,
    tasks: &TaskGroup,
) {
    let (identity, keys, names, clock) = (identity.clone(), Arc::clone(keys), reach.names.clone(), clock.clone());
    let token = tasks.token().clone();
    let renew = async move {
        let mut made = clock.now();
        loop {
            tokio::time::sleep(CERTIFICATE_CHECK).await;
            if clock.now() - made < CERTIFICATE_USE {
                continue;
            }
            match identity.renew(keys.ca(), &names, clock.utc()) {
                Ok(()) => made = clock.now(),
                Err(error) => {
                    tracing::error!(component = "server", %error, "The server's certificate could not be renewed")
                }
            }
        }
    };
    tasks.spawn("server-certificate", OnEnd::Fatal, async move {
        token.run_until_cancelled(renew).await;
    });
}

/// For `systemctl status`.
fn serving(ready: &Ready) -> String {
    format!("Serving gRPC on {}, HTTP on {}", ready.grpc, ready.http)
}

/// After logs were rotated (`systemctl reload`).
fn reopen_logs_on_hangup(telemetry: &Telemetry, status: String, tasks: &TaskGroup) -> Result<(), RunError> {
    let mut hangups = Hangups::listen().map_err(RunError::Signals)?;
    let (telemetry, token) = (telemetry.clone(), tasks.token().clone());
    let reopen = async move {
        loop {
            hangups.next().await;
            service_manager::reloading();
            match telemetry.reopen() {
                Ok(()) => tracing::info!(component = "server", "Log files are open anew"),
                Err(error) => tracing::error!(component = "server", %error, "The log file cannot be opened anew"),
            }
            service_manager::ready(&status);
        }
    };
    tasks.spawn("hangup", OnEnd::Fatal, async move {
        token.run_until_cancelled(reopen).await;
    });
    Ok(())
}

fn serve_grpc(
    front: &TaskGroup,
    routes: Routes,
    limits: &Limits,
    authenticator: Authenticator,
    incoming: ReceiverStream<io::Result<grpc_listener::Connection>>,
) {
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(GRPC_KEEP_ALIVE))
        .http2_keepalive_timeout(Some(GRPC_KEEP_ALIVE))
        .http2_max_header_list_size(limits.grpc_header_bytes)
        .max_concurrent_streams(limits.grpc_streams)
        .layer(TraceLayer::server("api").with_methods(grpc_services::methods()))
        .layer(AuthLayer::new(authenticator))
        .add_routes(routes);
    let stopping = front.token().clone();
    front.spawn("grpc", OnEnd::Fatal, async move {
        let serving = server.serve_with_incoming_shutdown(incoming, stopping.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::error!(component = "server", error = &error as &dyn std::error::Error, "gRPC ended");
        }
    });
}
