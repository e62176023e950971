//! One UDP port.

mod accept;
mod dial;
mod registry;
mod tcp_dial;
mod tcp_port;
mod upkeep;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dataplane_identity::Identity;
use foundation_listener::Gate;
use foundation_runtime::{Clock, OnEnd, PortHolder, Protocol, TaskGroup};
use proto_model::{ByteCount, PublicKey};
use quinn::Runtime as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Channel, CloseReason, Limits, PastMove, PeerProfile, Session, SettingsError, TransportSettings,
    budget::{Budget, SendBudget},
    doorkeeper::Doorkeeper,
    lane_thread::LaneThread,
    pool::Pool,
    rate::{Limiters, Rates},
    session::Moves,
    steering::{self, SteeredIds},
    telemetry, transport,
};
use dial::Dials;
pub(crate) use dial::{ATTEMPT_TIMEOUT, open_lane};
use registry::Registry;
pub(crate) use tcp_dial::dial as dial_tcp;
use tcp_port::PortState;
pub use tcp_port::TcpPort;

/// Sockets on the port, at most: more threads than that never paid.
const MAX_SOCKETS: usize = 16;

/// The same where nobody set a number.
const MOST_BY_ITSELF: usize = 4;

/// What an endpoint is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address; `[::]` means all addresses, also where the host has no IPv6.
    pub listen: SocketAddr,
    /// Sockets on the port, each with its thread: 0 for half the processors, at most 4
    pub sockets: usize,
    /// Who this node is, and whom it trusts.
    pub identity: Identity,
    /// What can be changed later.
    pub settings: TransportSettings,
    /// What bounds the process.
    pub limits: Limits,
}

/// One UDP port of a node. Clones are the same port.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<IncomingChannel>>,
    local_addr: SocketAddr,
    dials: Dials,
}

/// What all sessions of an endpoint share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) tasks: TaskGroup,
    /// Of this run of the program.
    pub(crate) instance: [u8; 16],
    pub(crate) sockets: Vec<Socket>,
    pub(crate) budget: Budget,
    pub(crate) send_budget: SendBudget,
    pub(crate) pool: Pool,
    pub(crate) doorkeeper: Doorkeeper,
    pub(crate) limiters: Limiters,
    /// Handshakes that are under way.
    pub(crate) gate: Gate,
    pub(crate) retry_from: AtomicUsize,
    /// The TCP port of the same number.
    tcp_port: PortState,
    pub(crate) incoming: mpsc::Sender<IncomingChannel>,
    /// Streams of pieces that are open now.
    pub(crate) sending: AtomicUsize,
    /// The same, in.
    pub(crate) receiving: AtomicUsize,
    settings: ArcSwap<TransportSettings>,
    registry: Mutex<Registry>,
    /// Moves on when a session was added.
    added: watch::Sender<u64>,
    moves: Moves,
    /// Moves on when a profile changed.
    profile_changes: watch::Sender<u64>,
}

/// One socket of the port.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) thread: LaneThread,
}

/// A channel that a peer opened.
#[derive(Debug)]
pub struct IncomingChannel {
    /// The channel, with the peer's key.
    pub channel: Channel,
    /// Where the peer is seen.
    pub remote: SocketAddr,
}

/// How much of a budget is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// The budget.
    pub budget: ByteCount,
    /// Promised to peers, arriving, or held by who reads; or sent, and not acknowledged.
    pub promised: ByteCount,
}

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has it.
    #[error("UDP port {} is in use by {holder}; stop it, or give another --quic-listen", .listen.port())]
    InUse {
        /// Where.
        listen: SocketAddr,
        /// Who, as far as `/proc` tells.
        holder: PortHolder,
    },
    /// The system refuses.
    #[error("cannot open UDP {listen}")]
    Io {
        /// The address.
        listen: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// The settings contradict one another.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The identity cannot be used for TLS.
    #[error("the node's identity cannot be used for TLS")]
    Tls(#[from] rustls::Error),
}

/// Why there is no session with a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The roster does not have the peer.
    #[error("the roster has no member with this key")]
    NotAMember,
    /// It is this node itself.
    #[error("a node does not dial itself")]
    Oneself,
    /// No address is known, and the peer has not dialled.
    #[error("no address of the peer is known")]
    NoAddress,
    /// None of the addresses led to the peer.
    #[error("the peer was not reached: {}", attempts(.0))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// The peer was reached, and refuses this node.
    #[error("the peer refuses this node: {0}")]
    Refused(String),
    /// This node shuts down.
    #[error("this node shuts down")]
    Shutdown,
}

