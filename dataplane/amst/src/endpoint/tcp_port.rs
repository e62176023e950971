//! The TCP port beside the UDP port, on the same number: takes lanes over TCP that members of the fleet dial. It opens no sessions.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use foundation_listener::{Place, accept, limit_hits};
use foundation_runtime::{OnEnd, PortHolder, Protocol};
use metrics::counter;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt::{Ipv6V6Only, ReuseAddr, TcpUserTimeout},
};
use proto_model::{PublicKey, config::TcpLane as Policy};
use rustls::CommonState;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::Shared;
use crate::{
    frames::{FEATURES, Hello, TCP_LANES, Welcome},
    lane_thread::LaneThread,
    session::{canonical, read_frame},
    tcp::{self, Parts, Socket, TcpLane},
};

/// How long a handshake and greeting may take: a lane is of use where round trips are short.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that the kernel holds ready.
const BACKLOG: i32 = 128;

/// How the TCP port beside the UDP port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpPort {
    /// The settings do not want it.
    Off,
    /// It is open.
    Open(SocketAddr),
    /// It could not be opened, and QUIC serves alone.
    Failed(String),
}

/// Whether it is wanted, and how it is.
#[derive(Debug)]
pub(crate) struct PortState {
    wanted: watch::Sender<bool>,
    now: watch::Sender<TcpPort>,
}

impl PortState {
    pub(super) fn new(policy: Policy) -> Self {
        Self { wanted: watch::Sender::new(policy != Policy::Off), now: watch::Sender::new(TcpPort::Off) }
    }

    pub(super) fn want(&self, policy: Policy) {
        self.wanted
            .send_if_modified(|wanted| std::mem::replace(wanted, policy != Policy::Off) != (policy != Policy::Off));
    }

    pub(super) fn watch(&self) -> watch::Receiver<TcpPort> {
        self.now.subscribe()
    }

    fn set(&self, now: TcpPort) {
        self.now.send_replace(now);
    }
}

/// Opens the port where it is wanted; where it cannot be opened that is said once, and QUIC serves alone.
pub(super) fn open(shared: &Shared, address: SocketAddr) -> Option<TcpListener> {
    if !*shared.tcp_port.wanted.borrow() {
        shared.tcp_port.set(TcpPort::Off);
        return None;
    }
    match listener(address).and_then(TcpListener::from_std) {
        Ok(listener) => {
            tracing::info!(%address, "AMST takes lanes over TCP");
            shared.tcp_port.set(TcpPort::Open(address));
            Some(listener)
        }
        Err(error) => {
            let holder = (error.kind() == io::ErrorKind::AddrInUse)
                .then(|| PortHolder::of(Protocol::Tcp, address.port()))
                .flatten()
                .map_or_else(String::new, |holder| format!(", in use by {holder}"));
            let reason = format!("cannot listen on TCP {address}: {error}{holder}");
            tracing::warn!(reason, "No peer can open a lane over TCP; QUIC serves alone");
            shared.tcp_port.set(TcpPort::Failed(reason));
            None
        }
    }
}

/// As the UDP port is opened: `[::]` takes IPv4 too.
fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use std::os::fd::AsRawFd;
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &!address.ip().is_unspecified())?;
    }
    // Connections of an earlier run may linger.
    setsockopt(&socket, ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    Ok(socket.into())
}

/// Takes lanes until the endpoint ends, while they are wanted.
pub(super) async fn run(shared: Arc<Shared>, address: SocketAddr, mut listener: Option<TcpListener>) {
    let Ok(config) = dataplane_identity::tls::tcp_server_config(&shared.identity) else { return };
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut wanted = shared.tcp_port.wanted.subscribe();
    loop {
        tokio::select! {
            () = async { match &listener {
                Some(listener) => take_all(&shared, listener, &acceptor).await,
                None => std::future::pending().await,
            }} => {}
            changed = wanted.changed() => if changed.is_err() { return },
            () = shared.tasks.cancelled() => return,
        }
        drop(listener.take());
        listener = open(&shared, address);
    }
}

async fn take_all(shared: &Arc<Shared>, listener: &TcpListener, acceptor: &TlsAcceptor) {
    loop {
        let (stream, remote) = accept::next(listener, &shared.gate, "quic over tcp").await;
        if !shared.doorkeeper.lets_in(remote.ip()) {
            continue;
        }
        let place = shared.gate.enter(remote.ip());
        let thread = shared.quietest_thread();
        let taking = take(Arc::clone(shared), stream, acceptor.clone(), place, thread.clone());
        thread.enter(|| shared.tasks.spawn("amst tcp handshake", OnEnd::Expected, taking));
    }
}

