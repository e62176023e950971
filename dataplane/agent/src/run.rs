//! `dwcp-agent run`: puts the parts together, keeps them, and takes them apart again.
//!
//! Order of a start: data directory and its lock, configuration, telemetry, listeners, local store, and, where the host has
//! joined, everything a member runs. `ready.json` is written last. A stop takes at most 25 s.

use std::{
    env,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use dataplane_control_client::{Enrolment, Introduction, enrolment::EnrolmentError};
use dataplane_hde::Meter;
use dataplane_identity::{Identity, IdentityError, NodeKey, NodeKeyError};
use dataplane_local_store::LocalStore;
use foundation_listener::Gate;
use foundation_runtime::{
    Clock, DirLock, DirLockError, Hangups, OnEnd, PortsError, RememberedPorts, TaskGroup, durable, service_manager,
};
use foundation_telemetry::{Format, InitError, Options as TelemetryOptions, Telemetry};
use proto_model::config::{AgentConfig, Diagnostic, LogFormat};
use tokio::sync::{mpsc, watch};

use crate::{
    apply::{Applier, count},
    command::RunArgs,
    configuration::Configuration,
    content,
    data_dir::{self, DataDirError},
    health::{Component, Health},
    host_health,
    http::{self, Access},
    keeper::Keeper,
    layers::{self, LayersError},
    listen::{ListenError, listen},
    local::{self, Local},
    member::{Context, Member, MemberError},
    metrics,
    metrics_port::MetricsPort,
    ready::{Ready, ReadyFile},
    service_status,
    supervisor::Supervisor,
    view::AgentView,
};

/// How long a start waits for a predecessor on the same directory (D29).
const WAIT_FOR_PREDECESSOR: Duration = Duration::from_secs(30);
/// How long the parts may take to end; with what follows it stays below 25 s.
const GRACE: Duration = Duration::from_secs(18);
/// How often an agent that has not joined looks whether it has.
const JOIN_INTERVAL: Duration = Duration::from_millis(500);
/// How often rows that ran out are removed from the local store.
const CLEAN_INTERVAL: Duration = Duration::from_secs(60);

/// Why the agent does not run; what it displays is for people, a line each.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Somebody else's.
    #[error(transparent)]
    Lock(#[from] DirLockError),
    /// The host's own layers cannot be read.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// The host's own layers are wrong.
    #[error("{}", layers::lines(.0))]
    Configuration(Vec<Diagnostic>),
    /// A part refuses the configuration.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// Logs and metrics.
    #[error(transparent)]
    Telemetry(#[from] InitError),
    /// The node's key.
    #[error(transparent)]
    Key(#[from] NodeKeyError),
    /// The node's certificate, or what it trusts.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A part of what `join` wrote is gone.
    #[error("{0}")]
    Incomplete(String),
    /// The node's place in the fleet.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    /// A TCP port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The ports that were chosen before.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A part of a member.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// A file.
    #[error("cannot use {path}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part that the agent cannot be without ended.
    #[error("the part `{0}` ended; the log says why")]
    Failed(&'static str),
}

/// Runs until `stop` resolves. Sets up the process's telemetry, so only one runs in a process.
///
/// # Errors
/// The agent does not come to serve, or a part that it cannot be without ended.
pub async fn run(args: RunArgs, clock: Clock, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let dir = data_dir::prepare(args.data_dir.clone())?;
    data_dir::check_owner(&dir)?;
    let lock = lock(&dir, &clock).await?;
    durable::sweep(&dir).map_err(|source| RunError::Io { path: dir.clone(), source })?;
    let host = layers::read(&args)?;
    let configuration = Configuration::restore(&dir, host).map_err(RunError::Configuration)?;
    let telemetry = set_up_telemetry(&configuration, &dir)?;
    let tasks = TaskGroup::new("agent");
    let starting = Box::pin(start(args, dir, configuration, &telemetry, clock, &tasks));
    let ended = Box::pin(serve(starting, &tasks, stop)).await;
    if let Err(unfinished) = tasks.shutdown(GRACE).await {
        tracing::warn!(%unfinished, "Parts did not end in time");
    }
    if ended.is_ok() {
        tracing::info!("The agent has stopped");
    }
    telemetry.shutdown().await;
    drop(lock);
    ended
}

async fn lock(dir: &Path, clock: &Clock) -> Result<DirLock, RunError> {
    let (dir, clock) = (dir.to_path_buf(), clock.clone());
    let waiting = TaskGroup::new("lock").blocking("wait for a predecessor", {
        let dir = dir.clone();
        move || {
            DirLock::acquire(&dir, WAIT_FOR_PREDECESSOR, &clock, |holder| {
                // There is no telemetry yet: its options lie in the directory.
                let (dir, seconds) = (dir.display(), WAIT_FOR_PREDECESSOR.as_secs());
                eprintln!("dwcp-agent: {dir} is in use by process {holder}; waiting up to {seconds} s for it to stop");
                service_manager::status("Waiting for a predecessor to stop");
            })
        }
    });
    match waiting.await {
        Ok(held) => Ok(held?),
        Err(_cancelled) => Err(RunError::Io { path: dir, source: io::Error::from(io::ErrorKind::Interrupted) }),
    }
}

/// `RUST_LOG` stands over the configuration's level.
fn rust_log() -> Option<String> {
    env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty())
}

fn otlp_endpoint() -> Option<String> {
    env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|text| !text.trim().is_empty())
}

fn set_up_telemetry(configuration: &Configuration, dir: &Path) -> Result<Telemetry, RunError> {
    let config = &configuration.in_force().effective.config;
    let options = telemetry_options(config, dir);
    let telemetry = match (
        rust_log(),
        foundation_telemetry::init(TelemetryOptions {
            level: rust_log().unwrap_or_else(|| options.level.clone()),
            ..options.clone()
        }),
    ) {
        // What other programs understand by it need not be understood here.
        (Some(_), Err(InitError::Level(_))) => foundation_telemetry::init(options)?,
        (_, initialised) => initialised?,
    };
    metrics::describe(crate::VERSION);
    content::describe();
    for sentence in configuration.damaged() {
        tracing::warn!(component = "configuration", "{sentence}");
    }
    for warning in &configuration.in_force().effective.warnings {
        tracing::warn!(component = "configuration", "{warning}");
    }
    Ok(telemetry)
}

fn telemetry_options(config: &AgentConfig, dir: &Path) -> TelemetryOptions {
    let instance = Enrolment::load(dir).ok().flatten().map(|enrolment| enrolment.uid.to_string()).unwrap_or_default();
    let endpoint = config.monitoring.tracing_endpoint.clone().or_else(otlp_endpoint);
    TelemetryOptions {
        instance,
        format: match config.logging.format {
            LogFormat::Auto => Format::Auto,
            LogFormat::Human => Format::Human,
            LogFormat::Json => Format::Json,
        },
        level: config.monitoring.log_level.as_str().to_owned(),
        file: config.logging.file.clone(),
        otlp_endpoint: endpoint.filter(|_| config.monitoring.enable_tracing),
        sample_rate: config.monitoring.tracing_sample_rate,
        ..TelemetryOptions::new("dwcp-agent", crate::VERSION)
    }
}

/// Starts, serves, and tells the member to end. A wish to stop is heard from the first moment on.
async fn serve(
    start: impl Future<Output = Result<Serving, RunError>>,
    tasks: &TaskGroup,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let mut stop = pin!(stop);
    let serving = tokio::select! {
        serving = start => serving?,
        () = &mut stop => return Ok(()),
    };
    let ended = tokio::select! {
        () = stop => Ok(()),
        part = tasks.failed() => Err(RunError::Failed(part)),
    };
    service_manager::stopping();
    tracing::info!("The agent is stopping");
    let last = serving.member.borrow().clone();
    if let Some(member) = last {
        tasks.cancel();
        member.stop().await;
    }
    ended
}

/// An agent that serves.
struct Serving {
    /// The member, once there is one.
    member: watch::Receiver<Option<Arc<Member>>>,
    /// Who watches the member must not see it closed; an agent that has not joined gave it to the part that waits for that.
    _sender: Option<watch::Sender<Option<Arc<Member>>>>,
}

async fn start(
    args: RunArgs,
    dir: PathBuf,
    configuration: Configuration,
    telemetry: &Telemetry,
    clock: Clock,
    tasks: &TaskGroup,
) -> Result<Serving, RunError> {
    let ready_file =
        ReadyFile::begin(&dir).map_err(|source| RunError::Io { path: dir.join(crate::ready::FILE), source })?;
    let key = NodeKey::load_or_create(&dir)?;
    let health = Health::default();
    let view_health = health.clone();
    let store = open_store(&dir, &clock, &health, tasks).await;
    let (effective_sender, effective) = watch::channel(Arc::clone(&configuration.in_force().effective));
    let content = content::open(&dir, store.clone(), effective.clone(), &health, &clock, tasks).await;
    let (in_force_sender, in_force) = watch::channel(configuration.in_force().clone());
    let (member_sender, member) = watch::channel(None);
    let meter = Meter::new(clock.clone());
    foundation_listener::raise_open_files();
    let access = Access::default();
    let view = Arc::new(AgentView {
        node_id: key.node_id(),
        started: clock.now(),
        clock: clock.clone(),
        health: health.clone(),
        in_force: in_force.clone(),
        member: member.clone(),
        store: store.clone(),
        meter: meter.clone(),
        content: content.clone(),
        telemetry: telemetry.clone(),
        access: access.clone(),
    });
    let config = &configuration.in_force().effective.config;
    let (http_listen, limits) = (config.network.http_listen, config.limits);
    let mut ports = RememberedPorts::load(&dir)?;
    let (http_listener, http) = listen("http", "--http-listen", http_listen, &mut ports).await?;
    let router = http::router(Arc::clone(&view) as Arc<dyn http::View>, clock.clone());
    let gate = Gate::new("limits.http_connections", count(limits.http_connections));
    let http_port = http::port("http", router, gate.clone(), access.clone());
    tasks.spawn("http", OnEnd::Fatal, http_port.serve(http_listener, tasks.clone()));

    let applier = Applier {
        telemetry: telemetry.clone(),
        rust_log: rust_log(),
        otlp_endpoint: otlp_endpoint(),
        health: health.clone(),
        metrics_port: MetricsPort::new(dir.clone(), http, health.clone(), clock.clone(), tasks.clone()),
        view,
        gate,
        access,
        member: member.clone(),
        present: Mutex::default(),
    };
    applier.apply(&configuration.in_force().effective).await.map_err(RunError::Refused)?;
    let metrics_at = applier.metrics_port.watch();
    let introduction = watch::Sender::new(Introduction {
        host_layer: configuration.host().report.clone(),
        host_layer_origin: configuration.host().origin.clone(),
        ..Introduction::default()
    });
    host_health::say_root();
    host_health::follow(dir.clone(), effective.clone(), telemetry, &health, tasks);
    serve_local(&dir, &args, &key, &member, &in_force, &health, &clock, tasks);
    let context = Context {
        dir: dir.clone(),
        effective,
        introduction: introduction.clone(),
        store,
        baselines: content.baselines,
        no_bootstrap: layers::no_bootstrap(&args),
        health: health.clone(),
        meter,
        clock,
        tasks: tasks.clone(),
    };
    let (reload_bell, reload) = mpsc::channel(1);
    let keeper = Keeper {
        configuration,
        applier,
        args,
        effective: effective_sender,
        in_force: in_force_sender,
        introduction,
        member: member.clone(),
        reload,
        telemetry: telemetry.clone(),
        health,
        tasks: tasks.clone(),
    };
    let joined = joined(&dir)?;
    let sender = if let Some((identity, enrolment)) = joined {
        member_sender.send_replace(Some(Member::start(&context, identity, enrolment).await?));
        Some(member_sender)
    } else {
        tracing::info!("This host has not joined a fleet yet; `dwcp-agent join` may be run at any time");
        wait_for_join(context, member_sender, tasks);
        None
    };
    tasks.spawn("configuration", OnEnd::Fatal, Box::pin(keeper.run()));
    follow_hangups(reload_bell, tasks);
    let place = Place { node_id: key.node_id().to_string(), http, metrics: metrics_at, member: member.clone(), dir };
    place.keep(ready_file, tasks)?;
    tracing::info!(%http, node_id = %key.node_id(), "Successfully initialized: the agent serves");
    service_status::follow(&view_health, member.clone(), tasks);
    Ok(Serving { member, _sender: sender })
}

/// The parts of a member, where the host has joined.
fn joined(dir: &Path) -> Result<Option<(Identity, Enrolment)>, RunError> {
    // Written last by `join`: without it the rest may be half there.
    let Some(enrolment) = Enrolment::load(dir)? else { return Ok(None) };
    let identity = Identity::open(dir)?.ok_or_else(|| RunError::Incomplete(lost(dir)))?;
    Ok(Some((identity, enrolment)))
}

/// What to say of a host that has joined and lost a part of what makes it a member.
pub(crate) fn lost(dir: &Path) -> String {
    let file = ["node.crt", "trust.bin"].iter().map(|name| dir.join(name)).find(|path| !path.exists());
    format!(
        "{} is missing, though this host has joined; restore it from a backup, or remove node.json and join anew with a token made \
         for this node",
        file.unwrap_or_else(|| dir.to_path_buf()).display()
    )
}

fn wait_for_join(context: Context, member: watch::Sender<Option<Arc<Member>>>, tasks: &TaskGroup) {
    let supervisor = Supervisor { tasks: tasks.clone(), health: context.health.clone(), clock: context.clock.clone() };
    let member = Arc::new(member);
    supervisor.keep("wait for a join", Component::AmstTransport, move || {
        let (context, member) = (context.clone(), Arc::clone(&member));
        async move {
            let (identity, enrolment) = loop {
                match joined(&context.dir) {
                    Ok(Some(found)) => break found,
                    Ok(None) => tokio::time::sleep(JOIN_INTERVAL).await,
                    Err(error) => return Err(crate::apply::chain(&error)),
                }
            };
            tracing::info!(name = %enrolment.name, "This host has joined a fleet");
            let started = Box::pin(Member::start(&context, identity, enrolment)).await;
            member.send_replace(Some(started.map_err(|error| crate::apply::chain(&error))?));
            // The sender lives on with this part: who watches must not see it closed.
            context.tasks.cancelled().await;
            Ok(())
        }
    });
}

async fn open_store(dir: &Path, clock: &Clock, health: &Health, tasks: &TaskGroup) -> Option<LocalStore> {
    match LocalStore::open(dir, clock.clone(), tasks).await {
        Ok(store) => {
            health.healthy(Component::LocalStore);
            clean(store.clone(), health.clone(), tasks);
            Some(store)
        }
        Err(error) => {
            // It holds nothing that cannot be rebuilt (D31).
            let why = crate::apply::chain(&error);
            tracing::warn!(
                component = "local_store",
                why,
                "The local store cannot be opened; the agent works without it"
            );
            health.unhealthy(Component::LocalStore, why);
            None
        }
    }
}

fn clean(store: LocalStore, health: Health, tasks: &TaskGroup) {
    let group = tasks.clone();
    tasks.spawn("clean the local store", OnEnd::Expected, async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(CLEAN_INTERVAL) => {}
                () = group.cancelled() => return store.close().await,
            }
            match store.clean().await {
                Ok(_cleaned) => health.healthy(Component::LocalStore),
                Err(error) => health.degraded(Component::LocalStore, crate::apply::chain(&error)),
            }
        }
    });
}