impl DialError {
    /// Whether trying again may help; where this node shuts down, once it is back.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NotAMember | Self::Oneself => false,
            // Who refuses may have an older roster than ours, in which this node does not stand yet.
            Self::NoAddress | Self::Unreachable(_) | Self::Refused(_) | Self::Shutdown => true,
        }
    }
}

fn attempts(attempts: &[(SocketAddr, String)]) -> String {
    attempts.iter().map(|(address, reason)| format!("{address}: {reason}")).collect::<Vec<_>>().join("; ")
}

impl Endpoint {
    /// Opens the port. Its tasks and threads end with `tasks`, after a word to the peers.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(options: Options, clock: Clock, tasks: TaskGroup) -> Result<Self, BindError> {
        options.settings.check()?;
        telemetry::register();
        let tasks = tasks.child("amst");
        let count = options.socket_count();
        let listen = options.listen;
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse {
                listen,
                holder: PortHolder::of(Protocol::Udp, listen.port()).unwrap_or_else(PortHolder::unknown),
            },
            _ => BindError::Io { listen, source },
        };
        let server = transport::server_config(&options.identity, &options.settings, &options.limits)?;
        let mut sockets = Vec::with_capacity(count);
        let threads = CancellationToken::new();
        let stop_threads = threads.clone().drop_guard();
        let opened = steering::open(listen, count).map_err(io)?;
        let local_addr = opened[0].local_addr().map_err(io)?;
        let doorkeeper = Doorkeeper::new(clock.clone(), options.limits.first_packets_per_second);
        for (index, socket) in opened.into_iter().enumerate() {
            let thread = LaneThread::start(index, clock.clone(), threads.clone()).await.map_err(io)?;
            let ids = SteeredIds { index: byte(index), count: byte(count) };
            let config = transport::endpoint_config(&options.identity, ids);
            let runtime = Arc::new(thread.clone());
            let socket = doorkeeper.keep(runtime.wrap_udp_socket(socket).map_err(io)?);
            let server = Some(server.clone());
            let endpoint = thread
                .enter(|| quinn::Endpoint::new_with_abstract_socket(config, server, socket, runtime))
                .map_err(io)?;
            sockets.push(Socket { endpoint, thread });
        }
        let (sender, receiver) = mpsc::channel(options.limits.waiting_channels.max(1));
        let shared = Arc::new(Shared {
            budget: Budget::new(options.limits.receive_budget.bytes()),
            send_budget: SendBudget::new(options.limits.send_budget.bytes()),
            identity: options.identity,
            limits: options.limits,
            limiters: Limiters::new(clock.clone()),
            clock,
            tasks: tasks.clone(),
            instance: rand::random(),
            sockets,
            pool: Pool::default(),
            doorkeeper,
            gate: Gate::new("limits.quic_handshakes", options.limits.handshakes),
            retry_from: AtomicUsize::new(options.limits.retry_from),
            tcp_port: PortState::new(options.settings.tcp_lane),
            incoming: sender,
            sending: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            settings: ArcSwap::from_pointee(options.settings),
            registry: Mutex::default(),
            added: watch::Sender::new(0),
            moves: Moves::default(),
            profile_changes: watch::Sender::new(0),
        });
        for socket in &shared.sockets {
            let accepting = accept::run(Arc::clone(&shared), socket.endpoint.clone(), socket.thread.clone());
            socket.thread.enter(|| tasks.spawn("amst accept", OnEnd::Fatal, accepting));
        }
        let listener = tcp_port::open(&shared, local_addr);
        let taking = tcp_port::run(Arc::clone(&shared), local_addr, listener);
        tasks.spawn("amst tcp accept", OnEnd::Expected, taking);
        let _stops_later = stop_threads.disarm();
        tasks.spawn("amst upkeep", OnEnd::Fatal, upkeep::run(Arc::clone(&shared)));
        tasks.spawn("amst roster watch", OnEnd::Fatal, upkeep::watch_roster(Arc::clone(&shared)));
        tasks.spawn("amst shutdown", OnEnd::Expected, upkeep::end(Arc::clone(&shared), threads));
        tracing::info!(address = %local_addr, sockets = count, "AMST listens");
        let incoming = tokio::sync::Mutex::new(receiver);
        Ok(Self(Arc::new(Inner { shared, incoming, local_addr, dials: Dials::default() })))
    }

    /// The address, with the port that was chosen where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// How the TCP port of the same number is, by which peers may open lanes over TCP, now and from now on.
    #[must_use]
    pub fn tcp_port(&self) -> watch::Receiver<TcpPort> {
        self.0.shared.tcp_port.watch()
    }

    /// The session with a peer: the one there is, or a new one over the first of these addresses that answers. Callers at
    /// the same time share one dialling, and one that the peer dials in between serves as well.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn session(&self, peer: PublicKey, addresses: &[SocketAddr]) -> Result<Session, DialError> {
        // What comes from there is the answer.
        addresses.iter().for_each(|address| self.0.shared.doorkeeper.know(address.ip()));
        dial::session(&self.0.shared, &self.0.dials, peer, addresses).await
    }

    /// The session with a peer, if there is one.
    #[must_use]
    pub fn present_session(&self, peer: &PublicKey) -> Option<Session> {
        self.0.shared.session_with(peer)
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.0.shared.all_sessions()
    }

    /// The next channel that a peer opened; `None` when the endpoint has shut down. Cancel safe. At most
    /// [`Limits::waiting_channels`] wait here; a peer that opens one more is told that this node is busy.
    pub async fn next_channel(&self) -> Option<IncomingChannel> {
        let mut incoming = self.0.incoming.lock().await;
        tokio::select! {
            channel = incoming.recv() => channel,
            () = self.0.shared.tasks.cancelled() => None,
        }
    }

    /// Changes the settings, live: streams in all sessions, lanes in those that are dialled from now on.
    ///
    /// # Errors
    /// The settings contradict one another; the old ones stay.
    pub fn retune(&self, settings: TransportSettings) -> Result<(), SettingsError> {
        settings.check()?;
        let shared = &self.0.shared;
        if *shared.settings() == settings {
            return Ok(());
        }
        match transport::server_config(&shared.identity, &settings, &shared.limits) {
            Ok(server) => {
                shared.sockets.iter().for_each(|socket| socket.endpoint.set_server_config(Some(server.clone())));
            }
            // It worked at the start; those who dial us get the old settings.
            Err(reason) => tracing::warn!(%reason, "Changed settings do not reach sessions that peers dial"),
        }
        shared.tcp_port.want(settings.tcp_lane);
        shared.settings.store(Arc::new(settings));
        shared.all_sessions().iter().for_each(Session::retune);
        telemetry::gauges(shared);
        Ok(())
    }

    /// Changes how many handshakes may be under way, and from how many on diallers are asked to try again, live.
    pub fn limit_handshakes(&self, at_once: usize, retry_from: usize) {
        self.0.shared.gate.set_strangers(at_once);
        self.0.shared.retry_from.store(retry_from, Ordering::Relaxed);
    }

    /// Bounds what is sent in a second, live.
    pub fn set_rates(&self, rates: &Rates) {
        self.0.shared.limiters.set(rates);
    }

    /// How streams and lanes of all sessions changed, also of those that are over: the last [`crate::MOVES`], the last first.
    #[must_use]
    pub fn moves(&self) -> Vec<PastMove> {
        self.0.shared.moves.past()
    }

    /// What is remembered of peers, to be kept beyond the end of this program; what changed last first.
    #[must_use]
    pub fn profiles(&self) -> Vec<PeerProfile> {
        self.0.shared.registry().profiles.all()
    }

    /// Moves on when a profile changed.
    #[must_use]
    pub fn profile_changes(&self) -> watch::Receiver<u64> {
        self.0.shared.profile_changes.subscribe()
    }

    /// Takes what was kept of peers, in the order of [`Self::profiles`]; what is no member's is left out.
    pub fn recall(&self, profiles: &[PeerProfile]) {
        let shared = &self.0.shared;
        let mut registry = shared.registry();
        let known = profiles.iter().rev().filter(|profile| shared.is_member(&profile.peer));
        known.for_each(|profile| _ = registry.profiles.remember(*profile));
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> TransportSettings {
        (*self.0.shared.settings()).clone()
    }

    /// How much of the receive budget is used.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        let budget = &self.0.shared.budget;
        MemoryUse { budget: ByteCount::new(budget.bytes()), promised: ByteCount::new(budget.promised()) }
    }

    /// How much of the send budget is used.
    #[must_use]
    pub fn send_memory(&self) -> MemoryUse {
        let budget = &self.0.shared.send_budget;
        MemoryUse { budget: ByteCount::new(budget.bytes()), promised: ByteCount::new(budget.used()) }
    }

    /// Closes all sessions with a word to their peers, and waits for that up to `grace`. The port is free when the last handle
    /// of the endpoint and its sessions is dropped.
    ///
    /// # Errors
    /// Names the tasks that had to be aborted.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), foundation_runtime::Unfinished> {
        self.0.shared.tasks.shutdown(grace).await
    }
}