async fn take(shared: Arc<Shared>, stream: TcpStream, acceptor: TlsAcceptor, place: Place, thread: LaneThread) {
    let remote = stream.peer_addr().map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), canonical);
    let greeting = tokio::time::timeout(HANDSHAKE_TIMEOUT, greet(&shared, stream, acceptor, remote, thread));
    let refused = match place.cut().run_until_cancelled(greeting).await {
        Some(Ok(Ok(()))) => return,
        Some(Ok(Err(reason))) => reason,
        Some(Err(_elapsed)) => "the handshake took too long".to_owned(),
        None => "another one needed the place".to_owned(),
    };
    counter!("dwcp_amst_refused_connections_total").increment(1);
    tracing::info!(%remote, reason = refused, "Refused a lane over TCP");
}

async fn greet(
    shared: &Arc<Shared>,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    remote: SocketAddr,
    thread: LaneThread,
) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let socket = adopt(stream, shared.limits.idle_timeout).map_err(|error| words(&error))?;
    let traffic = socket.traffic();
    let mut stream = TlsStream::from(acceptor.accept(socket).await.map_err(|error| words(&error))?);
    let peer = peer_of(stream.get_ref().1).ok_or("no node's certificate, or not for this")?;
    let hello = read_frame(&mut stream).await.map_err(|error| words(&error))?;
    let hello = Hello::decode(&hello).map_err(|error| words(&error))?;
    // The roster may have changed since the certificate was judged.
    if !shared.is_member(&peer) {
        return Err("not a member".to_owned());
    }
    shared.doorkeeper.know(remote.ip());
    let session = shared.registry().by_id(&peer, &hello.session).ok_or("it has no such session")?;
    if hello.instance != session.instance() || hello.features & TCP_LANES == 0 || !session.knows_tcp() {
        return Err("it is of another session".to_owned());
    }
    if shared.settings().tcp_lane == Policy::Off || !session.is_peers_tcp_number(hello.lane) {
        return Err("lanes over TCP are not wanted here".to_owned());
    }
    session.crossing_tcp().await;
    let Some(room) = shared.budget.open_lane(peer) else {
        limit_hits::hit("limits.receive_budget");
        return Err("no memory for a further lane".to_owned());
    };
    tcp::grow(&mut stream, &room);
    let parts = Parts { number: hello.lane, dialled: false, remote, thread, room, traffic, now: shared.clock.now() };
    let lane = session.hold_tcp(TcpLane::new(parts)).ok_or("the session has a lane over TCP")?;
    let welcome = Welcome { instance: shared.instance, features: hello.features & FEATURES }.encode();
    let welcomed = async {
        stream.write_all(&welcome).await?;
        stream.flush().await
    };
    if let Err(error) = welcomed.await {
        lane.leave();
        tracing::debug!(%error, "a lane over TCP ended with its greeting");
    }
    let running = tcp::run(session, lane, stream);
    shared.tasks.spawn("amst tcp lane", OnEnd::Expected, running);
    Ok(())
}

/// A connection of this thread, as a lane needs it.
pub(super) fn adopt(stream: TcpStream, patience: Duration) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    setsockopt(&stream, TcpUserTimeout, &u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    // It may have been accepted on another thread.
    TcpStream::from_std(stream.into_std()?).map(Socket::new)
}

/// The key of who is at the other end, from the certificate that was judged in the handshake, where it speaks of lanes.
pub(super) fn peer_of(connection: &CommonState) -> Option<PublicKey> {
    if connection.alpn_protocol() != Some(dataplane_identity::tls::TCP_ALPN) {
        return None;
    }
    dataplane_identity::tls::peer_key(connection.peer_certificates()?.first()?).ok()
}

impl Shared {
    /// The thread that has most time left.
    pub(super) fn quietest_thread(&self) -> LaneThread {
        let mut threads: Vec<&LaneThread> = self.sockets.iter().map(|socket| &socket.thread).collect();
        threads.sort_by(|one, other| one.busy().total_cmp(&other.busy()));
        threads.first().map(|thread| (*thread).clone()).expect("an endpoint has a socket at least")
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_port_that_takes_all_addresses_takes_those_of_both_families() {
        let port = listener("[::]:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap();
        std::net::TcpStream::connect(("127.0.0.1", address.port())).unwrap();
        assert_eq!(listener(address).unwrap_err().raw_os_error(), Some(Errno::EADDRINUSE as i32));
    }
}
