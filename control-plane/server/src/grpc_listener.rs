//! The gRPC port and `admin.sock`: accepting, the TLS handshake, and who is at the other end.
//!
//! Each handshake is a task of its own with a deadline, so that one who stalls holds up nobody. Connections that stand are handed to tonic
//! through one short queue; how many there are in all is bounded by a permit each.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use control_plane_api::auth::{ConnectInfo, Remote};
use control_plane_pki::node_uid_of;
use foundation_runtime::{LocalSocket, OnEnd, TaskGroup};
use metrics::{counter, gauge};
use nix::unistd::Uid;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::{
    connections::{Entry, NodeConnections},
    guarded::{FIRST_BYTES_TIMEOUT, Guarded},
};

/// Connections at the same time: a fleet of 10,000 agents, as many again that are just reconnecting, and operators. Some 60 KB each.
pub(crate) const MAX_CONNECTIONS: usize = 20_000;

/// Connections through `admin.sock`, apart from the others so that these cannot shut the administrator out.
const MAX_LOCAL_CONNECTIONS: usize = 64;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The preface of HTTP/2, which every gRPC client sends at once.
const PREFACE_BYTES: usize = 24;

/// Connections that stand and tonic has not taken yet.
const ACCEPTED_QUEUE: usize = 128;

/// Pause after an accept that failed for want of something (open files), so that the loop does not spin.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// A connection that stands.
#[derive(Debug)]
pub(crate) struct Connection {
    io: Guarded<Io>,
    info: ConnectInfo,
    _permit: OwnedSemaphorePermit,
    _entry: Option<Entry>,
}

#[derive(Debug)]
enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Local(UnixStream),
}

/// Accepts on the port and the socket.
#[derive(Debug)]
pub(crate) struct GrpcListener {
    /// Cutting it cuts every connection.
    pub(crate) cut: CancellationToken,
    /// The nodes among them.
    pub(crate) nodes: NodeConnections,
    tasks: TaskGroup,
    accepted: mpsc::Sender<io::Result<Connection>>,
}

impl GrpcListener {
    /// A listener that hands its connections to the receiver.
    pub(crate) fn new(tasks: &TaskGroup, nodes: NodeConnections) -> (Self, mpsc::Receiver<io::Result<Connection>>) {
        let (accepted, connections) = mpsc::channel(ACCEPTED_QUEUE);
        let listener = Self { cut: CancellationToken::new(), nodes, tasks: tasks.child("grpc-listener"), accepted };
        (listener, connections)
    }

    /// Accepts on the port until the tasks are to end.
    pub(crate) fn accept_tls(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        let shared = self.shared(MAX_CONNECTIONS);
        let token = self.tasks.token().clone();
        self.tasks.spawn("accept-grpc", OnEnd::Fatal, async move {
            let accepting = shared.accept_tls(&listener, &acceptor);
            token.run_until_cancelled(accepting).await;
        });
    }

    /// Accepts on the socket until the tasks are to end; its file goes then.
    pub(crate) fn accept_local(&self, listener: UnixListener, file: LocalSocket) {
        let shared = self.shared(MAX_LOCAL_CONNECTIONS);
        let token = self.tasks.token().clone();
        self.tasks.spawn("accept-admin", OnEnd::Fatal, async move {
            token.run_until_cancelled(shared.accept_local(&listener)).await;
            drop(file);
        });
    }

    fn shared(&self, connections: usize) -> Shared {
        Shared {
            cut: self.cut.clone(),
            nodes: self.nodes.clone(),
            tasks: self.tasks.clone(),
            accepted: self.accepted.clone(),
            permits: Arc::new(Semaphore::new(connections)),
        }
    }
}

/// What each accepting task has.
#[derive(Clone)]
struct Shared {
    cut: CancellationToken,
    nodes: NodeConnections,
    tasks: TaskGroup,
    accepted: mpsc::Sender<io::Result<Connection>>,
    permits: Arc<Semaphore>,
}

impl Shared {
    async fn accept_tls(&self, listener: &TcpListener, acceptor: &TlsAcceptor) {
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let (shared, acceptor) = (self.clone(), acceptor.clone());
                    let token = self.tasks.token().clone();
                    self.tasks.spawn("tls-handshake", OnEnd::Expected, async move {
                        token.run_until_cancelled(shared.shake_hands(stream, remote, &acceptor, permit)).await;
                    });
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        acceptor: &TlsAcceptor,
        permit: OwnedSemaphorePermit,
    ) {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(component = "server", %remote, %error, "The connection is gone already");
            return;
        }
        // A refused handshake looks like a time-out to grpcurl: this line is where its reason can be found.
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                counter!("dwcp_tls_handshake_failures_total").increment(1);
                tracing::info!(component = "server", %remote, reason = %error, "A TLS handshake was refused");
                return;
            }
            Err(_elapsed) => {
                counter!("dwcp_tls_handshake_failures_total").increment(1);
                tracing::info!(component = "server", %remote, "A TLS handshake took too long");
                return;
            }
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(|certificate| certificate.to_vec());
        let cut = self.cut.child_token();
        let uid = certificate.as_deref().and_then(|der| node_uid_of(der).ok());
        let entry = uid.map(|uid| self.nodes.enter(uid, cut.clone()));
        let info = ConnectInfo {
            remote: Remote::Tcp(remote),
            peer_certificate: certificate.map(Arc::from),
            peer_uid: None,
            cut,
        };
        self.hand_over(Io::Tls(Box::new(stream)), info, permit, entry).await;
    }

    async fn accept_local(&self, listener: &UnixListener) {
        let own = Uid::effective().as_raw();
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            match listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
                Ok((uid, stream)) if uid == 0 || uid == own => {
                    let info = ConnectInfo {
                        remote: Remote::Unix,
                        peer_certificate: None,
                        peer_uid: Some(uid),
                        cut: self.cut.child_token(),
                    };
                    self.hand_over(Io::Local(stream), info, permit, None).await;
                }
                Ok((uid, _)) => tracing::info!(component = "server", uid, "A user was refused on admin.sock"),
                Err(error) => pause_after(&error).await,
            }
        }
    }

    async fn hand_over(&self, io: Io, info: ConnectInfo, permit: OwnedSemaphorePermit, entry: Option<Entry>) {
        let io = Guarded::new(io, info.cut.clone(), PREFACE_BYTES, FIRST_BYTES_TIMEOUT);
        gauge!("dwcp_grpc_connections").increment(1);
        // Refused only when the server has ended; dropping the connection then closes it.
        drop(self.accepted.send(Ok(Connection { io, info, _permit: permit, _entry: entry })).await);
    }
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(component = "server", %error, "A connection could not be accepted");
    tokio::time::sleep(AFTER_ERROR).await;
}

impl Connected for Connection {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!("dwcp_grpc_connections").decrement(1);
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buf),
            Self::Local(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(context, buf),
            Self::Local(stream) => Pin::new(stream).poll_write(context, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Local(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