#[allow(clippy::too_many_arguments, reason = "called once, with what was just made")]
fn serve_local(
    dir: &Path,
    args: &RunArgs,
    key: &NodeKey,
    member: &watch::Receiver<Option<Arc<Member>>>,
    in_force: &watch::Receiver<crate::configuration::InForce>,
    health: &Health,
    clock: &Clock,
    tasks: &TaskGroup,
) {
    let connections = count(in_force.borrow().effective.config.limits.local_connections);
    let local = Local {
        node_id: key.node_id(),
        member: member.clone(),
        in_force: in_force.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        grouped: args.socket_group.is_some(),
        health: health.clone(),
    };
    let (dir, group, health) = (dir.to_path_buf(), args.socket_group.clone(), health.clone());
    let supervisor = Supervisor { tasks: tasks.clone(), health: health.clone(), clock: clock.clone() };
    supervisor.keep("agent.sock", Component::LocalApi, move || {
        let health = health.clone();
        local::serve(local.clone(), dir.clone(), group.clone(), connections, move || {
            health.healthy(Component::LocalApi)
        })
    });
}

fn follow_hangups(bell: mpsc::Sender<()>, tasks: &TaskGroup) {
    let group = tasks.clone();
    tasks.spawn("hang-ups", OnEnd::Expected, async move {
        match Hangups::listen() {
            Ok(mut hangups) => loop {
                tokio::select! {
                    () = hangups.next() => {}
                    () = group.cancelled() => return,
                }
                // One that waits already will read everything anew.
                let _rung = bell.try_send(());
            },
            Err(error) => {
                tracing::warn!(%error, "SIGHUP cannot be listened to");
                // Who waits for the bell would take its end for that of the agent.
                group.cancelled().await;
            }
        }
    });
}