impl Options {
    fn socket_count(&self) -> usize {
        let wanted = if self.sockets == 0 {
            std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).min(MOST_BY_ITSELF))
        } else {
            self.sockets
        };
        wanted.clamp(1, MAX_SOCKETS)
    }
}

fn byte(small: usize) -> u8 {
    u8::try_from(small).expect("there are at most 16 sockets")
}

impl Shared {
    pub(crate) fn settings(&self) -> Arc<TransportSettings> {
        self.settings.load_full()
    }

    pub(crate) fn is_member(&self, peer: &PublicKey) -> bool {
        self.identity.membership().by_key(peer).is_some()
    }

    /// The session to use with a peer.
    pub(crate) fn session_with(&self, peer: &PublicKey) -> Option<Session> {
        self.registry().preferred(peer)
    }

    pub(crate) fn all_sessions(&self) -> Vec<Session> {
        self.registry().all()
    }

    /// Whether at least one known peer can be reached, by the last that was heard.
    pub(crate) fn reaches_somebody(&self) -> bool {
        self.registry().reaches_somebody()
    }

    pub(crate) fn unreachable(&self, peer: &PublicKey) {
        self.registry().unreachable(peer);
    }

    /// Takes up a session that was greeted in both directions. One of an earlier run of the peer is closed.
    pub(crate) fn add(&self, session: &Session) -> Result<(), registry::Full> {
        let most = self.limits.sessions_per_peer;
        let outdated = self.registry().add(session, self.identity.public_key(), most)?;
        for old in outdated {
            old.close(CloseReason::PeerRestarted);
        }
        self.added.send_modify(|count| *count += 1);
        telemetry::gauges(self);
        Ok(())
    }

    pub(crate) fn forget(&self, session: &Session) {
        self.registry().remove(session);
        telemetry::gauges(self);
    }

    /// Moves on when a session was added.
    pub(crate) fn additions(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }

    pub(crate) fn remember(&self, profile: PeerProfile) {
        if self.registry().profiles.remember(profile) {
            self.profile_changes.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn moves(&self) -> &Moves {
        &self.moves
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