/// What `ready.json` says, as it changes.
struct Place {
    dir: PathBuf,
    node_id: String,
    http: std::net::SocketAddr,
    metrics: watch::Receiver<std::net::SocketAddr>,
    member: watch::Receiver<Option<Arc<Member>>>,
}

impl Place {
    fn ready(&mut self) -> Ready {
        let member = self.member.borrow_and_update().clone();
        let name = member.as_ref().and_then(|member| member.control.connection().borrow().name.clone());
        Ready {
            node_id: self.node_id.clone(),
            name: name.map(String::from).unwrap_or_default(),
            quic: member.as_ref().map(|member| member.endpoint.local_addr()),
            dht: member.as_ref().and_then(|member| member.discovery.listen).map(Into::into),
            http: self.http,
            metrics: *self.metrics.borrow_and_update(),
            pid: std::process::id(),
        }
    }

    /// Writes the file, and again whenever something of it changes.
    fn keep(mut self, file: ReadyFile, tasks: &TaskGroup) -> Result<(), RunError> {
        let path = self.dir.join(crate::ready::FILE);
        file.write(&self.ready()).map_err(|source| RunError::Io { path, source })?;
        let group = tasks.clone();
        tasks.spawn("ready.json", OnEnd::Expected, async move {
            loop {
                tokio::select! {
                    changed = self.member.changed() => if changed.is_err() { break },
                    changed = self.metrics.changed() => if changed.is_err() { break },
                    () = group.cancelled() => break,
                }
                if let Err(error) = file.write(&self.ready()) {
                    tracing::warn!(%error, "Cannot write ready.json");
                }
            }
            group.cancelled().await;
            drop(file);
        });
        Ok(())
    }
}
